"""Methods that look at each parameter by itself, not at the rows' inner products."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .gradient_balancing import GradientBalancing
from .rows import GradientRows

__all__ = ["GradDrop"]

_CPU_COLUMNS = 1 << 16  # of which all that is made fits a processor's cache


class GradDrop(GradientBalancing):
    """Keeps of each parameter's gradients those of one sign, drawn by how they agree (Chen et al. 2020, 2010.06808).

    There are no weights to normalize: where all gradients agree the sum is plain training's. torchjd's, by which this
    is tested, compares and multiplies each row and took as long as the rest of a step; here rows are only added up.

    Args:
        leak: how much of the other sign's gradients stays, from 0 to 1.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, leak: float = 0.0):
        super().__init__(tasks, seed)
        if not 0 <= leak <= 1:
            raise ValueError(f"leak={leak} must be from 0 to 1.")
        self.leak = leak

    def end_step(self, rows: GradientRows, losses: Mapping[str, float]) -> None:
        if rows.parameters:
            with self.torch_random(rows.parameters[0].device):
                rows.write_each(self._dropped)
        self.step += 1

    def _dropped(self, matrix: Tensor) -> Tensor:
        """`[tasks, n]` -> `[n]`."""
        columns = _CPU_COLUMNS if matrix.device.type == "cpu" else matrix.shape[1]
        return torch.cat([self._of_columns(part) for part in matrix.split(columns, dim=1)])

    def _of_columns(self, matrix: Tensor) -> Tensor:
        up, total = matrix[0].clamp(min=0), matrix[0].clone()
        for row in matrix[1:]:
            up += row.clamp(min=0)
            total += row
        both = up * 2 - total  # the sum of all lengths
        side = (up / both.clamp(min=torch.finfo(both.dtype).tiny) - torch.rand_like(up)).sign()
        # By products, so that what is not finite stays so, and the loss scaler sees it.
        kept = (total + side * both) / 2
        return torch.lerp(kept, total, self.leak) if self.leak else kept
