"""Training a tiny backbone on a few rows until it knows them: whether a task type can learn at all."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch

from hf_mtl import MultiTaskModel
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.tasks import Task


def overfit(
    task: Task, rows: Sequence[dict], folder: str, *, steps: int = 160, rate: float = 5e-3
) -> tuple[list, list]:
    """The logits and the features of the rows after so many steps on all of them, as `task.decode` wants them."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(folder, [task])
    encoded = encode_dataset(task, 0, datasets.Dataset.from_list(list(rows)), model.tokenizer, "train")
    batch: dict[str, Any] = MultiTaskCollator(model.tokenizer, [task])(encoded.__getitems__(range(len(encoded))))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    features = list(encoded.features)
    with torch.no_grad():
        logits = model.eval()(**batch).logits[task.name].float().numpy()
    return [task.cut(values, feature) for values, feature in zip(logits, features, strict=True)], features
