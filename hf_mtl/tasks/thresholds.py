"""Where to draw a line so that what lies on its two sides scores best."""

import numpy as np

__all__ = ["best_f1_threshold", "best_threshold"]


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


def best_f1_threshold(scores: np.ndarray, gold: np.ndarray, wanted: int) -> float | None:
    """The threshold with the best F1, 2 · hits / (answered + wanted), for answers whose score is above it.

    Args:
        scores: `[answers]` 0 to 1.
        gold: `[answers]` whether each is right.
        wanted: how many answers are right, with those that have no score.

    Returns:
        0 or more and below 1, halfway between two scores; of several that are as good the highest. None where no
        threshold gives a hit.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    hits = gold[order].cumsum()
    following = np.append(ranked[1:], 0.0)
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + wanted)
    f1[ranked == following] = 0  # equal scores are all above a threshold, or none
    best = f1.argmax()
    if f1[best] == 0:
        return None
    middle = (ranked[best] + following[best]) / 2
    # Between neighbouring floats there is no middle.
    return float(middle if middle < ranked[best] else following[best])
