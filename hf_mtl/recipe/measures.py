"""What the rows of a split are to a task: which labels they have, and how long their inputs are."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import named_rows
from ..tasks import RowError, Task
from ..tasks.base import NO_LIMIT
from .data_splits import draw

__all__ = ["Labels", "Lengths", "Read", "count_labels", "gold_answers", "measure_lengths", "named_batches", "read_rows"]

# Subwords are counted in so many rows of a split at most: of a million rows a part says the same.
MEASURED = 10_000
_BATCH = 1_000

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
class Read:
    """What the model reads of a row.

    Args:
        inputs: the subwords of each of its inputs, of which long rows may have several.
        targets: the subwords that it learns to write.
    """

    inputs: list[Sequence[int]] = field(default_factory=list)
    targets: list[Sequence[int]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Subwords of a split's rows, whole, with the special ones: of their inputs, or of their targets.

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
    if not task.answers_are_labels or not task.to_dict().get("labels"):
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


def read_rows(task: Task, batch: Batch, tokenizer: Any, split: str) -> list[Read]:
    """What the model reads of each row, and what it learns to write; labels are not looked at.

    Raises:
        ValueError: a row that cannot be used; says which.
    """
    numbers, rows = batch
    there = rows[0]
    # What is written is read as well, and so are the texts that a text is compared with.
    texts = task.columns() if task.writes or task.compares_rows else ()
    wanted = {*task.inputs().values(), *texts} & there.keys()
    wanted |= set(task.columns_to_encode(list(there)))
    found = [Read() for _ in rows]
    try:
        features = task.encode([{c: row[c] for c in wanted} for row in rows], tokenizer)
    except RowError as error:
        raise _named_error(error, split, numbers) from error
    for feature in features:
        own = found[feature["row"]]
        own.inputs.extend(feature["input_ids"] if task.grouped else [feature["input_ids"]])
        written = task.written_part(feature) if "labels" in feature else None
        if written is not None:
            own.targets.append(written)
    return found


def measure_lengths(task: Task, rows: Any, split: str, tokenizer: Any) -> tuple[Lengths, Lengths | None]:
    """Lengths of the inputs, and of targets that are not part of them.

    Rows are encoded twice, as the task does and as it would without a limit: so it goes for any task.
    """
    endless = copy.deepcopy(tokenizer)
    endless.model_max_length = NO_LIMIT
    whole = task.unlimited()
    inputs: list[_Pair] = []
    targets: list[_Pair] = []
    for batch in named_batches(rows, MEASURED):
        both = zip(read_rows(whole, batch, endless, split), read_rows(task, batch, tokenizer, split), strict=True)
        for uncut, real in both:
            inputs.append((uncut.inputs, real.inputs))
            targets.append((uncut.targets, real.targets))
    limit = task.to_dict().get("max_target_length")  # where targets stand beside the inputs
    of_targets = _lengths(targets, limit) if limit is not None and any(real for _, real in targets) else None
    return _lengths(inputs, task.limit(tokenizer)), of_targets


# A row's windows as they would be without a limit, and as they are.
_Pair = tuple[list[Sequence[int]], list[Sequence[int]]]


def _lengths(pairs: Sequence[_Pair], limit: int) -> Lengths:
    longest = [max(map(len, uncut), default=0) for uncut, _ in pairs]
    windowed = sum(len(real) > len(uncut) for uncut, real in pairs)
    cut = sum(len(real) <= len(uncut) and sum(map(len, real)) < sum(map(len, uncut)) for uncut, real in pairs)
    return Lengths(
        rows=len(longest),
        median=int(np.percentile(longest, 50, method="lower")),
        p95=int(np.percentile(longest, 95, method="higher")),
        longest=max(longest),
        limit=limit,
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
