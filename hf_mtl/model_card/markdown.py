"""Strings of users put into Markdown, so that they show as they are and break nothing around them."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["code", "fenced", "link", "one_line", "python_literal", "table", "text"]

# What means something to Markdown where it stands: "_" only at the edge of a word, so that names with it stay
# readable in the source, and "&" only where it begins a character reference.
_MEANS_SOMETHING = re.compile(r"[\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w)|&(?=#|\w+;)", re.ASCII)


def one_line(value: Any) -> str:
    """The value as one line, without the control characters and half surrogates that a file cannot hold."""
    kinds = [(char, unicodedata.category(char)) for char in str(value)]
    shown = ("\ufffd" if kind == "Cs" else " " if kind == "Cc" else char for char, kind in kinds)
    return " ".join("".join(shown).split())


def text(value: Any) -> str:
    """The value as plain text, in a table or outside."""
    return _MEANS_SOMETHING.sub(lambda match: "\\" + match.group(), one_line(value))


def code(value: Any) -> str:
    """The value as code in a table cell."""
    line = one_line(value)
    if not line:
        return "(empty)"
    if "\\|" in line:  # GitHub's parser and others do not agree on what this is in a table
        return text(line)
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if "`" in (line[0], line[-1]) else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", r"\|")


def link(label: Any, url: str) -> str:
    """A link with plain text; the url must be one already."""
    return f"[{text(label)}]({url})"


def fenced(block: str, language: str) -> str:
    """Lines as a code block that nothing in them can end."""
    fence = "`" * max(3, _longest_run(block) + 1)
    lines = block.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode("utf-8").strip("\n")
    return f"{fence}{language}\n{lines}\n{fence}"


def table(columns: Mapping[str, Sequence[str]], right: Sequence[str] = ()) -> str:
    """A table of cells that are Markdown already, aligned in the source too. Empty columns are left out.

    Args:
        columns: header -> cells; "" where there is nothing to say, which reads "-".
        right: headers of the columns with numbers.
    """
    kept = {header: [cell or "-" for cell in cells] for header, cells in columns.items() if any(cells)}
    widths = {header: max(map(len, (header, "---", *cells))) for header, cells in kept.items()}

    def line(cells: Mapping[str, str]) -> str:
        padded = (cells[h].rjust(w) if h in right else cells[h].ljust(w) for h, w in widths.items())
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + (":" if h in right else "-") for h, w in widths.items())
    rows = [dict(zip(kept, cells, strict=True)) for cells in zip(*kept.values(), strict=True)]
    return "\n".join([line({header: header for header in kept}), f"|{rule}|", *map(line, rows)])


def python_literal(value: Any) -> str:
    """A value of strings, numbers, lists and dicts as a line of Python, its numbers to three decimals."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if isinstance(value, float):
        return repr(round(value, 3))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{python_literal(k)}: {python_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(python_literal, value)) + "]"
    return one_line(repr(value))


def _longest_run(line: str) -> int:
    return max(map(len, re.findall("`+", line)), default=0)
