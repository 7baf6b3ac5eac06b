"""Linear layers whose biases begin where the answers are: most labels do not hold, most words are in no span.

From zeros a bias would first have to travel there, by at most the learning rate a step, and drags the backbone along
meanwhile. After Lin et al. 2017, arXiv:1708.02002, 3.3. Deviation: what is rare is not set by hand, but follows from
the number of labels.
"""

import math
from collections.abc import Sequence

from torch import nn

__all__ = ["StartingBias", "common", "rare"]


class StartingBias(nn.Linear):
    """A linear layer; its weights are drawn as any other's.

    Args:
        width: of what it reads.
        start: for each output the value that its bias has before training.
        bias: whether it has a bias at all.
    """

    def __init__(self, width: int, start: Sequence[float], *, bias: bool = True):
        super().__init__(width, len(start), bias=bias)
        self.start = tuple(start)


def rare(labels: int, one_in: int) -> list[float]:
    """Log odds of so many labels that hold or not, each by itself and in one of `one_in` cases, or in every second."""
    return [-math.log(max(2, one_in) - 1)] * labels


def common(labels: Sequence[str], label: str) -> list[float]:
    """Scores of labels of which one holds: as often this one as all others together. Without it: zeros."""
    return [math.log(max(1, len(labels) - 1)) if name == label else 0.0 for name in labels]
