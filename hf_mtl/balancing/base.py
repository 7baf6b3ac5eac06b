"""What every balancing method has: the tasks, a step counter that seeds its random numbers, a state to be kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["Balancing"]


class Balancing:
    """How the losses or gradients of the tasks in an optimizer step become one.

    Everything is said by task names: the tasks of a step are those that the mixture drew for it.

    Args:
        tasks: all task names; methods look at the tasks of a step in this order.
        seed: of methods that draw. What a step draws is a pure function of the seed and the step's number, so it is
            the same in every process, and after a resume.

    Attributes:
        step: steps done.
        weights: what the tasks of the last step counted by, for the log.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0):
        self.tasks = tuple(tasks)
        self.seed = seed
        self.step = 0
        self.weights: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values; floats survive JSON to the bit."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.step = int(state["step"])

    def numpy_random(self) -> np.random.Generator:
        """The random numbers of this step."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.step])))

    @contextmanager
    def torch_random(self, device: torch.device) -> Iterator[None]:
        """Inside, torch's global generators draw this step's numbers; outside nothing has changed."""
        indices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(indices, device_type="cuda" if device.type == "cpu" else device.type):
            torch.manual_seed(int(self.numpy_random().integers(2**62)))
            yield
