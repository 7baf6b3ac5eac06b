"""What the rows of a split are to a task: which labels they have, and how long their inputs are."""

import copy
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import named_rows
from ..tasks import RowError, Task
from .data_splits import draw

__all__ = ["Labels", "Lengths", "count_labels", "encode_inputs", "gold_answers", "measure_lengths", "named_batches"]

# Subwords are counted in so many rows of a split at most: of a million rows a part says the same.
MEASURED = 10_000
_BATCH = 1_000
_NO_LIMIT = 1_000_000_000

Row = dict[str, Any]
# Numbers of rows in their split, and the rows.
Batch = tuple[list[int], list[Row]]


@dataclass(kw_only=True)
class Labels:
    """The labels of a split.

    Args:
        counts: label -> how often it is there.
        of_rows: the labels of each row that has any, or could have.
        unlabelled: rows without a label.
    """

    counts: Counter[str] = field(default_factory=Counter)
    of_rows: list[frozenset[str]] = field(default_factory=list)
    unlabelled: int = 0


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Subwords of the inputs of a split's rows, whole, with the special ones.

    Args:
        rows: how many rows were measured.
        median, p95, longest: half of the rows, 95 of 100, and all have so many subwords at most.
        limit: how many the task takes.
        cut: share of the rows that lose their end.
        windowed: share of the rows that are read in several windows.
    """

    rows: int
    median: int
    p95: int
    longest: int
    limit: int
    cut: float
    windowed: float


def named_batches(rows: Any, number: int | None = None) -> Iterator[Batch]:
    """The rows with the names of their labels, some at a time: all, or so many from all over the split.

    None stands for a label that is missing, of a `ClassLabel` too, whose own sign for that is -1.
    """
    rows = rows.with_format(None)
    order = np.arange(len(rows)) if number is None else draw(len(rows), number, seed=0)
    declared = [name for name, feature in rows.features.items() if getattr(feature, "names", None)]
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH].tolist()
        batch = named_rows(rows[numbers], rows.features)
        for row in batch:
            row |= {column: None for column in declared if row[column] == -1}
        yield numbers, batch


def count_labels(task: Task, rows: Any, split: str) -> Labels:
    """The labels in the gold answers of all rows; none for tasks whose answers are texts or numbers of their own."""
    found = Labels()
    # The field in which a task type with a set of labels has it, as the model card knows too.
    if not task.to_dict().get("labels"):
        return found
    for numbers, batch in named_batches(rows):
        gold = gold_answers(task, (numbers, batch), split)
        found.unlabelled += sum(answer is None for answer in gold)
        for answer in gold:
            if answer is not None:
                names = list(_strings(answer))
                found.counts.update(names)
                found.of_rows.append(frozenset(names))
    return found


def gold_answers(task: Task, batch: Batch, split: str) -> list[Any]:
    """The rows' gold answers, as the scores take them; None where a row has none.

    Raises:
        ValueError: a row that cannot be used; says which.
    """
    numbers, rows = batch
    inputs = set(task.inputs().values())
    asked = [column for column in task.columns() if column not in inputs]
    labelled = [k for k, row in enumerate(rows) if all(row.get(column) is not None for column in asked)]
    found: list[Any] = [None] * len(rows)
    try:
        answers = task.references([rows[k] for k in labelled]) if labelled else []
    except RowError as error:
        raise _named_error(error, split, [numbers[k] for k in labelled]) from error
    for k, answer in zip(labelled, answers, strict=True):
        found[k] = answer
    return found


def encode_inputs(task: Task, batch: Batch, tokenizer: Any, split: str) -> list[list[Sequence[int]]]:
    """The subwords of each row's inputs, of which long rows may have several; labels are not looked at.

    Raises:
        ValueError: a row that cannot be used; says which.
    """
    numbers, rows = batch
    found: list[list[Sequence[int]]] = [[] for _ in rows]
    try:
        features = task.encode([{c: row[c] for c in task.inputs().values()} for row in rows], tokenizer)
    except RowError as error:
        raise _named_error(error, split, numbers) from error
    for feature in features:
        found[feature["row"]].extend(feature["input_ids"] if task.grouped else [feature["input_ids"]])
    return found


def measure_lengths(task: Task, rows: Any, split: str, tokenizer: Any) -> Lengths:
    """Rows are encoded twice, as the task does and as it would without a limit: so it goes for any task."""
    endless = copy.deepcopy(tokenizer)
    endless.model_max_length = _NO_LIMIT
    whole = dataclasses.replace(task, max_length=_NO_LIMIT)
    longest: list[int] = []
    cut = windowed = 0
    for batch in named_batches(rows, MEASURED):
        both = zip(
            encode_inputs(whole, batch, endless, split), encode_inputs(task, batch, tokenizer, split), strict=True
        )
        for uncut, real in both:
            longest.append(max(map(len, uncut), default=0))
            windowed += len(real) > len(uncut)
            cut += len(real) <= len(uncut) and sum(map(len, real)) < sum(map(len, uncut))
    return Lengths(
        rows=len(longest),
        median=int(np.percentile(longest, 50, method="lower")),
        p95=int(np.percentile(longest, 95, method="higher")),
        longest=max(longest),
        limit=task.limit(tokenizer),
        cut=cut / len(longest),
        windowed=windowed / len(longest),
    )


def _named_error(error: RowError, split: str, numbers: Sequence[int]) -> ValueError:
    return ValueError(f"Split {split!r}, row {numbers[error.row]}: {error}")


def _strings(answer: Any) -> Iterator[str]:
    """The strings in a gold answer, whatever holds them."""
    if isinstance(answer, str):
        yield answer
    elif isinstance(answer, Mapping | Sequence):
        for value in answer.values() if isinstance(answer, Mapping) else answer:
            yield from _strings(value)
