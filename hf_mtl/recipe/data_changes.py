"""Data made what a task wants: columns by other names, labels by other names."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from ..nearest import nearest

__all__ = ["map_labels", "rename_columns"]


def rename_columns(rows: Any, columns: Mapping[str, str], split: str, where: str) -> Any:
    """The rows with the column `columns[ours]` as `ours`. A column that had this name before is left out.

    A part of a column of dicts is named by a dot, `translation.de`.

    Raises:
        ValueError: there is no such column.
    """
    rows = _opened(rows, columns.values())
    for ours, theirs in columns.items():
        if theirs not in rows.column_names:
            raise ValueError(
                f"{where}.{ours}: split {split!r} has no column {theirs!r}. {nearest(theirs, rows.column_names)}"
            )
    names = {theirs: ours for ours, theirs in columns.items() if ours != theirs}
    hidden = [name for name in names.values() if name in rows.column_names and name not in names]
    return rows.remove_columns(hidden).rename_columns(names) if names else rows


def _opened(rows: Any, names: Iterable[str]) -> Any:
    """The rows with a column for each part of the columns of dicts that are named with a dot."""
    import datasets

    heads = {name.partition(".")[0] for name in names if "." in name and name not in rows.column_names}
    for head in sorted(heads):
        if isinstance(rows.features.get(head), dict):
            parts = rows.select_columns([head]).flatten()
            rows = datasets.concatenate_datasets([rows.remove_columns([head]), parts], axis=1)
    return rows


def map_labels(
    splits: Mapping[str, Any], labels: Mapping[str, str], columns: Sequence[str], where: str
) -> dict[str, Any]:
    """split -> rows, with the labels in these columns renamed, in lists of labels too; others stay.

    A column of integers is taken only where all that is renamed are numbers, and becomes text; a `ClassLabel` goes
    by its names and stays one.

    Args:
        splits: split -> `datasets.Dataset`.
        labels: theirs -> ours.
        columns: the columns that may hold labels; those that a split lacks, or that hold something else, stay.
        where: the key in the recipe, for messages.

    Raises:
        ValueError: no column holds labels; or the training data holds nowhere what is to be renamed.
    """
    changed: dict[str, Any] = {}
    seen: set[str] = set()
    for split, rows in splits.items():
        changed[split] = rows
        for column in columns:
            leaf = _leaf(rows.features.get(column))
            if not _holds_labels(leaf, labels):
                continue
            seen |= _distinct(rows, column, leaf)
            features = rows.features.copy()
            features[column] = _renamed(features[column], labels)
            rows = rows.map(
                _rename,
                batched=True,
                input_columns=[column],
                fn_kwargs={"column": column, "labels": _table(leaf, labels)},
                features=features,
                desc=f"Renaming labels ({split})",
            )
            changed[split] = rows
    if not seen:
        raise ValueError(f"{where}: none of the columns {list(columns)} holds these labels, as text or by number.")
    for theirs in labels:
        if "train" in splits and theirs not in seen:
            raise ValueError(f"{where} has {theirs!r}, which no row has as a label. {nearest(theirs, sorted(seen))}")
    return changed


def _leaf(feature: Any) -> Any:
    """What a column's rows hold, or its lists do."""
    inner = getattr(feature, "feature", None)
    return feature if inner is None else _leaf(inner)


def _holds_labels(leaf: Any, labels: Mapping[str, str]) -> bool:
    kind = getattr(leaf, "dtype", "")
    if getattr(leaf, "names", None) or kind in ("string", "large_string"):
        return True
    if kind == "bool":
        return all(theirs in ("True", "False") for theirs in labels)
    return kind.startswith(("int", "uint")) and all(theirs.lstrip("-").isdecimal() for theirs in labels)


def _distinct(rows: Any, column: str, leaf: Any) -> set[str]:
    import pyarrow.compute as pc

    if getattr(leaf, "names", None):
        return set(leaf.names)
    values = rows.select_columns([column]).with_format("arrow")[:][column]
    while values.type.id in _list_types():
        values = pc.list_flatten(values)
    return {str(value) for value in pc.unique(values).to_pylist() if value is not None}


def _list_types() -> tuple[int, ...]:
    from pyarrow import lib

    return lib.Type_LIST, lib.Type_LARGE_LIST, lib.Type_FIXED_SIZE_LIST


def _table(leaf: Any, labels: Mapping[str, str]) -> dict[Any, Any]:
    """What a column's values become: of a `ClassLabel` integers become integers."""
    names = getattr(leaf, "names", None)
    if not names:
        return dict(labels)
    new = [labels.get(name, name) for name in names]
    place = {name: k for k, name in enumerate(dict.fromkeys(new))}
    return {k: place[name] for k, name in enumerate(new)}


def _renamed(feature: Any, labels: Mapping[str, str]) -> Any:
    from datasets import ClassLabel, List, Value

    if getattr(feature, "feature", None) is not None:
        return List(_renamed(feature.feature, labels))
    names = getattr(feature, "names", None)
    return ClassLabel(names=list(dict.fromkeys(labels.get(n, n) for n in names))) if names else Value("string")


def _rename(values: list[Any], column: str, labels: Mapping[Any, Any]) -> dict[str, list[Any]]:
    return {column: [_new(value, labels) for value in values]}


def _new(value: Any, labels: Mapping[Any, Any]) -> Any:
    if isinstance(value, list):
        return [_new(v, labels) for v in value]
    if value is None or value in labels:
        return labels.get(value)
    by_name = any(isinstance(key, str) for key in chain(labels, labels.values()))
    return labels.get(str(value), str(value)) if by_name else value
