"""Adam on one number per task, each stepped only where its task was in the step."""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["TaskAdam"]


class TaskAdam:
    """Adam (1412.6980, algorithm 1) with torch's defaults, on numbers that belong to tasks.

    The trainer's optimizer could hold them too. But its rate, a ten-thousandth that decays, would hardly move a
    log variance in a fine-tuning run, and its gradients would have to pass the loss scaler and the clipping.

    Args:
        learning_rate: of a step.
        weight_decay: as `torch.optim.Adam` has it: added to the gradient.
    """

    def __init__(self, learning_rate: float, weight_decay: float = 0.0):
        for name, value, ok in (
            ("learning_rate", learning_rate, learning_rate > 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
        ):
            if not (ok and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be a number above 0 (weight_decay: or 0).")
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self._state: dict[str, tuple[int, float, float]] = {}

    def stepped(self, task: str, value: float, gradient: float) -> float:
        """The task's number after a step."""
        count, first, second = self._state.get(task, (0, 0.0, 0.0))
        gradient = gradient + self.weight_decay * value
        count, first, second = count + 1, 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        self._state[task] = count, first, second
        root = math.sqrt(second / (1 - 0.999**count)) + 1e-8
        return value - self.learning_rate * first / (1 - 0.9**count) / root

    def state_dict(self) -> dict[str, Any]:
        return {task: list(state) for task, state in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = {task: (int(n), float(m), float(v)) for task, (n, m, v) in state.items()}
