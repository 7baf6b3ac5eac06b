"""Tasks scored by what is written, on two CPU processes (gloo): every row once, and the scores of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import corpus

from hf_mtl import (
    MultiTaskModel,
    MultiTaskPipeline,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    Summarization,
    Text2TextGeneration,
    Translation,
)

WORKER = Path(__file__).with_name("distributed_writing_worker.py")
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "127.0.0.1:0"]  # fmt: skip
FIELDS = {"max_target_length": 12}
TASKS = [
    Translation(name="bleu", **FIELDS),
    Summarization(name="rouge", generation={"num_beams": 2}, **FIELDS),
    Text2TextGeneration(name="exact", generation={"num_beams": 3, "num_return_sequences": 2}, **FIELDS),
]


METRICS = {
    "bleu": ["bleu", "chrf"],
    "rouge": ["rouge1", "rouge2", "rougeL", "rougeLsum"],
    "exact": ["exact_match", "chrf"],
}


def launch(launcher: list[str], folder: Path) -> dict[str, Any]:
    """Runs the worker and gives what rank 0 wrote."""
    out = folder / "out.pt"
    command = [sys.executable, *launcher, str(WORKER), str(folder), str(out)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert out.exists(), done.stderr[-3000:]
    return torch.load(out)


def test_two_processes_write_every_row_once_and_score_as_one(tiny_backbone: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapters = LoraConfig(r=4, target_modules="all-linear", lora_alpha=8)
    model = MultiTaskModel.from_backbone(tiny_backbone("t5"), TASKS, adapters=adapters)
    for parameter in model.parameters():  # what a model drawn small writes is the same for every text
        parameter.data = torch.randn(parameter.shape) * 0.5
    model.save_pretrained(tmp_path / "model")
    # Rows of all lengths, no multiple of processes and batch; the model itself says most of the right answers.
    texts = sorted(corpus()[::40], key=len)[:11]
    rows: dict[str, list[dict[str, str]]] = {}
    for task in TASKS:
        answers = MultiTaskPipeline(model, tasks=[task.name])(texts)
        written = task._texts([answer[task.name] for answer in answers])
        assert len(set(written)) > 5
        rows[task.name] = [
            {"text": text, "target": target if i % 4 else text}
            for i, (text, target) in enumerate(zip(texts, written, strict=True))
        ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path / "one"),
        use_cpu=True,
        per_device_eval_batch_size=2,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = MultiTaskTrainer(MultiTaskModel.from_pretrained(tmp_path / "model"), args, eval_dataset=rows)
    one = trainer.evaluate()
    assert one["eval_exact_exact_match"] == pytest.approx(8 / 11)
    assert 0.3 < one["eval_bleu_bleu"] < 1 and 0.3 < one["eval_rouge_rougeL"] < 1
    two = launch(TORCHRUN, tmp_path)
    assert two["world"] == 2
    scores = [f"eval_{task.name}_{metric}" for task in TASKS for metric in METRICS[task.name]]
    for name in (*scores, "eval_mean_score"):
        assert two["metrics"][name] == one[name], name
    assert two["predictions"] == trainer.predict(rows).predictions
    assert {name: len(found) for name, found in two["predictions"].items()} == dict.fromkeys(rows, 11)
