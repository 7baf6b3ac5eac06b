"""GradNorm: gradients of a length that fits each task's pace."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .adam import TaskAdam
from .gradient_balancing import GramianBalancing

__all__ = ["GradNorm"]


class GradNorm(GramianBalancing):
    """Weights that bring each row's length to the mean's, times its pace to the power alpha (Chen et al. 2018, alg. 1).

    A task's pace is its loss over its first loss, over the mean of all tasks in the step. The lengths are of the rows
    over all shared parameters (the paper: of the last shared layer), and the weights count for these alone. A weight
    stays above a thousandth: Adam's step is of one size, and would carry a small one below 0.

    Args:
        alpha: 0 makes all lengths equal; the paper's 1.5 suits tasks that differ much.
        learning_rate: of the weights.
    """

    reads_losses = True

    def __init__(
        self, tasks: Sequence[str], seed: int = 0, *, alpha: float = 1.5, learning_rate: float = 0.025,
        normalize: bool = True,
    ):  # fmt: skip
        super().__init__(tasks, seed, undoes_lengths=True, normalize=normalize)
        self.alpha = alpha
        self._adam = TaskAdam(learning_rate)
        self._learned = dict.fromkeys(tasks, 1.0)
        self._first: dict[str, float] = {}

    def solve(self, gramian: Tensor, tasks: Sequence[str], losses: Mapping[str, float]) -> Tensor:
        used = torch.tensor([self._learned[task] for task in tasks])
        lengths = gramian.diagonal().sqrt()
        self._first = {task: losses[task] for task in tasks} | self._first
        paces = torch.tensor([losses[task] / max(self._first[task], 1e-8) for task in tasks])
        wanted = (used * lengths).mean() * (paces / paces.mean()) ** self.alpha
        slopes = torch.sign(used * lengths - wanted) * lengths
        for task, slope in zip(tasks, slopes.tolist(), strict=True):
            self._learned[task] = max(self._adam.stepped(task, self._learned[task], slope), 1e-3)
        scale = len(self.tasks) / sum(self._learned.values())
        self._learned = {task: value * scale for task, value in self._learned.items()}
        return used

    def state_dict(self) -> dict[str, Any]:
        own = {"learned": dict(self._learned), "first": dict(self._first), "adam": self._adam.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._learned, self._first = dict(state["learned"]), dict(state["first"])
        self._adam.load_state_dict(state["adam"])
