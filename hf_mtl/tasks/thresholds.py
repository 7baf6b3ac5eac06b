"""Where to draw a line so that what lies on its two sides scores best."""

import numpy as np

__all__ = ["best_threshold"]


def best_threshold(margins: np.ndarray, gains: np.ndarray) -> float | None:
    """The threshold with the greatest sum of the gains whose margin is not above it.

    It lies in the middle of the two margins that it parts; of several as good the one that takes most.

    Args:
        margins: `[items]` an item is taken where its margin is at most the threshold.
        gains: `[items]` what taking it gains, or loses.

    Returns:
        The threshold; None where there are no items.
    """
    if not len(margins):
        return None
    order = np.argsort(margins, kind="stable")
    margins, gains = margins[order], gains[order]
    # A cut between equal margins cannot be made.
    cuts = np.flatnonzero(np.append(True, np.append(margins[1:] > margins[:-1], True)))
    sums = np.append(0.0, np.cumsum(gains))[cuts]
    best = cuts[len(sums) - 1 - int(np.argmax(sums[::-1] >= sums.max() - 1e-9))]
    edges = np.concatenate([margins[:1] - 1, margins, margins[-1:] + 1])
    return float((edges[best] + edges[best + 1]) / 2)
