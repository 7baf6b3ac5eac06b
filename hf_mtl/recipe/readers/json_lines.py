"""Which line of a JSONL file is broken: the reader of `datasets` does not say."""

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .lines import open_binary

__all__ = ["bad_lines"]


def bad_lines(files: Iterable[Path]) -> Iterator[str]:
    """Lines that hold no JSON object, and where a packed file breaks off, as messages.

    A file that is one JSON list has none.
    """
    for file in files:
        number = 0
        try:
            with open_binary(file) as lines:
                for number, line in enumerate(lines, 1):
                    if number == 1 and line.lstrip()[:1] == b"[":
                        break
                    if not _holds_an_object(line):
                        shown = line.decode(errors="replace").strip()
                        yield f"{file}, line {number} is not a JSON object: {shown!r:.80}."
        except (EOFError, OSError, zlib.error) as error:
            yield f"{file} cannot be read behind line {number}: {error}."


def _holds_an_object(line: bytes) -> bool:
    try:
        return not line.strip() or isinstance(json.loads(line), dict)
    except ValueError:
        return False
