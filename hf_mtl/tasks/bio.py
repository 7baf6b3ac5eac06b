"""BIO tags: which may follow which, the best legal sequence, and the spans that a sequence names."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

__all__ = ["best_legal", "is_bio", "legal_moves", "spans"]


def is_bio(labels: Sequence[str]) -> bool:
    """Whether the labels are BIO tags: `O`, and `B-` and `I-` before a type."""
    marked = [label for label in labels if label != "O"]
    return bool(marked) and all(label[:2] in ("B-", "I-") and len(label) > 2 for label in marked)


@lru_cache(maxsize=64)
def legal_moves(labels: tuple[str, ...]) -> np.ndarray:
    """`[labels + 1, labels]` of bool: may the column follow the row; the last row is the beginning of a sequence.

    `I-x` follows only `B-x` and `I-x`. A type that the data never begins by a `B-x` may begin by `I-x` (IOB1 data).
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
    cost = np.where(moves, 0.0, -np.inf)
    count, words, labels = scores.shape
    total = scores[:, 0] + cost[-1]
    back = np.zeros((count, words, labels), dtype=np.int64)
    back[:, 0] = np.arange(labels)
    stay = np.arange(labels)
    for t in range(1, words):
        paths = total[:, :, None] + cost[None, :-1]
        step = paths.argmax(1)
        on = (t < lengths)[:, None]
        back[:, t] = np.where(on, step, stay)
        total = np.where(on, np.take_along_axis(paths, step[:, None], 1)[:, 0] + scores[:, t], total)
    tags = np.zeros((count, words), dtype=np.int64)
    tags[:, -1] = total.argmax(1)
    rows = np.arange(count)
    for t in range(words - 1, 0, -1):
        tags[:, t - 1] = back[rows, t, tags[:, t]]
    return tags


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans a tag sequence names: (type, first word, word after the last). An `I-x` out of place begins one."""
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        kind = tag[2:]
        if tag == "O":
            continue
        if tag.startswith("I-") and found and found[-1][0] == kind and found[-1][2] == i:
            found[-1] = (kind, found[-1][1], i + 1)
        else:
            found.append((kind, i, i + 1))
    return found
