"""The likeliest answers, as spans of a context's characters, by what a head says of its windows."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["RankedSpans", "Window", "rank_spans"]

# What str.strip() takes away, by code point; above these there is none, the last entry stands for all others.
_BLANK = np.array([chr(code).isspace() for code in range(0x3002)])


class Window(NamedTuple):
    """What a head said of a window: `logits [length, 2]` (begins here, ends here), no answer's in position 0.

    `offsets [subwords, 2]` are the characters of the context's subwords; the first is in position `first`.
    """

    logits: np.ndarray
    first: int
    offsets: Sequence[Sequence[int]] | np.ndarray


class RankedSpans(NamedTuple):
    """Spans of a text, best first: `scores [spans]`, `characters [spans, 2]`; and the `null` score."""

    scores: np.ndarray
    characters: np.ndarray
    null: float


def rank_spans(windows: Sequence[Window], text: str, longest: int, count: int) -> RankedSpans:
    """The `count` best spans of a text that was read in windows, by begin logit + end logit.

    The search is exact: every span of at most `longest` subwords of one window is weighed. Spans begin and
    end at visible characters; what two windows both hold, or two spans of subwords both spell, counts once.
    The null score is the least that any window gives to no answer: most windows of a long text hold none.
    """
    begins, ends = _visible(text)
    scores, characters, nulls = [], [], []
    for window in windows:
        nulls.append(float(window.logits[0].sum()))
        if len(window.offsets):
            # Twice as fast as np.array, and half of what a window would cost.
            offsets = np.fromiter(chain.from_iterable(window.offsets), np.int64).reshape(-1, 2)
            # White space at their ends left out: a subword of nothing else begins after its end.
            visible = np.stack([begins[offsets[:, 0]], ends[offsets[:, 1]]], axis=1)
            logits = window.logits[window.first : window.first + len(offsets)]
            found = _best_of_window(logits, visible, longest, count)
            scores.append(found[0])
            characters.append(found[1])
    if not scores:
        return RankedSpans(np.zeros(0, np.float32), np.zeros((0, 2), np.int64), min(nulls, default=float("inf")))
    ranked = _distinct(np.concatenate(scores), np.concatenate(characters), len(text) + 1)
    return RankedSpans(ranked[0][:count], ranked[1][:count], min(nulls))


def _best_of_window(
    logits: np.ndarray, characters: np.ndarray, longest: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and characters of a window's best spans, best first; of equals the earliest and shortest."""
    width = min(longest, len(logits))
    # The end of the span of k + 1 subwords that begins at i, for all i and k: views, nothing is copied.
    ends = sliding_window_view(np.append(logits[:, 1], np.full(width - 1, -np.inf, logits.dtype)), width)
    stops = sliding_window_view(np.append(characters[:, 1], np.full(width - 1, -1)), width)
    sums = np.where(characters[:, :1] < stops, logits[:, :1] + ends, -np.inf)
    # The best spans overall begin where the best spans of one beginning are best.
    begins = np.sort(np.argsort(-sums.max(axis=1), kind="stable")[:count])
    sums = sums[begins].ravel()
    best = np.argsort(-sums, kind="stable")[:count]
    best = best[sums[best] > -np.inf]
    first = begins[best // width]
    spans = np.stack([characters[first, 0], characters[first + best % width, 1]], axis=1)
    return sums[best], spans


def _visible(text: str) -> tuple[np.ndarray, np.ndarray]:
    """For each place in a text, its end too: the next visible character, and the end of the one before."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    shown = ~_BLANK[np.minimum(codes, len(_BLANK) - 1)]
    places = np.arange(len(codes) + 1)
    following = np.append(np.where(shown, places[:-1], len(codes)), len(codes))
    before = np.append(0, np.where(shown, places[1:], 0))
    return np.minimum.accumulate(following[::-1])[::-1], np.maximum.accumulate(before)


def _distinct(scores: np.ndarray, characters: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted, best first, each span once."""
    order = np.argsort(-scores, kind="stable")
    _, kept = np.unique(characters[order] @ np.array([size, 1]), return_index=True)
    order = order[np.sort(kept)]
    return scores[order], characters[order]
