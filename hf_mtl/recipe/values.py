"""Values out of a recipe -> what a dataclass's field wants, or an error that names the key."""

import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from ..nearest import nearest

__all__ = ["check_keys", "fit", "mapping"]

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# What people write who know YAML 1.1.
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_MAPPINGS = (dict, Mapping)
_UNFIT = object()


def mapping(value: Any, name: str) -> dict[str, Any]:
    """The section as a dict; nothing is an empty one.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must hold keys and values, got {value!r:.60}.")
    return dict(value)


def check_keys(
    given: Iterable[Any], known: Iterable[str], name: str, others_say: Mapping[str, str] | None = None
) -> None:
    """Raises ValueError for a key that is not known, with the nearest that is.

    `others_say`: what other programs call a key -> the key.
    """
    known = list(known)
    for key in given:
        if key not in known:
            meant = (others_say or {}).get(key)
            if meant in known:
                raise ValueError(f"{name} has no key {key!r}. Did you mean {meant!r}?")
            raise ValueError(f"{name} has no key {key!r}. {nearest(str(key), known)}")


def fit(value: Any, kind: Any, name: str) -> Any:
    """The value as a field of this type takes it: the text "2e-3" as a number, a list as a tuple.

    Args:
        value: plain YAML value.
        kind: the field's annotation.
        name: the key with its path, for the message.

    Raises:
        ValueError: it is of another type, or none of the values that the field knows.
    """
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    choices = [member.value for o in options if isinstance(o, type) and issubclass(o, Enum) for member in o]
    choices += get_args(kind) if get_origin(kind) is Literal else []
    if choices and value not in choices and not (value is None and type(None) in options):
        raise ValueError(f"{name}={value!r} is not known. {nearest(str(value), map(str, choices))}")
    for option in options:  # what it is already comes before what it can be made
        if isinstance(option, type) and type(value) is option:
            return value
    for option in options:
        made = _made(value, option, name)
        if made is not _UNFIT:
            return made
    raise ValueError(f"{name} must be {' or '.join(map(_described, options))}, got {value!r:.60}.")


def _made(value: Any, kind: Any, name: str) -> Any:
    number = float(value) if _is_number(value) else None
    if kind is float and number is not None:
        return number
    if kind is int and number is not None and number.is_integer():
        return int(number)
    if kind is bool and isinstance(value, str):
        return _BOOLEANS.get(value.lower(), _UNFIT)
    if kind is str and not isinstance(value, bool) and isinstance(value, (str, int, float)):
        return str(value)
    if get_origin(kind) in (list, tuple) and isinstance(value, list):
        (inner, *_) = get_args(kind)
        return get_origin(kind)(fit(item, inner, f"{name}[{i}]") for i, item in enumerate(value))
    if (get_origin(kind) or kind) in _MAPPINGS and isinstance(value, dict):
        return value
    return value if kind is Any or (get_origin(kind) is Literal and isinstance(value, str)) else _UNFIT


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _described(kind: Any) -> str:
    if (get_origin(kind) or kind) in (list, tuple):
        return f"a list of {_described(get_args(kind)[0])}" if get_args(kind) else "a list"
    if (get_origin(kind) or kind) in _MAPPINGS:
        return "keys and values"
    return _NAMES.get(kind, str(getattr(kind, "__name__", kind)))
