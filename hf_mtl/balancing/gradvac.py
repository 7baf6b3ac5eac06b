"""GradVac: torchjd's weighting, with its memory of cosines kept by task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .gradient_balancing import GramianBalancing
from .torchjd_methods import aggregation

__all__ = ["GradVac"]


class GradVac(GramianBalancing):
    """Rows turned until their cosines reach the pair's running mean (Wang et al. 2021, 2010.05874, algorithm 1).

    torchjd's weighting remembers the cosines by the rows' places, which would mix up tasks where a step holds only some
    of them. So they are kept here, and lent to it for a step.

    Args:
        beta: how far a step moves the running mean; torchjd's 0.5, the paper's 0.01 for far longer runs.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0, *, beta: float = 0.5, normalize: bool = True):
        super().__init__(tasks, seed, weighting=aggregation().GradVacWeighting(beta=beta), normalize=normalize)
        self._cosines = torch.zeros(len(tasks), len(tasks))

    def solve(self, gramian: Tensor, tasks: Sequence[str], losses: Mapping[str, float]) -> Tensor:
        places = torch.tensor([self.tasks.index(task) for task in tasks])
        own = (places.unsqueeze(1), places)
        self._weighting._phi_t = self._cosines[own]
        self._weighting._state_key = (len(tasks), gramian.dtype)
        weights: Tensor = self._weighting(gramian)
        self._cosines[own] = self._weighting._phi_t
        return weights

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"cosines": self._cosines.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._cosines = torch.tensor(state["cosines"])
