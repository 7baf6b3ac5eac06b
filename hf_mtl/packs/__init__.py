"""Task packs: one task of a model as files of its own, to be put into any model on the same backbone."""

from .mixin import PacksMixin
from .pack import TaskPack

__all__ = ["PacksMixin", "TaskPack"]
