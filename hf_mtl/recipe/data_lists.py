"""Cells of a table that hold a list as text, made lists."""

import ast
import io
import json
import tokenize
from collections.abc import Mapping, Sequence
from itertools import pairwise
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
        name = str(getattr(kind, "dtype", None))
        # A column of single numbers, or of nothing, has lost its being text in the reading.
        if name not in ("string", "large_string", "null") and not name.startswith(("int", "uint")):
            raise ValueError(f"{where}.{column}: column {column!r} of split {split!r} holds no text, but {kind}.")
        place = f"{where}.{column}: split {split!r}"
        values = [_list(cell, separator, f"{place}, row {i}") for i, cell in enumerate(rows[column])]
        rows = _replaced(rows, column, values, separator, place)
    return rows


def _replaced(rows: Any, column: str, values: Sequence[Any], separator: str, place: str) -> Any:
    import datasets
    from pyarrow import ArrowException

    # Of an empty table nothing tells what its lists would hold.
    known = separator != WRITTEN or not any(values)
    feature = datasets.List(datasets.Value("string")) if known else None
    new = max(rows.column_names, key=len) + "_list"  # the table would lose its rows with its only column
    try:
        rows = rows.add_column(new, list(values), feature=feature)
    except (ArrowException, TypeError) as error:
        raise ValueError(f"{place}: the lists hold now one kind of value, now another ({error}).") from error
    return rows.remove_columns([column]).rename_column(new, column)


def _list(value: str | int | None, separator: str, place: str) -> list[Any] | None:
    if value is None:
        return None
    cell = str(value)
    if separator != WRITTEN:
        parts = cell.split() if separator == " " else [part.strip() for part in cell.split(separator)]
        return [part for part in parts if part]
    if not cell.strip():
        return []
    for reads in (json.loads, _literal):
        try:
            found = reads(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(found, list | tuple):
            return list(found)
    raise ValueError(
        f"{place} holds no list as JSON or Python writes it: {cell!r:.80}. Where a sign stands between its parts, give "
        "that sign."
    )


def _literal(cell: str) -> Any:
    """What Python reads, but for texts without a comma between them, as NumPy writes them: it would join them."""
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(cell).readline)]
    if any(kind == after == tokenize.STRING for kind, after in pairwise(kinds)):
        raise ValueError("no comma between texts")
    return ast.literal_eval(cell)
