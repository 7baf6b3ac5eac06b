"""Gold heads and relations of words: checked, and laid out over the windows that read the words."""

from collections.abc import Sequence
from itertools import chain
from operator import eq
from typing import Any

import numpy as np

from .base import Features, RowError
from .spanning_tree import without_circles
from .window_values import IGNORED, by_row, words_read

__all__ = ["check_heads", "label_trees"]


def check_heads(task: str, column: str, heads: Sequence[Sequence[Any]], words: Sequence[Sequence[str]]) -> None:
    """Looks at the heads of all rows.

    Raises:
        RowError: a head that is no number of another word and not 0, or heads in a circle.
    """
    for index, own in enumerate(heads):
        # What is right is seen by calls for the whole row; what is wrong is searched for.
        inside = {*map(type, own)} <= {int} and 0 <= min(own, default=0) <= max(own, default=0) <= len(own)
        if inside and not any(map(eq, own, range(1, len(own) + 1))):
            continue
        for number, head in enumerate(own, 1):
            if not _fits(head, number, len(own)):
                raise RowError(
                    f"Task {task!r}: column {column!r} has {head!r} for word {number} "
                    f"({words[index][number - 1]!r}). A head is the number of another word, from 1 to {len(own)}, or "
                    "0 for the root.",
                    index,
                )
    counts = np.array([len(own) for own in heads], dtype=np.int64)
    sound = without_circles(np.fromiter(chain.from_iterable(heads), dtype=np.int64), counts)
    for index in np.flatnonzero(~sound).tolist():
        lost = _in_a_circle(heads[index])
        raise RowError(
            f"Task {task!r}: in column {column!r} word {lost} ({words[index][lost - 1]!r}) is its own "
            "head by way of others: the heads make a circle, and no tree. Words are counted from 1, and 0 is the "
            "root.",
            index,
        )


def label_trees(features: Sequence[Features], heads: Sequence[Sequence[int]], relations: Sequence[list[int]]) -> None:
    """Gives each feature of `encode_words` the `labels` of its words: head, by its number in the window, and relation.

    Args:
        features: the windows of all rows, of which each word is in one at most.
        heads: of each row the words' heads, counted from 1; 0 for the root.
        relations: of each row the words' relations.
    """
    counts = np.array([len(own) for own in heads], dtype=np.int64)
    read, words = words_read(features, counts)
    window = np.repeat(np.arange(len(read)), read)
    window_of, number_in = np.full(counts.sum(), -1), np.zeros(counts.sum(), dtype=np.int64)
    window_of[words] = window
    number_in[words] = np.arange(1, len(words) + 1) - np.repeat(np.cumsum(read) - read, read)

    head = np.fromiter(chain.from_iterable(heads), dtype=np.int64)[words]
    relation = np.fromiter(chain.from_iterable(relations), dtype=np.int64)[words]
    place = np.maximum(head + np.repeat(np.cumsum(counts) - counts, counts)[words] - 1, 0)
    # A head in another window is not seen from here, and its relation is learned with it.
    seen = (head == 0) | (window_of[place] == window)
    number = np.where(head == 0, 0, number_in[place])
    labels = np.where(seen[:, None], np.stack([number, relation], axis=1), IGNORED).tolist()
    for feature, own in zip(features, by_row(labels, read), strict=True):
        feature["labels"] = own


def _fits(head: Any, number: int, words: int) -> bool:
    whole = isinstance(head, int) and not isinstance(head, bool)
    return whole and 0 <= head <= words and head != number


def _in_a_circle(heads: Sequence[int]) -> int:
    """The number of a word that is its own head by way of others; 0 where there is none."""
    seen = [0] * (len(heads) + 1)
    for start in range(1, len(heads) + 1):
        word = start
        while word and not seen[word]:
            seen[word] = start
            word = heads[word - 1]
        if word and seen[word] == start:
            return word
    return 0
