"""How the losses or gradients of the tasks in an optimizer step become one step.

*Loss methods* put a factor on each task's loss. *Gradient methods* take one row of gradients for each task, over the
parameters that the tasks share, and make one gradient of them. Both know tasks by name only, and keep a small state.
"""

from .averaging import average_gradients
from .base import Balancing
from .gradient_balancing import GradientBalancing, GramianBalancing
from .loss_balancing import LossBalancing
from .methods import (
    BALANCING_METHODS,
    GRADIENT_METHODS,
    LOSS_METHODS,
    balancing_options,
    check_balancing,
    make_balancing,
)
from .rows import GradientRows

__all__ = [
    "BALANCING_METHODS",
    "GRADIENT_METHODS",
    "LOSS_METHODS",
    "Balancing",
    "GradientBalancing",
    "GradientRows",
    "GramianBalancing",
    "LossBalancing",
    "average_gradients",
    "balancing_options",
    "check_balancing",
    "make_balancing",
]
