"""Training with gradient balancing against plain training, and against torchjd's own `mtl_backward`.

    python benchmarks/balancing.py [STEPS] [ROUNDS] [METHOD ...]

Three tasks of three kinds (the quickstart's data) on all-MiniLM-L6-v2, a micro-batch of 16 rows of each in an optimizer
step, full fine-tuning and adapters. All sides are the same trainer on the same batches, reading, clipping and logging
as always; they take turns, and printed is the median over rounds of a side's time over plain training's. The goal for a
gradient method is at most 1.10. `torchjd` keeps the graphs of the three micro-batches and differentiates them together,
as its documentation shows, by UPGrad; of its two ways, all rows at once and row by row, that which is given.
"""

import logging
import statistics
import sys
import tempfile
import warnings
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig
from torchjd.aggregation import UPGrad
from torchjd.autojac import jac_to_grad, mtl_backward
from training_step import BACKBONE, BATCH, DATA, KINDS, RANK, trainer_seconds

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments

METHODS = ["famo", "pcgrad", "upgrad", "nash-mtl", "graddrop"]


class TorchJD(MultiTaskTrainer):
    """The step as torchjd's documentation has it."""

    at_once: int | None = None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        name = list(model.tasks)[int(inputs["task_ids"][0])]
        mask = inputs["attention_mask"]
        states = model.encode([name], mask, input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
        output = model.head(name, states, mask, labels=inputs["labels"], positions=inputs.get("word_positions"))
        loss = output.loss / self.current_gradient_accumulation_steps
        self.kept = [*getattr(self, "kept", []), (loss, states[-1])]
        if self.accelerator.sync_gradients:
            losses, features = zip(*self.kept, strict=True)
            mtl_backward(losses, features=features, parallel_chunk_size=self.at_once)
            jac_to_grad([p for p in model.backbone.parameters() if "jac" in p.__dict__], UPGrad())
            self.kept = []
        return loss.detach()


class RowByRow(TorchJD):
    at_once = 1


def make_trainer(side: str, adapters: bool, steps: int, folder: str) -> MultiTaskTrainer:
    rows = {name: datasets.load_dataset("json", data_files=str(DATA / name / "train.jsonl"))["train"] for name in KINDS}
    tasks = [kind.from_dataset(name, rows[name]) for name, kind in KINDS.items()]
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear") if adapters else None
    torchjd = side.startswith("torchjd")
    args = MultiTaskTrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-4, report_to="none",
        save_strategy="no", disable_tqdm=True, mixing="uniform", logging_steps=10, use_cpu=True,
        gradient_accumulation_steps=len(KINDS), balancing="static" if torchjd else side,
    )  # fmt: skip
    made = {"torchjd at once": TorchJD, "torchjd row by row": RowByRow}.get(side, MultiTaskTrainer)
    return made(MultiTaskModel.from_backbone(BACKBONE, tasks, lora), args, train_dataset=rows)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    sides = ["static", *(sys.argv[3:] or METHODS), "torchjd at once", "torchjd row by row"]
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="torch")  # vmap over kernels that it has no batching rule for
    datasets.disable_progress_bars()
    for adapters in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            trainers = {side: make_trainer(side, adapters, steps, folder) for side in sides}
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, trainer in trainers.items():
                    seconds[side].append(trainer_seconds(trainer))
        for side, found in seconds.items():
            ratios = [a / b for a, b in zip(found, seconds["static"], strict=True)]
            print(
                f"{'adapters' if adapters else 'full':9} {side:19} {statistics.median(found) * 1000:7.1f} ms/step, "
                f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
