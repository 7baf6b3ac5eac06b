"""Features -> padded batches."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..tasks import Task
from ..tasks.groups import group_rows
from ..tasks.word_windows import stack_positions

__all__ = ["MultiTaskCollator"]


class MultiTaskCollator:
    """Features -> one padded batch: `input_ids`, `attention_mask`, `task_ids [batch]`, and what the tasks present need.

    Padding goes to the right whatever the tokenizer says: masked encoders do not mind, a causal backbone's tokens do
    not see it, and a feature's positions stay the batch's positions. `word_positions` (of tasks that read words),
    `row_groups` (of tasks whose features have several inputs, a row each) and `labels` are tensors when all rows are
    of one task, else task -> those of its rows.

    Args:
        tokenizer: for the padding token.
        tasks: the model's tasks in their order.
    """

    def __init__(self, tokenizer: Any, tasks: Sequence[Task]):
        self.tokenizer = tokenizer
        self.tasks = list(tasks)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if "of_tasks" in features[0]:
            return self._shared(features)
        inputs = [part for feature in features for part in self._inputs(feature)]
        batch, longest = self._padded(inputs)
        batch["task_ids"] = torch.tensor([part["task_ids"] for part in inputs])
        ids = sorted({feature["task_ids"] for feature in features})
        return batch | self._of_tasks({k: [f for f in features if f["task_ids"] == k] for k in ids}, longest)

    def _shared(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Every row is of the same tasks, which the batch names."""
        batch, longest = self._padded(features)
        by_task = {own[0]["task_ids"]: own for own in zip(*(feature["of_tasks"] for feature in features), strict=True)}
        return batch | {"tasks": [self.tasks[k].name for k in by_task]} | self._of_tasks(by_task, longest)

    def _padded(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], int]:
        lengths = np.array([len(part["input_ids"]) for part in inputs])
        longest = int(lengths.max())
        real = np.arange(longest) < lengths[:, None]
        batch: dict[str, Any] = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for key, filler in (("input_ids", self.tokenizer.pad_token_id), ("token_type_ids", 0)):
            if any(key in part for part in inputs):
                values = np.full(real.shape, filler, dtype=np.int64)
                # A text that goes on as a language model's has no types, beside others that have them.
                parts = (part[key] if key in part else [filler] * len(part["input_ids"]) for part in inputs)
                values[real] = list(chain.from_iterable(parts))
                batch[key] = torch.from_numpy(values)
        return batch, longest

    def _of_tasks(self, features: Mapping[int, Sequence[Mapping[str, Any]]], longest: int) -> dict[str, Any]:
        labels, positions, groups = {}, {}, {}
        for k, own in features.items():
            task, length = self.tasks[k], longest
            if task.per_word:
                positions[task.name] = stack_positions([feature["positions"] for feature in own])
                length = positions[task.name].shape[1]
            if task.grouped:
                groups[task.name] = group_rows([len(feature["input_ids"]) for feature in own])
            if "labels" in own[0]:
                labels[task.name] = task.stack_labels([feature["labels"] for feature in own], length)
        batch: dict[str, Any] = {}
        for key, by_task in (("word_positions", positions), ("row_groups", groups), ("labels", labels)):
            if by_task:
                batch[key] = next(iter(by_task.values())) if len(features) == 1 else by_task
        return batch

    def _inputs(self, feature: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        if not self.tasks[feature["task_ids"]].grouped:
            return [feature]
        keys = [key for key in ("input_ids", "token_type_ids") if key in feature]
        parts = zip(*(feature[key] for key in keys), strict=True)
        return [dict(zip(keys, part, strict=True)) | {"task_ids": feature["task_ids"]} for part in parts]
