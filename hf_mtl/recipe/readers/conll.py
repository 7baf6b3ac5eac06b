"""CoNLL columns: a word a line with its tags beside it, a blank line between sentences."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from .lines import BrokenFileError, broken_line, numbered_lines

__all__ = ["conll_columns", "read_conll"]

# Where the recipe names none: the first column and the last, whatever stands between.
DEFAULT = ("tokens", "tags")
# "# sent_id = 1", "# id 4711": it may have as many parts as a word has columns.
_METADATA = re.compile(r"# ?(?:[\w:]+ ?=|(?:id|sent_id|newdoc|newpar) )")
_DOCUMENT = "-DOCSTART-"
# Not `str.split()`: in Chinese and Japanese data an ideographic space is a word.
_SPACES = " \t"


class _Layout(NamedTuple):
    """How many columns a file has, what parts them, and where that was seen."""

    width: int
    tabs: bool
    source: str


def conll_columns(columns: Sequence[str | None] | None) -> tuple[str, ...]:
    """The columns of the rows that are read."""
    return tuple(name for name in columns or DEFAULT if name is not None)


def read_conll(path: Path, columns: Sequence[str | None] | None = None) -> Iterator[dict[str, list[str]]]:
    """A row a sentence: for each named column the list of its words' entries.

    `-DOCSTART-` lines are left out, and so are lines that begin with `# `, unless they have as many columns as the
    others: then `#` is a word. Columns are parted by tabs where the first word's line has one, else by white space.

    Args:
        path: the file.
        columns: the names of all columns, None for those that are not wanted. None: the first is `tokens`, the
            last `tags`.

    Raises:
        BrokenFileError: a line with more or fewer columns, or with an empty one.
    """
    layout = _layout(path, columns)
    if layout is None:
        return
    if columns is None:
        names: list[str | None] = [DEFAULT[0], *[None] * (layout.width - 2), DEFAULT[1]]
    else:
        names = list(columns)
    for is_word, lines in groupby(numbered_lines(path), key=lambda line: bool(line[1].strip(_SPACES))):
        words = [cells for number, line in lines if (cells := _cells(path, number, line, layout))] if is_word else []
        if words:
            yield {name: [cells[k] for cells in words] for k, name in enumerate(names) if name is not None}


def _layout(path: Path, columns: Sequence[Any] | None) -> _Layout | None:
    """Seen in the first line that is surely a word's; None where the file holds no word."""
    first = None
    for number, line in numbered_lines(path):
        if line.strip(_SPACES) and not line.startswith(_DOCUMENT):
            first = first if first is not None and line.startswith("#") else (number, line)
            if not line.startswith("#"):
                break
    if first is None:
        return None
    number, line = first
    tabs = "\t" in line
    if columns is not None:
        return _Layout(len(columns), tabs, "as `columns` names")
    width = len(_split(line, tabs))
    if width < 2:
        raise BrokenFileError(
            f"{path}, line {number}: expected a word and its tag, two columns or more, got {line!r:.80}. "
            "Words without tags are read by columns: [tokens]."
        )
    return _Layout(width, tabs, f"as in line {number}")


def _cells(path: Path, number: int, line: str, layout: _Layout) -> list[str]:
    """A word's columns; none where the line is no word's."""
    if line.startswith(_DOCUMENT):
        return []
    cells = _split(line, layout.tabs)
    other = len(cells) != layout.width or _METADATA.match(line) or ("\t" in line and not layout.tabs)
    if other and (line.startswith("# ") or line.rstrip(_SPACES) == "#"):
        return []
    if len(cells) != layout.width or not all(cells):
        parted = "tabs" if layout.tabs else "white space"
        columns = f"{layout.width} column{'s' * (layout.width > 1)} parted by {parted}"
        raise broken_line(path, number, line, f"{columns}, {layout.source}, and none of them empty")
    return cells


def _split(line: str, tabs: bool) -> list[str]:
    if tabs:
        return [cell.strip(_SPACES) for cell in line.split("\t")]
    return [cell for cell in line.replace("\t", " ").split(" ") if cell]
