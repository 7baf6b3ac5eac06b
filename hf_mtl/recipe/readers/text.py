"""Plain text: a row a line."""

from collections.abc import Iterator
from pathlib import Path

from .lines import numbered_lines

__all__ = ["read_text"]


def read_text(path: Path) -> Iterator[dict[str, str]]:
    """A row, `text`, for each line that is not empty."""
    return ({"text": line} for _, line in numbered_lines(path) if line.strip())
