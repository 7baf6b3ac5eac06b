"""What every task is described by: plain fields, checked where they are given, that a recipe and config.json hold."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..nearest import nearest
from .inputs import InputReader

__all__ = ["TaskFields"]

# Task names become names of modules, of parameters and of metrics; their containers' own names would hide methods.
# A module named `backbone` would be taken for the backbone where modules are chosen by name.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TAKEN = frozenset([*dir(nn.ModuleDict()), *dir(nn.ParameterDict()), "backbone"])


@dataclass(frozen=True, kw_only=True)
class TaskFields(InputReader):
    """The fields of every task, and what is made of them; see `Task`."""

    name: str
    weight: float = 1.0
    layer: int = -1
    max_length: int | None = None
    dropout: float = 0.1

    type: ClassVar[str] = ""
    # Fields that change nothing of the features.
    not_in_features: ClassVar[frozenset[str]] = frozenset(
        {"weight", "layer", "dropout", "label_smoothing", "class_weights"}
    )
    # Fields that change nothing of the features of rows without labels.
    not_encoded: ClassVar[frozenset[str]] = frozenset({"name"}) | not_in_features

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"Task name {self.name!r} cannot be used: it must begin with a letter and hold only letters, "
                f"digits, '_' and '-'. For example {_usable(self.name)!r}."
            )
        if self.name in _TAKEN:
            raise ValueError(
                f"Task name {self.name!r} cannot be used: the model's own parts, or PyTorch's containers of them, have "
                f"that name. For example {self.name + '_task'!r}."
            )
        self._check_number("weight", lambda v: math.isfinite(v) and v >= 0, "a number of 0 or more")
        self._check_number("dropout", lambda v: 0 <= v < 1, "a number from 0 up to 1")
        self._check_number("layer", lambda v: True, "a whole number", whole=True)
        if self.max_length is not None:
            self._check_number("max_length", lambda v: v >= 4, "a whole number of 4 or more", whole=True)
        for field in dataclasses.fields(self):  # JSON gives lists where Python gives tuples
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    @classmethod
    def check_fields(cls, name: Any, given: Iterable[str]) -> None:
        """Raises ValueError for a field that tasks of this type do not have, with those that they have."""
        known = [field.name for field in dataclasses.fields(cls)]
        for field in given:
            if field not in known:
                raise ValueError(f"Task {name!r} ({cls.type}) has no field {field!r}. {nearest(field, known)}")

    def _check(self, field: str, value: Any, ok: bool, wanted: str) -> None:
        if not ok:
            raise ValueError(f"Task {self.name!r}: {field} must be {wanted}, got {value!r}.")

    def _check_number(self, field: str, fits: Callable[[Any], bool], wanted: str, *, whole: bool = False) -> None:
        """Raises ValueError where a field is no number (of a YAML file, `1e-3` is a string), or does not fit."""
        value = getattr(self, field)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        self._check(field, value, number and fits(value), wanted)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the task type, as JSON values. `task_from_dict` is the inverse."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"type": self.type} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def known(self, field: str, value: Any) -> Any:
        """A learned value; raises ValueError where it has not been learned."""
        if value is None:
            raise ValueError(
                f"Task {self.name!r}: its {field} are not known. Make it by {type(self).__name__}.from_dataset(...), "
                f"or give {field}=[...]."
            )
        return value

    def labels_of_head(self) -> dict[str, Any]:
        """The fields that say what the head's logits stand for: all learned lists of names."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, tuple)}

    def encoding_key(self) -> tuple[Any, ...]:
        """Tasks of equal keys encode rows without labels alike: one encodes for all of them."""
        fields = (f.name for f in dataclasses.fields(self) if f.name not in self.not_encoded)
        values = (getattr(self, field) for field in fields)
        return (type(self), *(repr(value) if isinstance(value, dict) else value for value in values))


def _usable(name: Any) -> str:
    return re.sub(r"^[^A-Za-z]+|[^A-Za-z0-9_-]+", "_", str(name)).strip("_") or "my_task"
