"""Rows of similar length together: a run of rows cut into micro-batches within limits."""

import numpy as np

__all__ = ["cut_by_length", "most_rows"]


def cut_by_length(
    lengths: np.ndarray, inputs: np.ndarray, batches: int, batch_size: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Places `[rows]` of the rows in so many micro-batches, the longest rows first; equal lengths as they come.

    Args:
        lengths: `[rows]` tokens of the longest input of each row.
        inputs: `[rows]` inputs of each row.
        batches: how many there are to be. Without a token budget the rows must fill them.
        batch_size: the most rows of one.
        max_tokens: the most tokens of one, padding counted; None: no limit. The rows must fit, see `most_rows`.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    if max_tokens is None:
        return np.split(order, batches)
    lengths, inputs = lengths[order], inputs[order]
    bounds = _bounds(lengths, inputs, batch_size, max_tokens)
    while len(bounds) <= batches:  # rows of many inputs may leave one micro-batch too few
        widest = int(np.argmax(np.diff(bounds)))
        bounds.insert(widest + 1, (bounds[widest] + bounds[widest + 1]) // 2)
    if batches > 1:
        middle = (bounds[-3] + bounds[-1]) // 2
        left = bounds[-1] - bounds[-2]
        # What the shortest rows leave over is shared with the micro-batch beside it, where that fits.
        if left < bounds[-2] - middle and inputs[middle:].sum() * lengths[middle] <= max_tokens:
            bounds[-2] = middle
    return np.split(order, bounds[1:-1])


def most_rows(lengths: np.ndarray, inputs: np.ndarray, batches: int, batch_size: int, max_tokens: int) -> int:
    """How many of the first of these rows fit into so many micro-batches; at least one a micro-batch."""
    low, high = batches, min(len(lengths), batches * batch_size)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    while low < high:
        middle = (low + high + 1) // 2
        first = order[order < middle]
        if len(_bounds(lengths[first], inputs[first], batch_size, max_tokens)) - 1 <= batches:
            low = middle
        else:
            high = middle - 1
    return low


def _bounds(lengths: np.ndarray, inputs: np.ndarray, batch_size: int, max_tokens: int) -> list[int]:
    """Where micro-batches of rows that come longest first begin and end: as many rows in each as fit."""
    ends = np.cumsum(inputs)
    bounds = [0]
    while (start := bounds[-1]) < len(lengths):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + max_tokens // max(1, int(lengths[start])), side="right"))
        bounds.append(min(fitting, start + batch_size))
    return bounds
