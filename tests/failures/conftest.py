"""A trainer over two tiny tasks, one of which may have a row that no loss survives."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, Regression, TextClassification

BAD = 7  # a number that was typed wrong: its squared error is beyond float32


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(bad: float | None = None, callbacks: Any = None, **kwargs: Any) -> MultiTaskTrainer:
        texts = [row["text"] for row in rows("intent", "train", 24)]
        scored = [{"text": text, "score": len(text) / 200} for text in texts]
        if bad is not None:
            scored[BAD]["score"] = bad
        data = {
            "card": datasets.Dataset.from_list([{"text": t, "label": str("card" in t)} for t in texts]),
            "long": datasets.Dataset.from_list(scored),
        }
        tasks = [
            TextClassification(name="card", labels=("False", "True"), dropout=0.0),
            Regression(name="long", low=0.0, high=1.0, dropout=0.0),
        ]
        folder = tiny_backbone("bert")  # making it draws random numbers
        torch.manual_seed(0)
        model = MultiTaskModel.from_backbone(folder, tasks)
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 12, "use_cpu": True,
            "gradient_accumulation_steps": 2, "mixing": "uniform", "report_to": "none", "disable_tqdm": True,
            "save_strategy": "no", "logging_steps": 1, "learning_rate": 1e-3,
        }  # fmt: skip
        args = MultiTaskTrainingArguments(**(settings | kwargs))
        return MultiTaskTrainer(model, args, train_dataset=data, callbacks=callbacks)

    return trainer
