"""What a recipe may say of a task's data beside where they are, checked: named by its path in the file."""

from collections.abc import Mapping
from typing import Any

from .values import check_keys, mapping

__all__ = ["ALSO", "SPLITS", "by_split", "read_columns", "read_labels", "read_lists", "read_max_rows", "read_shares"]

SPLITS = ("train", "validation", "test")
ALSO = {"dev": "validation"}
_SEEDS = 2**32  # what NumPy's generator takes


def by_split(value: Any, where: str, *others: str) -> dict[str, Any]:
    """Keys and values, `dev` as `validation`, those without a value left out."""
    given = mapping(value, where)
    for also, split in ALSO.items():
        if also in given:
            if split in given:
                raise ValueError(f"{where} has {split!r} and {also!r}, which mean the same: give one.")
            given[split] = given.pop(also)
    check_keys(given, (*SPLITS, *others, *ALSO), where)
    return {key: v for key, v in given.items() if v is not None}


def read_shares(value: Any, where: str) -> tuple[dict[str, float], int]:
    """`split:` as split -> share or number of rows, and the seed."""
    given = by_split(value, where, "seed")
    seed = given.pop("seed", 0)
    if not _is_whole(seed, 0) or seed >= _SEEDS:
        raise ValueError(f"{where}.seed must be a whole number from 0 to {_SEEDS - 1}, got {seed!r:.60}.")
    if "train" in given:
        raise ValueError(f"{where} has a key 'train': rows are taken out of train, for validation or test.")
    for key, size in given.items():
        if not _is_whole(size, 1) and not (isinstance(size, float) and 0 < size < 1):
            raise ValueError(
                f"{where}.{key} must be a share of the training rows, as 0.1, or a number of them, got {size!r:.60}."
            )
    total = sum(size for size in given.values() if isinstance(size, float))
    if total >= 1:
        raise ValueError(f"{where} takes {total:g} of the training rows: leave some to train on.")
    return {split: given[split] for split in SPLITS if split in given}, seed


def read_max_rows(value: Any, where: str) -> dict[str, int]:
    """`max_rows:` as split -> most rows. One number is for each split."""
    if value is None:
        return {}
    given = by_split(value, where) if isinstance(value, Mapping) else dict.fromkeys(SPLITS, value)
    for key, number in given.items():
        if not _is_whole(number, 1):
            which = f"{where}.{key}" if isinstance(value, Mapping) else where
            raise ValueError(f"{which} must be a whole number of 1 or more, got {number!r:.60}.")
    return given


def read_columns(value: Any, where: str) -> dict[str, str] | tuple[str | None, ...]:
    """`columns:` as ours -> theirs, or the names of columns that have none (None: not wanted)."""
    if isinstance(value, list):
        names = [name for name in value if name is not None]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{where} must name columns (null: not wanted), got {value!r:.60}.")
        _check_once(names, where)
        return tuple(value)
    given = mapping(value, where)
    for ours, theirs in given.items():
        if not isinstance(ours, str) or not isinstance(theirs, str) or not theirs:
            raise ValueError(f"{where}.{ours} must be the name of a column in the data, got {theirs!r:.60}.")
    _check_once(list(given.values()), where)
    return given


def read_labels(value: Any, where: str) -> dict[str, str]:
    """`labels:` as theirs -> ours. A number stands for its text."""
    given = mapping(value, where)
    for theirs, ours in given.items():
        if not isinstance(theirs, str | int) or not isinstance(ours, str | int) or isinstance(ours, bool):
            raise ValueError(f"{where}.{theirs} must be a label's name, got {ours!r:.60}.")
    return {str(theirs): str(ours) for theirs, ours in given.items()}


def read_lists(value: Any, where: str) -> dict[str, str]:
    """`lists:` as column -> what stands between the parts of its cells."""
    given = mapping(value, where)
    for column, separator in given.items():
        if not isinstance(column, str) or not isinstance(separator, str) or not separator:
            raise ValueError(
                f"{where}.{column} must be what stands between the parts of a cell, as ';', or json where a cell is "
                f"a whole list, got {separator!r:.60}."
            )
    return given


def _check_once(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where} has the column {name!r} twice.")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
