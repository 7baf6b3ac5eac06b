"""Which column of a table is not the same all through it: the readers of `datasets` do not say."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .lines import open_binary

__all__ = ["uneven_columns"]

_FRACTION, _NOTHING = "a fraction", "nothing"
_KINDS = ((bool, "true or false"), (int, "a whole number"), (float, _FRACTION), (str, "text"), (list, "a list"))


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


_TABLES: dict[str, type[csv.Dialect]] = {".csv": csv.excel, ".tsv": _Tabs}


def uneven_columns(files: Iterable[Path], kind: str) -> Iterator[str]:
    """Columns that hold now one kind of value, now another, and those that only later rows have, as messages.

    Whole numbers that become fractions come last: within a piece that `datasets` reads at once they are one kind.

    Args:
        files: files that can be read, of one ending.
        kind: the ending.
    """
    first: dict[str, dict[str, str]] = {}  # column -> kind of value -> where it is first
    start = ""
    for place, row in _rows(files, kind):
        start = start or place
        for column, value in row.items():
            first.setdefault(column, {}).setdefault(_kind(value), place)
    of_numbers = []
    for column, found in first.items():
        kinds = [name for name in found if name != _NOTHING]
        places = " and ".join(f"{name} in {found[name]}" for name in kinds)
        message = f"column {column!r} holds {places}. Make it one kind."
        if set(kinds) == {"a whole number", _FRACTION}:
            of_numbers += [message] if kinds[1] == _FRACTION else []
        elif len(kinds) > 1:
            yield message
    for column, found in first.items():
        place = next(iter(found.values()))
        if place != start:
            yield (
                f"{place} has the column {column!r}, and rows before it have none. Give it to all rows or to none; of "
                "files with other columns make a source each, as data: [{train: ONE}, {train: OTHER}]."
            )
    yield from of_numbers


def _rows(files: Iterable[Path], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in files:
        with open_binary(file) as lines:
            if kind in _TABLES:
                text = io.TextIOWrapper(lines, "utf-8-sig", errors="replace", newline="")
                table = csv.DictReader(text, dialect=_TABLES[kind])
                for row in table:
                    yield f"{file}, line {table.line_num}", {name: _cell(cell) for name, cell in row.items() if name}
            else:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{file}, line {number}", json.loads(line)


def _cell(text: Any) -> Any:
    for reads in (int, float):
        try:
            return reads(text)
        except (TypeError, ValueError):
            continue
    return text


def _kind(value: Any) -> str:
    if value is None:
        return _NOTHING
    return next((name for types, name in _KINDS if isinstance(value, types)), "a dict")
