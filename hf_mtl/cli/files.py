"""Examples out of files, answers into JSONL files, and no file half written."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

__all__ = ["answered_line", "check_output", "naming_lines", "read_examples", "replacing", "to_json"]

# The pipeline's own words for the input that it cannot answer.
_INPUT = re.compile(r"inputs\[(\d+)\]: ")
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_examples(path: Path) -> Iterable[Any]:
    """The examples of a file: the lines of JSONL, else the rows, read as a recipe's data of that ending are.

    Raises:
        ValueError: an ending that is not known, or a file that is not what its ending says.
    """
    if _is_json_lines(path):
        return _json_lines(path)
    from ..recipe.readers import ENDINGS, ending, read_files

    if ending(path) not in ENDINGS:
        raise ValueError(
            f"--input {path}: the ending {ending(path)!r} is not known. Known: {list(ENDINGS)}, each also "
            "with .gz behind it. What another program writes is read from stdin, as lines of JSON: --input -."
        )
    if not path.stat().st_size:  # which the reader of JSON cannot say
        raise ValueError(f"--input {path}: the file is empty.")
    rows: Iterable[Any] = read_files([path], "input")
    return rows


def _is_json_lines(path: Path) -> bool:
    """By its ending; what is no file (stdin, a pipe) has none."""
    return path.suffix.lower() == ".jsonl" or not path.is_file()


def _json_lines(path: Path) -> Iterator[Any]:
    """The strings and objects of a JSONL file; raises ValueError, with the line, for anything else."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                example = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                shown = line.decode(errors="replace").strip()
                raise ValueError(f"{path}, line {number} is not JSON in UTF-8: {shown!r:.80}.") from error
            if not isinstance(example, (str, dict)):
                raise ValueError(f"{path}, line {number} must be a string or an object, got {example!r:.80}.")
            yield example


def naming_lines(answers: Iterable[Any], path: Path | None) -> Iterator[Any]:
    """The answers; an error of the pipeline's about one of its inputs says the line, or row, of the file."""
    try:
        yield from answers
    except ValueError as error:
        about = _INPUT.match(str(error))
        if about is None:
            raise
        unit = "Text" if path is None else f"{path}, {'line' if _is_json_lines(path) else 'row'}"
        where = f"{unit} {int(about[1]) + 1}"
        raise ValueError(f"{where}: {str(error)[about.end() :]}") from error


def answered_line(example: Any, answers: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its answers. Their key is none that data has: SQuAD's rows have `answers` already."""
    return (example if isinstance(example, dict) else {"text": example}) | {"predictions": answers}


def to_json(value: Any, *, ascii_only: bool = False) -> str:
    """The value as a line of JSON that any encoding of Unicode can write."""
    text = json.dumps(value, ensure_ascii=ascii_only, default=str)  # a Parquet file may hold dates
    # Half surrogates come in escaped, and cannot be written otherwise.
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def check_output(path: Path | None) -> None:
    """Raises ValueError before the work begins, where its result could not be written."""
    if path is not None and path.is_dir():
        raise ValueError(f"--output {path} is a folder: give a file's name.")
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"--output {path}: the folder {path.parent} does not exist.")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file that appears, or takes the place of the old one, when all of it is written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
