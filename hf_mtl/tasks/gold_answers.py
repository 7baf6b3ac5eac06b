"""Gold answers: read out of a row, found in its context, and marked in its windows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .base import Features, Row, RowError

__all__ = ["find_span", "gold_answers", "label_windows", "locate_gold"]


def gold_answers(task: Any, value: Any, index: int) -> list[tuple[str, int]]:
    """The answers in a row's column `task.answers`, with their places; answers of white space are none.

    Raises:
        RowError: they are not `{"text": [...], "answer_start": [...]}` with as many texts as places.
    """
    parts = [value.get(key) for key in ("text", "answer_start")] if isinstance(value, Mapping) else []
    lists = [part for part in parts if isinstance(part, list | tuple)]
    if len(lists) != 2:
        raise RowError(
            f"Task {task.name!r}: column {task.answers!r} must hold "
            f'{{"text": [...], "answer_start": [...]}} (empty lists: no answer), got {value!r:.80}.',
            index,
        )
    texts, starts = lists
    if len(texts) != len(starts):
        raise RowError(
            f"Task {task.name!r}: column {task.answers!r} has {len(texts)} texts and {len(starts)} "
            "answer_starts; there must be one for each text.",
            index,
        )
    answers = list(zip(texts, starts, strict=True))
    for text, start in answers:
        if not isinstance(text, str) or not isinstance(start, int):
            raise RowError(
                f"Task {task.name!r}: column {task.answers!r} must hold texts and whole numbers, "
                f"got {text!r:.60} at {start!r:.20}.",
                index,
            )
    return [(text, start) for text, start in answers if text.strip()]


def locate_gold(task: Any, row: Row, context: str, index: int) -> tuple[int, int] | None:
    """The characters of the first answer, without white space at its ends; None where there is none.

    Raises:
        RowError: an answer is not where it is said to be.
    """
    answers = gold_answers(task, row.get(task.answers), index)
    for raw, start in answers:
        text = task.read_text({task.answers: raw}, task.answers, index)
        if start < 0 or not context.startswith(text, start):
            there = context[start : start + len(text)] if start >= 0 else ""
            places = [m.start() for m in re.finditer(f"(?={re.escape(text)})", context)]
            nearest = min(places, key=lambda place: abs(place - start), default=None)
            raise RowError(
                f"Task {task.name!r}: the answer {text!r:.80} is not at its answer_start {start}: there is "
                f"{there!r:.80}, and it is {'nowhere' if nearest is None else f'at {nearest}'} in column "
                f"{task.context!r}. Places are counted in characters.",
                index,
            )
    if not answers:
        return None
    text, start = answers[0]
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def label_windows(features: Sequence[Features], gold: Sequence[tuple[int, int] | None]) -> None:
    """Gives each window its `labels`, in place: the positions of its row's answer, first and last.

    They are (0, 0) where there is no answer, or the window does not hold all of it.
    """
    reached: dict[int, tuple[int, int]] = {}
    for feature in features:
        if feature["offsets"]:
            first, last = feature["offsets"][0][0], feature["offsets"][-1][1]
            start, end = reached.get(feature["row"], (first, last))
            reached[feature["row"]] = min(start, first), max(end, last)
    for feature in features:
        held = None
        answer = gold[feature["row"]]
        if answer is not None and feature["offsets"]:
            # What no window reaches (characters that the tokenizer drops) is not missing in this one.
            start, end = (
                max(answer[0], reached[feature["row"]][0]),
                min(answer[1], reached[feature["row"]][1]),
            )
            if feature["offsets"][0][0] <= start and end <= feature["offsets"][-1][1]:
                held = find_span(np.array(feature["offsets"]), start, end)
        feature["labels"] = [0, 0] if held is None else [feature["first"] + k for k in held]


def find_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The first and the last subword that hold any character from `start` to `end`; None where none does.

    It does not matter whether the tokenizer counts the space before a word as part of its subword, nor that
    the subwords of one character (the bytes of an emoji) all have that character's offsets.

    Args:
        offsets: `[subwords, 2]` characters of the subwords.
        start: the first character.
        end: the one after the last.
    """
    held = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    return (int(held[0]), int(held[-1])) if len(held) else None
