"""Which column of a table is not the same all through it: the readers of `datasets` do not say."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .lines import open_binary

__all__ = ["uneven_columns"]

_WHOLE, _FRACTION, _NOTHING = "a whole number", "a fraction", "nothing"
_KINDS = ((bool, "true or false"), (int, _WHOLE), (float, _FRACTION), (str, "text"), (list, "a list"))


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


_TABLES: dict[str, type[csv.Dialect]] = {".csv": csv.excel, ".tsv": _Tabs}


def uneven_columns(files: Iterable[Path], kind: str) -> Iterator[str]:
    """Columns that hold now one kind of value, now another, and those that only later rows have, as messages.

    The likeliest fault comes first. Of tables that are columns that later files add: their cells are all text, and what
    looks like a number may be none. Within a piece that `datasets` reads at once a column is one kind, so that the one
    that changes last is to blame; whole numbers that become fractions come last of all.

    Args:
        files: files that can be read, of one ending.
        kind: the ending.
    """
    first: dict[str, dict[str, tuple[int, str]]] = {}  # column -> kind of value -> where it is first
    for number, (place, row) in enumerate(_rows(files, kind)):
        for column, value in row.items():
            first.setdefault(column, {}).setdefault(_kind(value), (number, place))
    changing, added = list(_changing(first)), list(_added(first))
    yield from added + changing if kind in _TABLES else changing + added
    yield from _widening(first)


def _kinds_of(found: Mapping[str, tuple[int, str]]) -> list[str]:
    return [name for name in found if name != _NOTHING]


def _changing(first: Mapping[str, Mapping[str, tuple[int, str]]]) -> Iterator[str]:
    several = [
        (column, found)
        for column, found in first.items()
        if len(_kinds_of(found)) > 1 and not {*_kinds_of(found)} <= {_WHOLE, _FRACTION}
    ]
    several.sort(key=lambda item: -max(number for number, _ in item[1].values()))
    yield from (_message(*item) for item in several)


def _widening(first: Mapping[str, Mapping[str, tuple[int, str]]]) -> Iterator[str]:
    yield from (_message(column, found) for column, found in first.items() if _kinds_of(found) == [_WHOLE, _FRACTION])


def _message(column: str, found: Mapping[str, tuple[int, str]]) -> str:
    places = " and ".join(f"{name} in {found[name][1]}" for name in _kinds_of(found))
    return f"column {column!r} holds {places}. Make it one kind."


def _added(first: Mapping[str, Mapping[str, tuple[int, str]]]) -> Iterator[str]:
    for column, found in first.items():
        number, place = next(iter(found.values()))
        if number:
            yield (
                f"{place} has the column {column!r}, and rows before it have none. Give it to all rows or to none; of "
                "files with other columns make a source each, as data: [{train: ONE}, {train: OTHER}]."
            )


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
