"""Weights that are learned with the model: uncertainty weighting, and IMTL-L."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .adam import TaskAdam
from .loss_balancing import LossBalancing

__all__ = ["IMTLL", "Uncertainty"]


class _LearnedScale(LossBalancing):
    """exp(-s) L + r s, with a number s for each task, learned by an Adam of its own. Begins at s = 0, a weight of 1."""

    regularizer = 1.0

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, learning_rate: float = 0.01):
        super().__init__(tasks, seed)
        self._adam = TaskAdam(learning_rate)
        self._scales = dict.fromkeys(tasks, 0.0)

    def weight(self, task: str) -> float:
        return math.exp(-self._scales[task])

    def update(self, losses: Mapping[str, float]) -> None:
        for task, loss in losses.items():
            slope = self.regularizer - self.weight(task) * loss
            self._scales[task] = self._adam.stepped(task, self._scales[task], slope)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"scales": dict(self._scales), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._scales = dict(state["scales"])
        self._adam.load_state_dict(state["adam"])


class Uncertainty(_LearnedScale):
    """L / sigma^2 + log sigma, sigma learned (Kendall et al. 2018, 1705.07115, eq. 10), with s = log sigma^2.

    That is their form for classification; the one for regression has half of the first term. At rest a task counts by
    1 / 2L.

    Args:
        learning_rate: of s. At 0.01 a weight may fall to a third in a hundred steps.
    """

    regularizer = 0.5


class IMTLL(_LearnedScale):
    """exp(s) L - s, s learned, which makes the scaled losses equal (IMTL-L, Liu et al. 2021, section 3.2).

    At rest a task counts by 1 / L. (s has the other sign here than in the paper.)

    Args:
        learning_rate: of s.
    """
