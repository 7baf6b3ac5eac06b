"""The base of loss methods: a factor on each task's loss."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from .base import Balancing

__all__ = ["LossBalancing"]


class LossBalancing(Balancing):
    """A factor on each task's loss.

    A micro-batch is backpropagated before the next one is read, so its factor may hang on the state and on its own
    loss alone. What hangs on all losses of the step is a common factor of all gradients, given at the end of the step:
    with these two every loss method here is exact. The plain loss is the mean of the step's micro-batches, and factors
    of 1 give just that.
    """

    def weight(self, task: str) -> float:
        """The factor of a task's loss in this step."""
        return 1.0

    def term(self, task: str, loss: Tensor) -> Tensor:
        """What a micro-batch of a task backpropagates in place of its loss `[]`."""
        return loss * self.weight(task)

    def end_step(self, losses: Mapping[str, Sequence[float]]) -> float:
        """Takes in the step's losses; gives the factor that all of its gradients are multiplied by.

        Args:
            losses: task -> the losses of its micro-batches in this step, of all processes. A loss that is not finite
                leaves the state as it is, and so does a step of which nothing is learned.
        """
        factor = 1.0
        if losses and all(math.isfinite(value) for values in losses.values() for value in values):
            factor = self.factor(losses)
            self.weights = {
                task: factor * sum(map(self.slope, [task] * len(v), v)) / len(v) for task, v in losses.items()
            }
            self.update({task: sum(v) / len(v) for task, v in losses.items()})
        self.step += 1
        return factor

    def slope(self, task: str, loss: float) -> float:
        """The derivative of `term` by the loss: the factor of a micro-batch's gradient."""
        return self.weight(task)

    def factor(self, losses: Mapping[str, Sequence[float]]) -> float:
        """The common factor of the step's gradients."""
        return 1.0

    def update(self, losses: Mapping[str, float]) -> None:
        """Changes the state by the step's mean loss of each of its tasks."""
