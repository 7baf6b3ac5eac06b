"""CR-MOGM: the weights of another gradient method, averaged over the steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..nearest import nearest
from .gradient_balancing import GramianBalancing
from .torchjd_methods import aligned_mtl, cagrad, config, dualproj, fairgrad, imtl_g, mgda, pcgrad, upgrad

__all__ = ["CRMOGM"]

SMOOTHED: dict[str, Callable[..., GramianBalancing]] = {
    "aligned-mtl": aligned_mtl,
    "cagrad": cagrad,
    "config": config,
    "dualproj": dualproj,
    "fairgrad": fairgrad,
    "imtl-g": imtl_g,
    "mgda": mgda,
    "pcgrad": pcgrad,
    "upgrad": upgrad,
}


class CRMOGM(GramianBalancing):
    """`w = alpha w + (1 - alpha) found`, of each task by itself (Zhou et al. 2022, CR-MOGM, NeurIPS).

    The weights that a method finds from one batch of each task are noise in part. A task's first ones are taken as they
    are. torchjd's own keeps them by the rows' places, which would mix up tasks where a step holds only some of them.

    Args:
        of: whose weights; with its default options.
        alpha: how much of the weights before stays; torchjd's 0.9. The paper lets it grow as the learning rate falls.
    """

    def __init__(
        self, tasks: Sequence[str], seed: int = 0, *, of: str = "mgda", alpha: float = 0.9, normalize: bool = True
    ):
        if of not in SMOOTHED:
            raise ValueError(f"of={of!r} is no method whose weights can be averaged. {nearest(of, SMOOTHED)}")
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha={alpha} must be from 0 to below 1.")
        found = SMOOTHED[of](tasks, seed)
        super().__init__(tasks, seed, undoes_lengths=found.undoes_lengths, normalize=normalize)
        self._found = found
        self._alpha = alpha
        self._averages: dict[str, float] = {}

    def solve(self, gramian: Tensor, tasks: Sequence[str], losses: Mapping[str, float]) -> Tensor:
        found = self._found.solve(gramian, tasks, losses)
        if bool(found.isfinite().all()):
            for task, value in zip(tasks, found.tolist(), strict=True):
                self._averages[task] = self._alpha * self._averages.get(task, value) + (1 - self._alpha) * value
            found = torch.tensor([self._averages[task] for task in tasks], dtype=found.dtype)
        return found

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._averages = dict(state["averages"])
