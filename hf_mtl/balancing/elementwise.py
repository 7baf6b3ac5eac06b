"""Methods that look at each parameter by itself, not at the rows' inner products."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .gradient_balancing import GradientBalancing
from .rows import GradientRows
from .torchjd_methods import aggregation

__all__ = ["GradDrop"]


class GradDrop(GradientBalancing):
    """Keeps of each parameter's gradients those of one sign, drawn by how they agree (Chen et al. 2020, 2010.06808).

    There are no weights to normalize: where all gradients agree the sum is plain training's.

    Args:
        leak: how much of the other sign's gradients stays, from 0 to 1.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, leak: float = 0.0):
        super().__init__(tasks, seed)
        if not 0 <= leak <= 1:
            raise ValueError(f"leak={leak} must be from 0 to 1.")
        self.leak = leak
        self._aggregators = aggregation()

    def end_step(self, rows: GradientRows, losses: Mapping[str, float]) -> None:
        if rows.parameters:
            device = rows.parameters[0].device
            leak = torch.full((len(rows.tasks),), self.leak, device=device)

            def dropped(matrix: Tensor) -> Tensor:
                found: Tensor = self._aggregators.GradDrop(leak=leak.to(matrix.dtype))(matrix)
                # It would drop what is not finite, and the loss scaler would not see it.
                return torch.where(matrix.isfinite().all(), found, matrix.sum(0))

            with self.torch_random(device):
                rows.write_each(dropped)
        self.step += 1
