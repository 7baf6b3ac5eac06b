"""Which line of a JSONL file is broken: the reader of `datasets` does not say."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["bad_lines"]


def bad_lines(files: Iterable[Path]) -> Iterator[str]:
    """Lines that hold no JSON object, as messages. A file that is one JSON list has none."""
    for file in files:
        if file.suffix.lower() == ".gz":
            continue
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1 and line.lstrip()[:1] == b"[":
                    break
                try:
                    ok = not line.strip() or isinstance(json.loads(line), dict)
                except ValueError:
                    ok = False
                if not ok:
                    shown = line.decode(errors="replace").strip()
                    yield f"{file}, line {number} is not a JSON object: {shown!r:.80}."
