"""The entities of a row and the relations between them, as its columns say them, checked."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .base import RowError, shown
from .bio import spans

__all__ = ["Entity", "Relation", "read_entities", "read_relations", "spans_of_tags"]


# Made once: rows have many spans.
_LISTS, _WHOLE = Sequence | np.ndarray, int | np.integer


class Entity(NamedTuple):
    """A span of words, the end exclusive, and its type."""

    start: int
    end: int
    type: str


class Relation(NamedTuple):
    """Two entities of a row by their numbers, and the label of the relation from the first to the second."""

    head: int
    tail: int
    label: str


def spans_of_tags(task: str, column: str, tags: Sequence[Any], index: int) -> list[Entity]:
    """The entities that BIO tags name; an `I-x` out of place begins one, so IOB1 is read as well.

    Raises:
        RowError: a tag that is none.
    """
    # Each tag is looked at once, however many words have it; what cannot be told apart by its hash is no tag.
    for tag in dict.fromkeys(tags) if {*map(type, tags)} <= {str} else tags:
        if not isinstance(tag, str) or (tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) < 3)):
            raise RowError(
                f"Task {task!r}: column {column!r} has {tag!r}, which is no BIO tag: 'O', or 'B-' or 'I-' and a type. "
                "Of BIOES or BILOU tags turn E- and L- into I-, S- and U- into B-; of entities that are given as "
                "{'start', 'end', 'type'} name the column by entities=...",
                index,
            )
    return [Entity(start, end, kind) for kind, start, end in spans(tags)]


def read_entities(task: str, column: str, values: Any, words: int, index: int) -> list[Entity]:
    """The entities of a list of `{"start", "end", "type"}`, in the order of the text.

    Raises:
        RowError: one of another form, outside the words, or two that overlap.
    """
    found = []
    for value in _records(task, column, values, ("start", "end", "type"), index):
        start, end = _span(task, column, [value["start"], value["end"]], words, index)
        if not isinstance(value["type"], str) or not value["type"]:
            raise RowError(
                f"Task {task!r}: column {column!r} has an entity of type {value['type']!r}: a type is the name of one.",
                index,
            )
        found.append(Entity(start, end, value["type"]))
    found.sort()
    for before, after in pairwise(found):
        if after.start < before.end:
            raise RowError(
                f"Task {task!r}: in column {column!r} the entities {list(before)} and {list(after)} overlap. A word is "
                "of one entity (the end is exclusive): leave out one of them, or give the two kinds to two tasks.",
                index,
            )
    return found


def read_relations(
    task: str, column: str, values: Any, entities: Sequence[Entity], words: int, index: int
) -> list[tuple[int, int, Any]]:
    """Head and tail, by their numbers among the entities, and label of each `{"head", "tail", "label"}`.

    Raises:
        RowError: one of another form, of a span that is no entity, or of an entity to itself.
    """
    numbers = {(entity.start, entity.end): number for number, entity in enumerate(entities)}
    found = []
    for value in _records(task, column, values, ("head", "tail", "label"), index):
        ends = []
        for side in ("head", "tail"):
            span = _span(task, f"{column}.{side}", value[side], words, index)
            if span not in numbers:
                known = [list(span) for span in numbers]
                raise RowError(
                    f"Task {task!r}: in column {column!r} the {side} {list(span)} of {value['label']!r} is no entity "
                    f"of the row: these are {shown(known)}. Give it as an entity, or leave out the relation.",
                    index,
                )
            ends.append(numbers[span])
        if ends[0] == ends[1]:
            raise RowError(
                f"Task {task!r}: in column {column!r} {value['label']!r} leads from {list(value['head'])} to itself. "
                "A relation is between two entities: leave it out.",
                index,
            )
        found.append((ends[0], ends[1], value["label"]))
    return found


def _records(task: str, column: str, values: Any, keys: tuple[str, ...], index: int) -> list[Mapping[str, Any]]:
    if isinstance(values, Mapping) and all(isinstance(values.get(key), list) for key in keys):
        # A `datasets` sequence of records comes back as a record of sequences.
        values = [dict(zip(keys, record, strict=True)) for record in zip(*(values[key] for key in keys), strict=True)]
    wanted = "{" + ", ".join(map(repr, keys)) + "}"
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise RowError(
            f"Task {task!r}: column {column!r} must hold a list of {wanted}, empty where there are none, got "
            f"{shown(values)}.",
            index,
        )
    for value in values:
        if not isinstance(value, Mapping) or any(value.get(key) is None for key in keys):
            raise RowError(
                f"Task {task!r}: column {column!r} must hold a list of {wanted}, and it has {shown(value)}.", index
            )
    return list(values)


def _span(task: str, what: str, value: Any, words: int, index: int) -> tuple[int, int]:
    ends = tuple(value) if isinstance(value, _LISTS) and not isinstance(value, str) else ()
    whole = {*map(type, ends)} <= {int} or all(isinstance(e, _WHOLE) and not isinstance(e, bool) for e in ends)
    if len(ends) != 2 or not whole or not 0 <= ends[0] < ends[1] <= words:
        given = list(ends) if ends else value
        raise RowError(
            f"Task {task!r}: column {what!r} has the span {given!r:.60}. A span is [start, end], numbers of words "
            f"counted from 0, the end exclusive: 0 <= start < end <= {words}, the words of the row.",
            index,
        )
    return int(ends[0]), int(ends[1])
