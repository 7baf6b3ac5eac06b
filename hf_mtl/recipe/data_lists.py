"""Cells of a table that hold a list as text, made lists."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from ..nearest import nearest

__all__ = ["WRITTEN", "split_cells"]

# The separator of cells that hold a whole list: as JSON has it, or as Python writes it, and so pandas.
WRITTEN = "json"


def split_cells(rows: Any, lists: Mapping[str, str], split: str, where: str) -> Any:
    """The rows with each cell of these columns as a list.

    A cell is cut at its separator, a blank at any blanks; what is empty is no part, so that an empty cell is an empty
    list. Columns that hold lists already stay.

    Args:
        rows: a `datasets.Dataset`.
        lists: column -> separator, or `json`.
        split: for messages.
        where: the key in the recipe, for messages.

    Raises:
        ValueError: there is no such column, it does not hold text, or a cell holds no list.
    """
    for column, separator in lists.items():
        if column not in rows.column_names:
            raise ValueError(
                f"{where}.{column}: split {split!r} has no column {column!r}. {nearest(column, rows.column_names)}"
            )
        kind = rows.features[column]
        if getattr(kind, "feature", None) is not None:
            continue
        if getattr(kind, "dtype", None) not in ("string", "large_string"):
            raise ValueError(f"{where}.{column}: column {column!r} of split {split!r} holds no text, but {kind}.")
        cells = rows[column]
        values = [_list(cell, separator, f"{where}.{column}: split {split!r}, row {i}") for i, cell in enumerate(cells)]
        rows = rows.remove_columns([column]).add_column(column, values)
    return rows


def _list(cell: str | None, separator: str, place: str) -> list[Any] | None:
    if cell is None:
        return None
    if separator != WRITTEN:
        parts = cell.split() if separator == " " else [part.strip() for part in cell.split(separator)]
        return [part for part in parts if part]
    if not cell.strip():
        return []
    for reads in (json.loads, ast.literal_eval):
        try:
            found = reads(cell)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, list | tuple):
            return list(found)
    raise ValueError(f"{place} holds no list: {cell!r:.80}. Where a sign stands between its parts, give that sign.")
