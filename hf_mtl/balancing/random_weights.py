"""RLW: weights drawn anew for every step."""

from collections.abc import Sequence

import numpy as np

from .loss_balancing import LossBalancing

__all__ = ["RLW"]


class RLW(LossBalancing):
    """Random loss weighting: T softmax(z), z normal, drawn anew for every step (Lin et al. 2022, 2111.10603, alg. 1).

    The paper's litmus test: a method that is no better than this one learns nothing from the losses. Deviation: the
    factor T, the number of tasks, keeps the mean weight at 1.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0):
        super().__init__(tasks, seed)
        self._drawn: tuple[int, dict[str, float]] = (-1, {})

    def weight(self, task: str) -> float:
        if self._drawn[0] != self.step:
            powers = np.exp(self.numpy_random().standard_normal(len(self.tasks)))
            weights = len(self.tasks) * powers / powers.sum()
            self._drawn = self.step, dict(zip(self.tasks, weights.tolist(), strict=True))
        return self._drawn[1][task]
