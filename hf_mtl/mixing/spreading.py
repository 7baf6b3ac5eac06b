"""Shares -> whole numbers of draws, and their places in an epoch."""

import numpy as np

__all__ = ["at_least_one", "carried_on", "largest_remainders", "rounded_up", "spread"]


def rounded_up(quota: np.ndarray, total: int | None = None) -> np.ndarray:
    """Each quota rounded up, then one more where the share is furthest behind until they are `total`, shape [tasks]."""
    # The margin takes rounding back (n / N * N / R); a positive quota keeps its one draw, however small.
    counts = np.ceil(quota * (1 - 1e-12)).astype(np.int64)
    share = quota * ((total or 0) / quota.sum())
    for _ in range((total or 0) - int(counts.sum())):
        counts[np.argmax(share - counts)] += 1
    return counts


def largest_remainders(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, each less than one away from its share, shape [tasks]."""
    share = weights * (total / weights.sum())
    counts = np.floor(share).astype(np.int64)
    behind = np.argsort(counts - share, kind="stable")
    counts[behind[: total - int(counts.sum())]] += 1
    return counts


def at_least_one(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, by the weights, but 1 for each share that is above 0 and below 1, [tasks]."""
    share = weights * (total / weights.sum())
    small = (share > 0) & (share < 1)
    if small.sum() + (share >= 1).sum() > total:
        return largest_remainders(weights, total)
    return small + largest_remainders(np.where(small, 0.0, weights), total - int(small.sum()))


def carried_on(quota: np.ndarray, times: int, before: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to `quota`, and with those before stay less than one above `times` quotas, [tasks]."""
    total = round(float(quota.sum()))
    need = quota * times - before
    counts = np.floor(np.maximum(need, 0) + 1e-9).astype(np.int64)
    missing = total - int(counts.sum())
    if missing >= 0:
        counts[np.argsort(counts - need, kind="stable")[:missing]] += 1
    for _ in range(-missing):  # tasks that are ahead have left too little for the others
        counts[np.argmax(np.where(counts > 0, counts - need, -np.inf))] -= 1
    return counts


def spread(counts: np.ndarray, weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The task numbers of `counts.sum()` draws in their order.

    The draws of a task are one at a random point of each of its `count` equal parts; where the weights change, of its
    parts of equal weight.

    Args:
        counts: draws of each task, shape [tasks].
        weights: weights of the tasks in equal stretches of the time, shape [stretches, tasks].
        random: where the points come from.
    """
    numbers = np.repeat(np.arange(len(counts)), counts)
    begins = np.cumsum(counts) - counts
    nth = np.arange(len(numbers)) - np.repeat(begins, counts)
    times = (nth + random.random(len(numbers))) / np.repeat(counts, counts)
    if len(weights) > 1:
        edges = np.linspace(0, 1, len(weights) + 1)
        for task in np.flatnonzero(counts):
            own = slice(begins[task], begins[task] + counts[task])
            reached = np.concatenate([[0.0], np.cumsum(weights[:, task])])
            times[own] = np.interp(times[own], reached / reached[-1], edges)
    return numbers[np.argsort(times, kind="stable")]
