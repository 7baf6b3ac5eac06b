"""Rows of words -> model inputs, long rows in overlapping windows, each word read in exactly one of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Features
from .words import first_subwords, join_words

__all__ = ["encode_words"]

# Of a long row's window, how much is context shared with the window before.
OVERLAP = 0.25


def encode_words(rows: Sequence[Sequence[str]], tokenizer: Any, split: str, limit: int) -> list[Features]:
    """A feature for each window of each row.

    Beside the model's inputs a feature has `row`, `words` (which words of the row are read here) and `positions`
    (where the first subword of each of them is). A word without a subword is read nowhere.
    """
    joined = [join_words(words, split) for words in rows]
    special = tokenizer.num_special_tokens_to_add(pair=False)
    encoded = tokenizer(
        [text for text, _ in joined],
        truncation=True,
        max_length=limit,
        stride=max(0, int((limit - special) * OVERLAP)),
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    windows = encoded.encodings
    of_row = encoded["overflow_to_sample_mapping"]
    features: list[Features] = []
    for i, window in enumerate(windows):
        row = of_row[i]
        content = np.flatnonzero(np.asarray(window.special_tokens_mask) == 0)
        subwords = np.asarray(window.offsets, dtype=np.int64).reshape(-1, 2)[content]
        if len(subwords):
            spans = joined[row][1]
            first = i > 0 and of_row[i - 1] == row
            last = i + 1 < len(windows) and of_row[i + 1] == row
            start = _middle(windows[i - 1], window) if first else 0
            end = _middle(window, windows[i + 1]) if last else spans[-1, 1] + 1 if len(spans) else 0
            found = first_subwords(spans, subwords)
            # A subword that was cut off by the window's edge is not the word's first: the other window has it.
            kept = (found >= 0) & (spans[:, 0] >= start) & (spans[:, 0] < end)
            words, positions = np.flatnonzero(kept), content[found[kept]]
        else:
            words = positions = np.zeros(0, dtype=np.int64)
        ids = window.ids or [
            tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
        ]
        feature: Features = {
            "input_ids": ids,
            "row": row,
            "words": words.tolist(),
            "positions": positions.tolist(),
        }
        if "token_type_ids" in encoded:
            feature["token_type_ids"] = window.type_ids or [0]
        features.append(feature)
    return features


def _middle(before: Any, after: Any) -> int:
    """The character in the middle of what two neighbouring windows share: left of it the first has more context."""
    begin = next(s for (s, e), m in zip(after.offsets, after.special_tokens_mask, strict=True) if not m)
    end = next(
        e
        for (s, e), m in zip(reversed(before.offsets), reversed(before.special_tokens_mask), strict=True)
        if not m
    )
    return (begin + end) // 2
