"""Which rows of the tasks' data a micro-batch of the running step is made of: planned again, not carried along."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Trainer

from ..data import MultiTaskDataset

__all__ = ["batch_rows", "blamed", "described"]

_LISTED, _SHOWN = 64, 3  # row numbers in a message, and rows whose content it shows


def batch_rows(dataset: MultiTaskDataset, indices: Sequence[int]) -> dict[str, list[int]]:
    """task -> the rows of its data that these indices of the data set stand for, each once, in their order."""
    found: dict[str, dict[int, None]] = {}
    for task, part, feature in dataset.locate(indices):
        found.setdefault(task, {})[int(part.features[feature]["row"])] = None
    return {task: list(rows) for task, rows in found.items()}


def blamed(trainer: Trainer, indices: Sequence[int]) -> list[int]:
    """Those of the indices whose loss is not finite where the model reads each alone, without dropout.

    A forward for each: only for where the training has stopped, or a step is lost, anyway. The random numbers of the
    training stay as they are.
    """
    dataset: Any = trainer.train_dataset
    model: Any = trainer.model
    found, training = [], model.training
    model.eval()
    with torch.random.fork_rng(enabled=trainer.args.device.type == "cpu"), torch.no_grad():
        for index in indices:
            batch = trainer._prepare_inputs(trainer.data_collator(dataset.__getitems__([index])))
            with trainer.compute_loss_context_manager():
                losses = model(**batch).task_losses
            if not all(bool(loss.isfinite().all()) for loss in losses.values()):
                found.append(index)
    model.train(training)
    return found


def described(dataset: MultiTaskDataset, indices: Sequence[int], alone: Sequence[int] | None) -> str:
    """A micro-batch in words: the tasks, their rows, and those that are not finite alone (None: not tried)."""
    said = "; ".join(f"task {task!r}: {_numbers(rows)}" for task, rows in batch_rows(dataset, indices).items())
    if alone is None:
        return said
    if len(alone) == len(indices):
        return f"{said}. Each of them alone is not finite either: the weights may be at fault, not the rows"
    if not alone:
        return f"{said}. Each of them alone is finite: it is their sum, or dropout, that is not"
    shown = [
        f"row {row} of {task!r} {_content(dataset, task, row)}"
        for task, rows in batch_rows(dataset, alone[:_SHOWN]).items()
        for row in rows
    ]
    more = f", and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
    return f"{said}. Not finite alone: {', '.join(shown)}{more}"


def _numbers(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_LISTED]))}{more}"


def _content(dataset: MultiTaskDataset, task: str, row: int) -> str:
    part = dataset.parts[task]
    values: Mapping[str, Any] = part.rows[row]
    wanted = {column: values[column] for column in part.task.columns() if column in values}
    return f"{wanted!r:.160}"
