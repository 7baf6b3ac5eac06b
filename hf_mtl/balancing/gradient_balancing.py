"""The base of gradient methods: the rows of a step become one gradient of the shared parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Balancing
from .rows import GradientRows

__all__ = ["GradientBalancing", "GramianBalancing"]


class GradientBalancing(Balancing):
    """What the gradients of the step's tasks, with respect to the parameters that they share, become.

    A task's row is the gradient of its part of the plain loss, so that rows of weight 1 add up to plain training.
    """

    reads_losses = False

    def end_step(self, rows: GradientRows, losses: Mapping[str, float]) -> None:
        """Leaves the step's gradient in `.grad` of the shared parameters.

        Args:
            rows: the tasks' gradients, over all processes; used up.
            losses: the tasks' mean losses where the method `reads_losses`.
        """
        raise NotImplementedError


class GramianBalancing(GradientBalancing):
    """A weight for each row, from the inner products of the rows alone.

    The Gramian is scaled to a mean of 1 on its diagonal first: the methods' own small numbers (torchjd's solvers take
    a squared norm below 1e-4 for zero) then mean the same for every model, loss scale and number of micro-batches.

    Args:
        weighting: `gramian [tasks, tasks]` in float32 -> weights `[tasks]`; torchjd's own, or one alike.
        undoes_lengths: whether the weights make up for how long a row is. A task's own weight would be made up for as
            well, so they are found for rows without it.
        normalize: scale the weights to a sum of K, the number of the step's tasks, as plain training has it. Learning
            rates then stay comparable between methods; some, as Nash-MTL's, hang on the size of the gradients.
    """

    def __init__(
        self, tasks: Sequence[str], seed: int = 0, *, weighting: Any = None, undoes_lengths: bool = False,
        normalize: bool = True,
    ):  # fmt: skip
        super().__init__(tasks, seed)
        self._weighting = weighting
        self._normalize = normalize
        self.undoes_lengths = undoes_lengths

    def end_step(self, rows: GradientRows, losses: Mapping[str, float]) -> None:
        gramian = rows.gramian()
        if self.undoes_lengths:
            own = torch.tensor([weight or 1.0 for weight in rows.weights])  # of weight 0 the row is zeros
            gramian /= own.outer(own)
        weights = self.weigh(gramian, rows.tasks, losses).tolist()
        self.weights = dict(zip(rows.tasks, weights, strict=True))
        self.step += 1
        rows.write_sum(weights)

    def weigh(self, gramian: Tensor, tasks: Sequence[str], losses: Mapping[str, float] | None = None) -> Tensor:
        """The weights `[tasks]` of the rows whose inner products are given.

        Rows of zero length have nothing to say and no part in it. Where a row is not finite all weights are 1: the
        sum is then not finite either, and the loss scaler, or whoever guards the step, sees it.
        """
        weights = torch.ones(len(tasks))
        alive = [i for i in range(len(tasks)) if gramian[i, i] > 0]
        if len(alive) < 2 or not bool(gramian.isfinite().all()):
            return weights
        inner = gramian[alive][:, alive]
        scaled = inner / inner.diagonal().mean()
        with self.torch_random(gramian.device):
            found = self.solve(scaled, [tasks[i] for i in alive], losses or {}).to(weights.dtype)
        if self._normalize and float(found.sum()) > 1e-6 * float(found.abs().sum()):
            found = found * (len(alive) / found.sum())
        if bool(found.isfinite().all()):
            weights[alive] = found
        return weights

    def solve(self, gramian: Tensor, tasks: Sequence[str], losses: Mapping[str, float]) -> Tensor:
        """The method's own weights of two rows or more, none of them zero."""
        weights: Tensor = self._weighting(gramian)
        return weights
