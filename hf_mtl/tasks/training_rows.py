"""What a user may call training data -> a `datasets.Dataset` of plain Python values."""

from collections.abc import Mapping
from typing import Any

__all__ = ["training_rows"]


def training_rows(task: str, data: Any) -> Any:
    """The training rows in a data set, a list of rows, or a dict of splits.

    Args:
        task: the task's name, for messages.
        data: a `datasets.Dataset` in any format, a list of dicts, or a dict (`DatasetDict`) with either of them
            under `train`.

    Raises:
        ValueError: there is no `train`, or the data is of another kind (streams cannot be looked through twice).
    """
    import datasets

    if isinstance(data, dict):
        if "train" not in data:
            raise ValueError(
                f"Task {task!r}: labels are learned from the split 'train', and the data has {list(data)}. "
                "Give one of them: from_dataset(name, data[...])."
            )
        data = data["train"]
    if isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
        data = datasets.Dataset.from_list(data)
    if isinstance(data, datasets.IterableDataset):
        raise ValueError(
            f"Task {task!r}: a streaming data set has no length, and its rows are read more than once. Load it with "
            "streaming=False, or keep some of it: datasets.Dataset.from_list(list(data.take(10_000)))."
        )
    if not isinstance(data, datasets.Dataset):
        raise ValueError(
            f"Task {task!r}: the data must be a datasets.Dataset, a list of dicts, or a dict of splits, got "
            f"{type(data).__name__}."
        )
    # In another format (torch, numpy) labels would be named by what a tensor looks like.
    return data.with_format(None)
