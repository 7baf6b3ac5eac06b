"""What is said of the words of rows, laid out over the windows that read them, and gathered from there."""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import torch

from .base import Features

__all__ = ["IGNORED", "by_row", "label_windows", "stack_windows", "words_of_windows"]

IGNORED = -100


def label_windows(features: Sequence[Features], gold: Sequence[np.ndarray]) -> None:
    """Gives each feature of `encode_words` the `labels` of the words that it reads.

    Where words share a subword (characters of a Latin run) the first of them trains it.

    Args:
        features: the windows of all rows.
        gold: `[words, ...]` of each row.
    """
    for feature in features:
        labels = gold[feature["row"]][feature["words"]]
        labels[1:][np.diff(feature["positions"]) == 0] = IGNORED
        feature["labels"] = labels.tolist()


def stack_windows(labels: Sequence[Sequence[Any]], length: int, one: Any = IGNORED) -> torch.Tensor:
    """The labels of a batch's windows, `[batch, words, ...]`.

    Args:
        labels: what `label_windows` gave, a list for each window.
        length: words of the padded batch.
        one: what stands for a word where a window has no more.
    """
    return torch.tensor([[*values, *[one] * (length - len(values))] for values in labels])


def words_of_windows(
    logits: Sequence[np.ndarray], features: Sequence[Features], counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the words of all rows, one row after the other.

    Args:
        logits: `[words, classes]` for each feature.
        features: with `row` and `words`, as `encode_words` gives them.
        counts: the words of each row.

    Returns:
        `[read, classes]` the logits of the words that a window reads, in no order; `[read]` which words these are.
    """
    first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    read = np.array([len(feature["words"]) for feature in features], dtype=np.int64)
    rows = np.array([feature["row"] for feature in features], dtype=np.int64)
    words = np.fromiter(chain.from_iterable(feature["words"] for feature in features), np.int64, read.sum())
    return np.concatenate(logits), words + np.repeat(first[rows], read)


def by_row(values: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    """Values of the words of all rows, row by row. `counts`: the words of each row."""
    return [values[start:end] for start, end in pairwise([0, *accumulate(counts)])]
