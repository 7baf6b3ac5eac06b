"""Label names: where they come from, and which of them a row's label is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..nearest import nearest
from .base import RowError, shown

__all__ = [
    "check_labels",
    "declared_names",
    "label_id",
    "label_ids",
    "label_index",
    "label_lists",
    "label_names",
    "learned_names",
    "sorted_names",
]


def declared_names(dataset: Any, column: str) -> tuple[str, ...] | None:
    """The label names that a `ClassLabel` feature, or a sequence of them, declares; None where it declares none."""
    feature = dataset.features[column]
    for declared in (feature, getattr(feature, "feature", None)):
        names = getattr(declared, "names", None)
        if names:
            return tuple(names)
    return None


def sorted_names(values: Iterable[Any]) -> tuple[str, ...]:
    """The distinct labels found in data, as strings, in an order that does not hang on the order of the rows.

    Raises:
        ValueError: a label is missing (None).
    """
    distinct = set(values)
    if None in distinct:
        raise ValueError("A label is missing (None). Leave out rows that have none.")
    if all(isinstance(v, int) for v in distinct):
        return tuple(str(v) for v in sorted(distinct))
    return tuple(sorted(str(v) for v in distinct))


def learned_names(task: str, dataset: Any, column: str) -> tuple[str, ...]:
    """The label names of a column that holds one label a row: those it declares, else those found in it.

    Raises:
        ValueError: a row has no label (None, or an empty text); the task and the row are named.
    """
    declared = declared_names(dataset, column)
    if declared is not None:
        return declared
    values = list(dataset[column])
    if None in values:
        raise ValueError(
            f"Task {task!r}: column {column!r} has no label (None) in row {values.index(None)}. "
            "Leave out rows that have none."
        )
    if "" in values:  # an empty cell of a table, which reads as text
        raise ValueError(
            f"Task {task!r}: column {column!r} has an empty label ('') in row {values.index('')}. Leave out rows that "
            "have none. (If it is a label, name it among labels=[...].)"
        )
    for i, value in enumerate(values):
        if isinstance(value, list | dict):
            raise ValueError(
                f"Task {task!r}: column {column!r} must hold one label a row, and row {i} has {shown(value)}. For "
                "several labels a row take type 'multi-label-classification', for one a word 'token-classification'."
            )
    return sorted_names(values)


def label_lists(task: str, dataset: Any, column: str) -> Iterator[list[Any]]:
    """What a column holds that has a list of labels a row, one for each word.

    Raises:
        ValueError: a row has no list, or a label is missing (None); the task and the row are named.
    """
    for i, labels in enumerate(dataset[column]):
        if not isinstance(labels, list) or None in labels:
            raise ValueError(
                f"Task {task!r}: column {column!r} must hold a list of labels and none of them missing (None), and "
                f"row {i} has {shown(labels)}. Leave out such rows."
            )
        yield labels


def check_labels(task: str, labels: Any, least: int) -> None:
    """Raises ValueError where these are no label names: distinct strings, `least` of them or more."""
    if not isinstance(labels, tuple) or not all(isinstance(name, str) for name in labels):
        raise ValueError(
            f"Task {task!r}: labels must be a list of strings, got {labels!r:.80}. "
            "(YAML reads 0, no and yes as no strings: write them in quotes.)"
        )
    if len(labels) < least or len(set(labels)) < len(labels):
        raise ValueError(f"Task {task!r}: labels must be {least} distinct names or more, got {labels!r:.80}.")


@lru_cache(maxsize=256)
def label_index(labels: tuple[str, ...]) -> Mapping[str | int, int]:
    """What a row may say -> index of the label: its name, or the index itself where no name is a number."""
    names: dict[str | int, int] = {name: i for i, name in enumerate(labels)}
    numbers = any(name.lstrip("-").isdecimal() for name in labels)
    return names if numbers else names | {i: i for i in range(len(labels))}


def label_id(task: str, value: Any, index: Mapping[str | int, int], row: int) -> int:
    """A row's label as its index.

    Args:
        task: the task's name, for messages.
        value: what the row says.
        index: what `label_index` gave.
        row: the row's number, for messages.

    Raises:
        RowError: the label is missing, or none of the task's.
    """
    found = index.get(_key(value, index))
    if value is None:
        raise RowError(f"Task {task!r}: the label is missing (None). Leave out rows that have none.", row)
    if found is None:
        names = [name for name in index if isinstance(name, str)]
        raise RowError(
            f"Task {task!r}: label {value!r} is none of its {len(names)} labels. {nearest(str(value), names)} "
            "Labels are learned from the training data (of what split and max_rows leave there): add rows with it, or "
            "give the task labels=[...].",
            row,
        )
    return found


def label_ids(task: str, values: Sequence[Any], index: Mapping[str | int, int], row: int) -> list[int]:
    """A row's labels as their indices, see `label_id`; of most rows all are names that it has."""
    found = [*map(index.get, values)] if {*map(type, values)} <= {str} else [None]
    known = [number for number in found if number is not None]
    return known if len(known) == len(values) else [label_id(task, value, index, row) for value in values]


def label_names(values: Sequence[Any], labels: tuple[str, ...] | None) -> list[str]:
    """Labels of rows by the names that `label_id` takes them for; what is none of the task's as a string."""
    if labels is None:
        return [str(value) for value in values]
    index = label_index(labels)
    found = [index.get(_key(value, index)) for value in values]
    return [str(value) if k is None else labels[k] for value, k in zip(values, found, strict=True)]


def _key(value: Any, index: Mapping[str | int, int]) -> str | int:
    # By type, not isinstance: True and 1.0 equal 1, and are not an index.
    return value if type(value) is str or (type(value) is int and value in index) else str(value)
