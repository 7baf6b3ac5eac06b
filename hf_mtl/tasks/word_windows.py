"""Rows of words -> model inputs, long rows in overlapping windows, each word read in exactly one of them."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from .base import Features
from .words import first_subwords, gap_between

__all__ = ["encode_words", "stack_positions"]

# Of a long row's window, how much is context shared with the window before.
OVERLAP = 0.25


def encode_words(rows: Sequence[Sequence[str]], tokenizer: Any, split: str, limit: int) -> list[Features]:
    """A feature for each window of each row.

    Beside the model's inputs a feature has `row`, `words` (which words of the row are read here) and
    `positions` (where the first subword of each of them is), two arrays. A word without a subword is read
    nowhere.
    """
    gap = gap_between(split)
    special = tokenizer.num_special_tokens_to_add(pair=False)
    encoded = tokenizer(
        [gap.join(words) for words in rows],
        truncation=True,
        max_length=limit,
        stride=max(0, int((limit - special) * OVERLAP)),
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    of_row = encoded["overflow_to_sample_mapping"]
    order = list(range(len(of_row)))
    if tokenizer.truncation_side == "left":  # a row's windows come last first
        order.sort(key=lambda i: (of_row[i], -i))
    windows = [encoded.encodings[i] for i in order]
    words, positions, bounds = _read(rows, len(gap), windows, np.array(of_row, dtype=np.int64))
    filler = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
    types = encoded.get("token_type_ids")
    features: list[Features] = []
    for i, (place, row) in enumerate(zip(order, of_row, strict=True)):
        start, end = bounds[i], bounds[i + 1]
        ids = encoded["input_ids"][place]
        feature = {
            "input_ids": ids or [filler],
            "row": row,
            "words": words[start:end],
            "positions": positions[start:end],
        }
        if types is not None:
            feature["token_type_ids"] = types[place] or [0]
        features.append(feature)
    return features


def stack_positions(positions: Sequence[Sequence[int]]) -> torch.Tensor:
    """The positions of a batch's features, `[batch, words]`; -1 where a feature has no more."""
    longest = max(1, *map(len, positions))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in positions])


def _read(
    rows: Sequence[Sequence[str]], gap: int, windows: Sequence[Any], of_row: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Which words the windows read and where, window after window, and where each window's begin.

    All windows are looked at together, as if each had a text of its own after that of the window before:
    numpy calls for each of thousands of short rows would take longer than their tokenizer.
    """
    counts = np.array([len(words) for words in rows], dtype=np.int64)
    lengths = np.fromiter(map(len, chain.from_iterable(rows)), dtype=np.int64, count=counts.sum())
    behind = np.concatenate([[0], np.cumsum(lengths + gap)])
    first_word = np.concatenate([[0], np.cumsum(counts)])
    starts = behind[:-1] - np.repeat(behind[first_word[:-1]], counts)
    read = np.concatenate([_first_words(starts, first_word, windows, of_row), first_word[-1:]])

    base = np.concatenate([[0], np.cumsum((behind[first_word[1:]] - behind[first_word[:-1]] + 2)[of_row])])[:-1]
    word_base = np.repeat(base, np.diff(read))
    subwords = np.array([len(window) for window in windows], dtype=np.int64)
    offsets = np.fromiter(
        chain.from_iterable(chain.from_iterable(window.offsets for window in windows)), dtype=np.int64
    ).reshape(-1, 2)
    masks = chain.from_iterable(window.special_tokens_mask for window in windows)
    content = np.flatnonzero(np.fromiter(masks, dtype=np.int64) == 0)
    position = np.arange(len(offsets)) - np.repeat(np.cumsum(subwords) - subwords, subwords)
    found = first_subwords(
        np.stack([starts, starts + lengths], axis=1) + word_base[:, None],
        (offsets + np.repeat(base, subwords)[:, None])[content],
    )

    kept = np.flatnonzero(found >= 0)
    number = np.arange(len(starts)) - np.repeat(first_word[:-1], counts)
    bounds = np.searchsorted(kept, read)
    return number[kept], position[content[found[kept]]], bounds.tolist()


def _first_words(starts: np.ndarray, first_word: np.ndarray, windows: Sequence[Any], of_row: np.ndarray) -> np.ndarray:
    """The first word that each window reads; it reads up to the next one's. Words are counted through.

    Two windows of a row part what they share in the middle. A subword that was cut off by a window's edge is
    not a word's first, but then the other window reads that word.
    """
    first = first_word[of_row]
    for i in (np.flatnonzero(of_row[1:] == of_row[:-1]) + 1).tolist():
        row = of_row[i]
        own = starts[first_word[row] : first_word[row + 1]]
        first[i] = first_word[row] + np.searchsorted(own, _middle(windows[i - 1], windows[i]))
    return np.maximum.accumulate(first)


def _middle(before: Any, after: Any) -> int:
    """The character in the middle of what two neighbours share: left of it the first has more context."""
    begin = next(s for (s, e), m in zip(after.offsets, after.special_tokens_mask, strict=True) if not m)
    end = next(
        e for (s, e), m in zip(reversed(before.offsets), reversed(before.special_tokens_mask), strict=True) if not m
    )
    return (begin + end) // 2
