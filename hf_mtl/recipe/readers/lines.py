"""The lines of a text file, counted, and what is wrong with one of them."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["BrokenFileError", "broken_line", "check_utf8", "numbered_lines", "open_binary"]


class BrokenFileError(ValueError):
    """A file that is not what its ending says. The message names the file, the place, and what was expected."""


def broken_line(path: Path, number: int, line: str, expected: str) -> BrokenFileError:
    return BrokenFileError(f"{path}, line {number}: expected {expected}, got {line!r:.80}.")


def open_binary(path: Path) -> gzip.GzipFile:
    """The file, unpacked if it is a `.gz`."""
    opened: gzip.GzipFile = (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb")  # type: ignore[assignment]
    return opened


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines without their ends; of one line at a time.

    Raises:
        BrokenFileError: a line is not UTF-8.
    """
    with open_binary(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise broken_line(path, number, line.decode("latin-1").strip(), "text in UTF-8") from error
            yield number, text.rstrip("\r\n")


def check_utf8(files: Iterable[Path]) -> None:
    """Raises BrokenFileError for the first line that is not UTF-8, and says what to do."""
    for path in files:
        try:
            for _ in numbered_lines(path):
                pass
        except BrokenFileError as error:
            way_out = f"Write the file in UTF-8: `iconv -f latin1 -t utf-8 {path.name}`, if it is in Latin-1."
            raise BrokenFileError(f"{error} {way_out}") from error
