"""Nash-MTL: the tasks' bargaining solution."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .gradient_balancing import GramianBalancing

__all__ = ["NashMTL"]


class NashMTL(GramianBalancing):
    """Weights a with G a = 1 / a: the Nash bargaining solution (Navon et al. 2022, 2202.01017, claim 3.1).

    They are where a' G a / 2 - sum(log a) is least, which is convex: Newton's method finds them in a few steps. torchjd
    has the paper's own way, a row of linearized problems for a solver (ECOS), which ends near this point and warns.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, normalize: bool = True):
        super().__init__(tasks, seed, undoes_lengths=True, normalize=normalize)

    def solve(self, gramian: Tensor, tasks: Sequence[str], losses: Mapping[str, float]) -> Tensor:
        return bargain(gramian)


def bargain(gramian: Tensor, steps: int = 100) -> Tensor:
    """a `[tasks]`, all above 0, with G a = 1 / a, for a Gramian of size about 1.

    Rows that can cancel each other have no such point; a trace of the identity keeps the weights finite then.
    """
    size = len(gramian)
    inner = gramian.double() + 1e-6 * torch.eye(size, dtype=torch.double)
    weights = inner.diagonal().rsqrt() / size**0.5
    for _ in range(steps):
        slope = inner @ weights - 1 / weights
        move = torch.linalg.solve(inner + torch.diag(weights**-2), slope)
        # The objective is self-concordant: this length converges from anywhere and keeps all weights above 0.
        decrement = float(torch.sqrt(slope @ move))
        weights = weights - move / (1 + decrement if decrement > 0.25 else 1)
        if decrement < 1e-10:
            break
    return weights
