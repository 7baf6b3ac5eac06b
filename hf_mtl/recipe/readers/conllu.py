"""CoNLL-U, the format of Universal Dependencies (https://universaldependencies.org/format.html)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .lines import BrokenFileError, broken_line, numbered_lines

__all__ = ["CONLLU_COLUMNS", "read_conllu"]

# Column of a row -> place in a line. Beside them a row has `heads`, `text` and `id`.
_PLACES = {"tokens": 1, "lemmas": 2, "upos": 3, "xpos": 4, "feats": 5, "deprels": 7}
_HEAD = 6
_FIELDS = 10
CONLLU_COLUMNS = dict.fromkeys(_PLACES, "string") | {"heads": "int32"}

_COMMENT = re.compile(r"# *(text|sent_id) *= *(.*)")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_RANGE = re.compile(r"([1-9][0-9]*)-([1-9][0-9]*)")
_EMPTY = re.compile(r"(0|[1-9][0-9]*)\.([1-9][0-9]*)")


def read_conllu(path: Path) -> Iterator[dict[str, Any]]:
    """A row a sentence, of its syntactic words.

    Multiword tokens (`3-4`) and empty nodes (`5.1`) are checked and left out. `_` stays as it is, except as a head,
    which is then None. `text` is the words joined by spaces, and `id` the sentence's number, where no comment says
    them.

    Raises:
        BrokenFileError: a line without 10 columns, words not numbered 1, 2, 3, ..., a head that is no word, a
            multiword token or an empty node that is out of its place.
    """
    number, count = 0, 0
    sentence = _Sentence(path)
    for number, line in numbered_lines(path):
        if line.strip():
            sentence.add(number, line)
            continue
        if sentence.words:
            count += 1
            yield sentence.row(number, count)
        sentence = _Sentence(path)
    if sentence.words:
        yield sentence.row(number, count + 1)


class _Sentence:
    """The lines of a sentence, as far as they are read."""

    def __init__(self, path: Path):
        self.path = path
        self.words: list[tuple[int, list[str]]] = []
        self.comments: dict[str, str] = {}
        self.covered = 0  # the last word of the multiword token before
        self.empty = 0  # empty nodes behind the last word

    def add(self, number: int, line: str) -> None:
        if line.startswith("#"):
            if found := _COMMENT.match(line):
                self.comments[found[1]] = found[2].strip()
            return
        cells = line.split("\t")
        if len(cells) != _FIELDS or not all(cell.strip() for cell in cells):
            raise broken_line(self.path, number, line, f"{_FIELDS} columns parted by tabs, none of them empty")
        wanted = len(self.words) + 1
        if cells[0] == str(wanted):
            self.words.append((number, cells))
            self.empty = 0
        elif found := _RANGE.fullmatch(cells[0]):
            first, last = int(found[1]), int(found[2])
            if first != wanted or last <= first or first <= self.covered:
                raise broken_line(self.path, number, line, f"a multiword token from {wanted} on, behind all others")
            self.covered = last
        elif found := _EMPTY.fullmatch(cells[0]):
            self.empty += 1
            if (int(found[1]), int(found[2])) != (wanted - 1, self.empty):
                raise broken_line(self.path, number, line, f"word {wanted} or the empty node {wanted - 1}.{self.empty}")
        else:
            begin = " (or a blank line before a new sentence)" if cells[0] == "1" else ""
            raise broken_line(self.path, number, line, f"word {wanted}{begin}")

    def row(self, end: int, count: int) -> dict[str, Any]:
        if self.covered > len(self.words):
            raise BrokenFileError(
                f"{self.path}, line {end}: expected word {len(self.words) + 1}, since a multiword token of this "
                f"sentence goes up to word {self.covered}, got the sentence's end."
            )
        row: dict[str, Any] = {name: [cells[k] for _, cells in self.words] for name, k in _PLACES.items()}
        row["heads"] = [self._head(number, cells[_HEAD]) for number, cells in self.words]
        row["text"] = self.comments.get("text") or " ".join(row["tokens"])
        row["id"] = self.comments.get("sent_id") or str(count)
        return row

    def _head(self, number: int, head: str) -> int | None:
        if head == "_":
            return None
        if not _NUMBER.fullmatch(head) or int(head) > len(self.words):
            raise broken_line(self.path, number, head, f"in column 7 a head from 0 to {len(self.words)}, or _")
        return int(head)
