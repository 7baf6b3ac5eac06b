"""Rows of several sources as one data set: the columns that all of them have, of types that hold what all have."""

from collections.abc import Collection, Mapping
from functools import reduce
from typing import Any

from ..data import named_rows
from ..nearest import nearest

__all__ = ["join_rows"]


def join_rows(parts: Mapping[str, Any], split: str, needed: Collection[str]) -> Any:
    """The sources' rows, one source after the other. Columns that not all of them have are left out.

    Label names that a source declares (`ClassLabel`) become text where another source declares others, or none.

    Args:
        parts: the source's key in the recipe -> its `datasets.Dataset`.
        split: the name of the split, for messages.
        needed: the columns that the task reads; where none are known, all that the sources share.

    Raises:
        ValueError: a source lacks such a column, or holds something else in it.
    """
    import datasets

    if len(parts) == 1:
        return next(iter(parts.values()))
    shared = _shared(parts, split, needed)
    named = [
        c for c in shared if any(part.features[c] != next(iter(parts.values())).features[c] for part in parts.values())
    ]
    parts = {where: _by_names(part.select_columns(shared), named) for where, part in parts.items()}
    kept = {}
    for column in shared:
        kind = reduce(_common, (part.features[column] for part in parts.values()))
        if kind is not None:
            kept[column] = kind
        elif column in needed or not needed:
            held = {where: _said(part.features[column]) for where, part in parts.items()}
            raise ValueError(
                f"Split {split!r}: column {column!r} holds not the same in all sources: {held}. Make it one type, or "
                f"take another column by columns: {{{column}: THEIRS}}."
            )
    wanted = datasets.Features(kept)
    chosen = [part.select_columns(list(kept)) for part in parts.values()]
    return datasets.concatenate_datasets([rows if rows.features == wanted else rows.cast(wanted) for rows in chosen])


def _shared(parts: Mapping[str, Any], split: str, needed: Collection[str]) -> list[str]:
    for where, part in parts.items():
        for column in needed:
            if column not in part.column_names:
                raise ValueError(
                    f"{where}: split {split!r} has no column {column!r}, which the task reads. "
                    f"{nearest(column, part.column_names)} Name the right one: columns: {{{column}: THEIRS}}."
                )
    first, *others = (part.column_names for part in parts.values())
    shared = [column for column in first if all(column in names for names in others)]
    if not shared:
        have = {where: part.column_names for where, part in parts.items()}
        raise ValueError(f"Split {split!r}: the sources have no column in common: {have}.")
    return shared


def _by_names(rows: Any, columns: Collection[str]) -> Any:
    """The rows with the names of the labels in these columns, where they are `ClassLabel`s."""
    features = rows.features.copy()
    changed = [column for column in columns if _named(features[column]) != features[column]]
    if not changed:
        return rows
    for column in changed:
        features[column] = _named(features[column])
    declared = {column: rows.features[column] for column in changed}
    return rows.map(_name, batched=True, fn_kwargs={"declared": declared}, features=features, desc="Naming labels")


def _name(columns: Mapping[str, list[Any]], declared: Mapping[str, Any]) -> dict[str, list[Any]]:
    rows = named_rows({column: columns[column] for column in declared}, declared)
    # -1 is a `ClassLabel`'s way to say that there is none.
    return {column: [None if row[column] == -1 else row[column] for row in rows] for column in declared}


def _named(feature: Any) -> Any:
    """The type with `ClassLabel`s as text."""
    from datasets import List, Value

    if getattr(feature, "names", None):
        return Value("string")
    inner = getattr(feature, "feature", None)
    return feature if inner is None else List(_named(inner))


def _common(one: Any, other: Any) -> Any:
    """The type that holds both; None where none does, or there was none before."""
    from datasets import List, Value

    if one is None or one == other or _kind(other) == "null":
        return one
    if _kind(one) == "null":
        return other
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        fields = {key: _common(one[key], other[key]) for key in one}
        return None if None in fields.values() else fields
    inner, inner_other = getattr(one, "feature", None), getattr(other, "feature", None)
    if inner is not None and inner_other is not None:
        found = _common(inner, inner_other)
        return None if found is None else List(found)
    kinds = {_kind(one), _kind(other)}
    types = {("string",): "string", ("int",): "int64", ("float",): "float64", ("float", "int"): "float64"}
    found = types.get(tuple(sorted(kinds)))
    return found and Value(found)


def _kind(feature: Any) -> str:
    """The family of a plain type: `string` of `large_string`, `int` of `int32` and `uint8`; others by their names."""
    name = str(getattr(feature, "dtype", ""))
    plain = name.removeprefix("large_").removeprefix("u")
    return next((kind for kind in ("string", "int", "float") if plain.startswith(kind)), name)


def _said(feature: Any) -> str:
    inner = getattr(feature, "feature", None)
    if isinstance(feature, dict):
        return f"objects of {list(feature)}"
    return f"lists of {_said(inner)}" if inner is not None else str(getattr(feature, "dtype", feature))
