"""BIO tags: which may follow which, the best legal sequence, and the spans that a sequence names."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

__all__ = ["best_legal", "going_on", "has_end_tags", "is_bio", "legal_moves", "names_scheme", "spans"]

_MARKS = ("B-", "I-", "E-", "S-", "L-", "U-")


def is_bio(labels: Sequence[str]) -> bool:
    """Whether the labels are BIO tags: `O`, and `B-` and `I-` before a type."""
    marked = [label for label in labels if label != "O"]
    return bool(marked) and all(label[:2] in ("B-", "I-") and len(label) > 2 for label in marked)


def has_end_tags(labels: Sequence[str]) -> bool:
    """Whether the labels are BIOES or BILOU tags, which mark the ends of spans and single words too."""
    marks = {label[:2] for label in labels if label != "O"}
    spelt = all(label == "O" or (label[:2] in _MARKS and len(label) > 2) for label in labels)
    return "O" in labels and spelt and bool(marks - {"B-", "I-"})


def names_scheme(moves: Mapping[tuple[str, str], int]) -> str:
    """`iob1` where most spans that do not touch one of their type begin by `I-x`, and `bio` where by `B-x`.

    IOB1 data has `B-x` only between spans of a type that touch. A few slips in BIO data do not make it IOB1.

    Args:
        moves: (a tag, or "O" at the beginning; the tag after it) -> how often it occurs.
    """
    begun = {"B-": 0, "I-": 0}
    for (of, to), count in moves.items():
        if to[:2] in begun and (of == "O" or of[2:] != to[2:]):
            begun[to[:2]] += count
    return "iob1" if begun["I-"] > begun["B-"] else "bio"


@lru_cache(maxsize=64)
def legal_moves(labels: tuple[str, ...]) -> np.ndarray:
    """`[labels + 1, labels]` of bool: may the column follow the row; the last row is the beginning of a sequence.

    `I-x` follows only `B-x` and `I-x`. A type that has no `B-x` may begin by `I-x`.
    """
    begun = {label[2:] for label in labels if label.startswith("B-")}
    before = (*labels, "")
    return np.array(
        [
            [
                not (to.startswith("I-") and to[2:] in begun) or (of[:2] in ("B-", "I-") and of[2:] == to[2:])
                for to in labels
            ]
            for of in before
        ]
    )


@lru_cache(maxsize=64)
def going_on(labels: tuple[str, ...]) -> np.ndarray:
    """`[labels]` the tag by which each goes on in a word's second half: `I-x` after `B-x`, where these are BIO tags."""
    index = {label: i for i, label in enumerate(labels)}
    after = [f"I-{label[2:]}" if label.startswith("B-") and is_bio(labels) else label for label in labels]
    return np.array([index.get(tag, i) for i, tag in enumerate(after)])


def best_legal(scores: np.ndarray, lengths: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """The legal tag sequence of the highest sum of log scores, for many sequences at once (Viterbi).

    Args:
        scores: `[sequences, words, labels]` log scores.
        lengths: `[sequences]` words of each.
        labels: the tag names.

    Returns:
        `[sequences, words]` label indices; past a sequence's length they mean nothing.
    """
    best = scores.argmax(-1)
    moves = legal_moves(labels)
    steps = np.concatenate([np.full((len(best), 1), len(labels)), best[:, :-1]], axis=1)
    inside = np.arange(best.shape[1]) < lengths[:, None]
    # Where the best tag of each word makes a legal sequence there is no better one.
    wrong = np.flatnonzero((~moves[steps, best] & inside).any(1))
    if len(wrong):
        best[wrong] = _viterbi(scores[wrong], lengths[wrong], moves)
    return best


def _viterbi(scores: np.ndarray, lengths: np.ndarray, moves: np.ndarray) -> np.ndarray:
    order = np.argsort(-lengths, kind="stable")  # at each word those that have one stand in front
    scores, lengths = scores[order], lengths[order]
    count, words, labels = scores.shape
    going = np.searchsorted(-lengths, -np.arange(words)).tolist()
    total = np.where(moves[-1], scores[:, 0], -np.inf)
    back = np.zeros((words, count, labels), dtype=np.int64)
    stay = np.arange(labels)
    free, few, before = _predecessors(moves)
    for t in range(1, words):
        here = total[: going[t]]
        # All labels that may follow any have the same best one before them; the others have few to choose from.
        step = back[t, : going[t]]
        step[:, free] = here.argmax(1)[:, None]
        if len(few):
            choices = np.where(before < 0, -np.inf, here[:, before])
            step[:, few] = np.take_along_axis(before[None], choices.argmax(2)[:, :, None], 2)[:, :, 0]
        reached = np.where(moves[step, stay], np.take_along_axis(here, step, 1), -np.inf)
        total[: going[t]] = reached + scores[: going[t], t]
    rows = np.arange(count)
    tags = np.zeros((count, words), dtype=np.int64)
    tags[rows, lengths - 1] = total.argmax(1)
    for t in range(words - 1, 0, -1):
        on = rows[: going[t]]
        tags[on, t - 1] = back[t, on, tags[on, t]]
    return tags[np.argsort(order)]


def _predecessors(moves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels that may follow any, the others, and `[others, choices]` the labels before each (-1: no more)."""
    inner = moves[:-1]
    free, few = np.flatnonzero(inner.all(0)), np.flatnonzero(~inner.all(0))
    found = [np.flatnonzero(inner[:, label]) for label in few]
    before = np.full((len(few), max(map(len, found), default=1) or 1), -1)
    for row, labels in zip(before, found, strict=True):
        row[: len(labels)] = labels
    return free, few, before


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans a tag sequence names: (type, first word, word after the last). An `I-x` out of place begins one."""
    found: list[tuple[str, int, int]] = []
    kind, first = "", 0
    for i, tag in enumerate(tags):
        if tag == "O":
            if kind:
                found.append((kind, first, i))
                kind = ""
        elif tag[0] != "I" or tag[2:] != kind:
            if kind:
                found.append((kind, first, i))
            kind, first = tag[2:], i
    if kind:
        found.append((kind, first, len(tags)))
    return found
