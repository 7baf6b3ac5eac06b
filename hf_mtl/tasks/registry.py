"""Task types by their strings: a config.json and a recipe must be able to name a class."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..nearest import nearest
from .base import Task

__all__ = ["TASK_TYPES", "register_task", "task_class", "task_from_dict"]

TASK_TYPES: dict[str, type[Task]] = {}

T = TypeVar("T", bound=type[Task])


def register_task(type_name: str) -> Callable[[T], T]:
    """Class decorator: makes a `Task` subclass known by a task type.

    Raises:
        ValueError: another class has that task type already.
    """

    def register(cls: T) -> T:
        known = TASK_TYPES.get(type_name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"Task type {type_name!r} is {known.__name__}'s already: choose another name.")
        cls.type = type_name
        TASK_TYPES[type_name] = cls
        return cls

    return register


def task_class(type_name: str) -> type[Task]:
    """The class of a task type.

    Raises:
        ValueError: nothing is registered by that name.
    """
    if type_name not in TASK_TYPES:
        raise ValueError(
            f"Unknown task type {type_name!r}. {nearest(str(type_name), TASK_TYPES)} "
            "(A type of your own must be imported first, so that @register_task runs.)"
        )
    return TASK_TYPES[type_name]


def task_from_dict(values: Mapping[str, Any]) -> Task:
    """A task from what `Task.to_dict` gave, or from a recipe's entry with its name put in.

    Raises:
        ValueError: an unknown task type or field, or a value that the field refuses.
    """
    fields = dict(values)
    if "type" not in fields:
        raise ValueError(f"Task {fields.get('name')!r} has no 'type'. Known: {list(TASK_TYPES)}.")
    cls = task_class(fields.pop("type"))
    cls.check_fields(fields.get("name"), fields)
    return cls(**fields)
