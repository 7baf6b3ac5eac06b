"""Label names: where they come from, and which index a row's label has."""

from collections.abc import Iterable, Mapping
from typing import Any

from .base import RowError, nearest

__all__ = ["declared_names", "label_id", "sorted_names"]


def declared_names(dataset: Any, column: str) -> tuple[str, ...] | None:
    """The label names that a `ClassLabel` feature, or a sequence of them, declares; None where it declares none."""
    feature = dataset.features[column]
    for declared in (feature, getattr(feature, "feature", None)):
        names = getattr(declared, "names", None)
        if names:
            return tuple(names)
    return None


def sorted_names(values: Iterable[Any]) -> tuple[str, ...]:
    """The distinct labels found in data, as strings, in an order that does not hang on the order of the rows."""
    distinct = set(values)
    if all(isinstance(v, int) for v in distinct):
        return tuple(str(v) for v in sorted(distinct))
    return tuple(sorted(str(v) for v in distinct))


def label_id(task: str, value: Any, ids: Mapping[str, int], row: int) -> int:
    """A row's label as its index.

    Raises:
        RowError: the label is none of the task's.
    """
    found = ids.get(str(value))
    if found is None:
        raise RowError(
            f"Task {task!r}: label {value!r} is none of its {len(ids)} labels. {nearest(str(value), ids)} "
            "Labels are learned from the training data: add rows with it there, or give the task labels=[...].",
            row,
        )
    return found
