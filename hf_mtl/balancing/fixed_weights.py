"""Weights that stay: each loss over the logarithm of its number of labels."""

import math
from collections.abc import Mapping, Sequence

from .loss_balancing import LossBalancing

__all__ = ["LogLabels"]


class LogLabels(LossBalancing):
    """Each loss over log n, n the number of labels: what a guess at random would lose (Muppet, 2101.11038, eq. 1).

    Deviation: the weights are scaled to a mean of 1 over the tasks, so that the learning rate stays what it was.

    Args:
        labels: task -> n; below 2 counts as 2.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, labels: Mapping[str, int] | None = None):
        super().__init__(tasks, seed)
        if labels is None or set(labels) != set(tasks):
            raise ValueError(f"log-labels needs the number of labels of each task of {list(tasks)}, got {labels}.")
        raw = {task: 1 / math.log(max(2, labels[task])) for task in tasks}
        mean = sum(raw.values()) / len(raw)
        self._weights = {task: value / mean for task, value in raw.items()}

    def weight(self, task: str) -> float:
        return self._weights[task]
