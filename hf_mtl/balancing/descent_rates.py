"""DWA: tasks whose losses fall slowly count more."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .loss_balancing import LossBalancing

__all__ = ["DWA"]


class DWA(LossBalancing):
    """Dynamic weight average (Liu et al. 2019, 1803.10704, eq. 7): T softmax(rate / temperature).

    A task's rate is its mean loss of the last window over that of the window before; 1 where it has no two. Deviation:
    the paper's window is an epoch, of which a fine-tuning run has about three, too few to act.

    Args:
        temperature: large is nearly uniform; the paper's 2.
        window: optimizer steps of a mean. A task that a window has no rows of keeps the means that it has.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, temperature: float = 2.0, window: int = 100):
        super().__init__(tasks, seed)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be above 0.")
        if window < 1:
            raise ValueError(f"window={window} must be 1 step or more.")
        self.temperature = temperature
        self.window = window
        self._sums: dict[str, list[float]] = {task: [0.0, 0] for task in tasks}
        self._means: dict[str, list[float]] = {task: [] for task in tasks}
        self._weights = dict.fromkeys(tasks, 1.0)

    def weight(self, task: str) -> float:
        return self._weights[task]

    def update(self, losses: Mapping[str, float]) -> None:
        for task, loss in losses.items():
            self._sums[task][0] += loss
            self._sums[task][1] += 1
        if (self.step + 1) % self.window == 0:
            for task, (total, count) in self._sums.items():
                if count:
                    self._means[task] = [*self._means[task], total / count][-2:]
            self._sums = {task: [0.0, 0] for task in self.tasks}
            self._weights = self._balanced()

    def _balanced(self) -> dict[str, float]:
        rates = {task: m[1] / m[0] if len(m) == 2 and m[0] > 0 else 1.0 for task, m in self._means.items()}
        top = max(rates.values())
        powers = {task: math.exp((rate - top) / self.temperature) for task, rate in rates.items()}
        return {task: len(powers) * power / sum(powers.values()) for task, power in powers.items()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"sums": self._sums, "means": self._means, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sums = {task: list(v) for task, v in state["sums"].items()}
        self._means = {task: list(v) for task, v in state["means"].items()}
        self._weights = dict(state["weights"])
