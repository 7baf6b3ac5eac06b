"""What goes wrong in a training: said with the task, the step and the rows, and nothing lost by it."""

from .nonfinite import NonFiniteError, NonFiniteMixin
from .resources import BatchMemoryError, LoadingError, NoBatchError, ResourcesMixin

__all__ = [
    "EXPLAINED", "BatchMemoryError", "LoadingError", "NoBatchError", "NonFiniteError", "NonFiniteMixin",
    "ResourcesMixin",
]  # fmt: skip

# Errors whose message says all that a user can do.
EXPLAINED = (BatchMemoryError, LoadingError, NoBatchError, NonFiniteError)
