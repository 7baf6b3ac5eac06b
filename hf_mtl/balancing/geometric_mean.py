"""GLS: the geometric mean of the losses."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from .loss_balancing import LossBalancing

__all__ = ["GLS"]

_SMALL = 1e-8  # a loss of 0 has no logarithm


class GLS(LossBalancing):
    """The geometric mean of the step's losses in place of their mean (Chennupati et al. 2019, MultiNet++, eq. 2).

    Its gradient is G times the mean of the gradients of log L, so that a micro-batch backpropagates log L and G, the
    geometric mean, is the common factor of the step. All micro-batches of a step count alike, as in the plain mean.
    """

    def term(self, task: str, loss: Tensor) -> Tensor:
        return (loss + _SMALL).log()

    def slope(self, task: str, loss: float) -> float:
        return 1 / (loss + _SMALL)

    def factor(self, losses: Mapping[str, Sequence[float]]) -> float:
        logs = [math.log(value + _SMALL) for values in losses.values() for value in values]
        return math.exp(sum(logs) / len(logs))
