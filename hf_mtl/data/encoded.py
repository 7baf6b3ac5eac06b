"""One task's data: rows and their features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from ..tasks import Task
from ..tasks.window_values import IGNORED

__all__ = ["INPUTS", "EncodedDataset"]

# What a model sees of a feature; the rest is for decoding.
INPUTS = ("input_ids", "token_type_ids", "positions", "labels")


class EncodedDataset(TorchDataset):
    """One task's data: the rows as they are, and their features.

    As a torch data set its items are what the model sees of a feature, with `task_ids`.

    Args:
        task: the task.
        task_id: its number among the model's tasks.
        rows: `datasets.Dataset` of the rows.
        features: `datasets.Dataset` of what `task.encode` gave, `row` being the row's number in `rows`.
    """

    def __init__(self, task: Task, task_id: int, rows: Any, features: Any):
        self.task = task
        self.task_id = task_id
        self.rows = rows
        self.features = features
        self.labelled = "labels" in features.column_names
        self._seen = features.select_columns([c for c in INPUTS if c in features.column_names])

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self._seen[list(indices)]
        return [
            {"task_ids": self.task_id} | dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def lengths(self) -> np.ndarray:
        """`[features]` subwords of each; of several inputs, as they are when these are padded to the longest."""
        inputs, longest = self.shapes()
        return longest if not self.task.grouped else _small(inputs.astype(np.int64) * longest)

    def shapes(self) -> tuple[np.ndarray, np.ndarray]:
        """`[features]` inputs of each, and `[features]` subwords of the longest of these.

        In the smallest types that hold them: a hundred tasks of a million rows each are a hundred of these.
        """
        import pyarrow.compute as pc

        column = self.features.with_format("arrow")["input_ids"][:]
        counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        if not self.task.grouped:
            return np.ones(len(counts), dtype=np.uint8), _small(counts)
        counts = counts.astype(np.int64)
        inner = pc.list_value_length(pc.list_flatten(column)).to_numpy(zero_copy_only=False).astype(np.int64)
        return _small(counts), _small(np.maximum.reduceat(inner, np.cumsum(counts) - counts))

    def labels_per_feature(self) -> float:
        """How much the labels of a feature count on average: how many it has, where they count the same.

        What is not learned is none.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.features.with_format("arrow")["labels"][:]
        while pa.types.is_nested(values.type):
            values = pc.list_flatten(values)
        learned = values.filter(pc.not_equal(values, IGNORED))
        if (weights := self.task.label_weights) is None:
            return len(learned) / len(self)
        return float(np.asarray(weights)[learned.to_numpy()].sum()) / len(self)

    def share_of_labels(self, number: int) -> float:
        """The part of the features that have so many labels or more."""
        import pyarrow.compute as pc

        lengths = pc.list_value_length(self.features.with_format("arrow")["labels"][:])
        return float(pc.mean(pc.greater_equal(lengths, number)).as_py())

    def sorted_by_length(self) -> tuple["EncodedDataset", np.ndarray]:
        """The longest first, and the order: item i of the result is item `order[i]` of this."""
        order = np.argsort(-self.lengths().astype(np.int64), kind="stable")
        return EncodedDataset(self.task, self.task_id, self.rows, self.features.select(order)), order


def _small(counts: np.ndarray) -> np.ndarray:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
