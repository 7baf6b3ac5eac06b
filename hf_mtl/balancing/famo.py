"""FAMO: all losses fall at the same relative rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .adam import TaskAdam
from .loss_balancing import LossBalancing

__all__ = ["FAMO"]

_SMALL = 1e-8


class FAMO(LossBalancing):
    """Fast adaptive multitask optimization (Liu et al. 2023, 2306.03792, algorithm 1).

    A micro-batch backpropagates z log L with z = softmax(w) over all tasks; the common factor makes the step's weights
    a mean. w follows the tasks' falls of log L: who fell less than the others rises.

    Deviation: the paper measures the fall on the same batch, by a second forward after the step. Here it is from the
    task's last step to this one, over other rows, which costs nothing; noise over rows averages out in Adam's mean.

    Args:
        learning_rate: of w; the paper's.
        weight_decay: of w; the paper's.
    """

    def __init__(
        self, tasks: Sequence[str], seed: int = 0, *, learning_rate: float = 0.025, weight_decay: float = 1e-3
    ):
        super().__init__(tasks, seed)
        self._adam = TaskAdam(learning_rate, weight_decay)
        self._logits = dict.fromkeys(tasks, 0.0)
        self._last: dict[str, float] = {}

    def weight(self, task: str) -> float:
        top = max(self._logits.values())
        powers = {name: math.exp(value - top) for name, value in self._logits.items()}
        return powers[task] / sum(powers.values())

    def term(self, task: str, loss: Tensor) -> Tensor:
        return (loss + _SMALL).log() * self.weight(task)

    def slope(self, task: str, loss: float) -> float:
        return self.weight(task) / (loss + _SMALL)

    def factor(self, losses: Mapping[str, Sequence[float]]) -> float:
        slopes = [self.slope(task, value) for task, values in losses.items() for value in values]
        return len(slopes) / sum(slopes)

    def update(self, losses: Mapping[str, float]) -> None:
        logs = {task: math.log(loss + _SMALL) for task, loss in losses.items()}
        falls = {task: self._last[task] - now for task, now in logs.items() if task in self._last}
        self._last.update(logs)
        # The softmax of the tasks whose fall is known: the others are neither ahead nor behind.
        parts = {task: self.weight(task) for task in falls}
        whole = sum(parts.values())
        mean = sum(parts[task] * fall for task, fall in falls.items()) / whole if falls else 0.0
        for task, fall in falls.items():
            self._logits[task] = self._adam.stepped(task, self._logits[task], parts[task] / whole * (fall - mean))

    def state_dict(self) -> dict[str, Any]:
        own = {"logits": dict(self._logits), "last": dict(self._last), "adam": self._adam.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._logits, self._last = dict(state["logits"]), dict(state["last"])
        self._adam.load_state_dict(state["adam"])
