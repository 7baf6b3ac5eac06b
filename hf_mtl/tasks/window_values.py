"""What is said of the words of rows, laid out over the windows that read them, and gathered from there."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .base import Features

__all__ = [
    "IGNORED",
    "by_row",
    "label_windows",
    "mean_cross_entropy",
    "read_once",
    "stack_windows",
    "words_of_windows",
    "words_read",
]

# The label of a word that trains nothing.
IGNORED = -100


def label_windows(features: Sequence[Features], gold: Sequence[Sequence[int]]) -> None:
    """Gives each feature of `encode_words` the `labels` of the words that it reads.

    Where words share a subword (characters of a Latin run) the first of them trains it.

    Args:
        features: the windows of all rows.
        gold: a label for each word, of each row.
    """
    # All windows are labelled together: NumPy calls for each by itself would take half as long as its tokenizer.
    read, words = words_read(features, [len(labels) for labels in gold])
    labels = np.fromiter(chain.from_iterable(gold), dtype=np.int64)[words]
    window = np.repeat(np.arange(len(read)), read)
    positions = np.concatenate([feature["positions"] for feature in features])
    labels[1:][(np.diff(positions) == 0) & (np.diff(window) == 0)] = IGNORED
    for feature, own in zip(features, by_row(labels.tolist(), read), strict=True):
        feature["labels"] = own


def read_once(features: Sequence[Features]) -> None:
    """Leaves of the words that share a subword (characters of a Latin run, of a number) the first in `words`.

    The others become `shared`: a head that reads the same vector for each of them could not tell them apart, and would
    begin a span of its own at each.

    Args:
        features: the windows of `encode_words`, in place.
    """
    positions = np.concatenate([feature["positions"] for feature in features])
    bounds = np.cumsum([0, *(len(feature["positions"]) for feature in features)])
    again = np.diff(positions, prepend=-1) == 0
    again[bounds[:-1][bounds[:-1] < len(again)]] = False
    for feature, (start, end) in zip(features, pairwise(bounds.tolist()), strict=True):
        shared = again[start:end]
        feature["shared"] = feature["words"][shared]
        if shared.any():
            feature["words"], feature["positions"] = feature["words"][~shared], feature["positions"][~shared]


def stack_windows(labels: Sequence[Sequence[Any]], length: int, one: Any = IGNORED) -> torch.Tensor:
    """The labels of a batch's windows, `[batch, words, ...]`.

    Args:
        labels: what `label_windows` gave, a list for each window.
        length: words of the padded batch.
        one: what stands for a word where a window has no more.
    """
    filled = [[*values, *[one] * (length - len(values))] for values in labels]
    return torch.from_numpy(np.array(filled, dtype=np.int64))  # torch itself reads nested lists several times slower


def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of what has a label, `[]` in float32; 0 where nothing has.

    Args:
        logits: `[..., classes]`.
        labels: `[...]`, `IGNORED` where there is none.
    """
    total = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def words_of_windows(
    logits: Sequence[np.ndarray], features: Sequence[Features], counts: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the words of all rows, one row after the other.

    Args:
        logits: `[words, ...]` for each feature, of which there is one at least.
        features: with `row` and `words`, as `encode_words` gives them.
        counts: the words of each row.

    Returns:
        `[read, ...]` the logits of the words that a window reads, window after window; `[read]` which words these are.
    """
    return np.concatenate(logits), words_read(features, counts)[1]


def words_read(
    features: Sequence[Features], counts: Sequence[int] | np.ndarray, key: str = "words"
) -> tuple[np.ndarray, np.ndarray]:
    """How many words each window reads, and which these are of the words of all rows, window after window.

    With `key="shared"` those that it does not read because they share a subword, see `read_once`.
    """
    first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    parts = [feature.get(key, ()) for feature in features]
    read = np.array(list(map(len, parts)), dtype=np.int64)
    rows = np.array([feature["row"] for feature in features], dtype=np.int64)
    if isinstance(parts[0], np.ndarray):  # as they were encoded; from a data set they come as lists
        words = np.concatenate(parts)
    else:
        words = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=read.sum())
    return read, words + np.repeat(first[rows], read)


def by_row(values: Sequence[Any], counts: Sequence[int] | np.ndarray) -> list[Sequence[Any]]:
    """Values of the words of all rows, row by row. `counts`: the words of each row."""
    return [values[start:end] for start, end in pairwise([0, *np.cumsum(counts).tolist()])]
