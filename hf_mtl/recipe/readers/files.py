"""Files of one ending -> one `datasets.Dataset`."""

import csv
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .conll import conll_columns, read_conll
from .conllu import CONLLU_COLUMNS, read_conllu
from .json_lines import bad_lines
from .lines import BrokenFileError, check_utf8
from .squad import is_squad, read_squad
from .streams import keep_rows
from .text import read_text
from .uneven import uneven_columns

__all__ = ["ENDINGS", "UNNAMED_COLUMNS", "ending", "read_files"]

# Read by `datasets`: ending -> its reader and options. "NA" and "null" are words like others. Tab-separated text is
# seldom quoted, and a single quotation mark would swallow all rows up to the next.
_TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t", "quoting": csv.QUOTE_NONE}),
    ".parquet": ("parquet", {}),
}
_LINES = (".jsonl", ".csv", ".tsv")  # of a row a line
# Read here, by the readers' names.
UNNAMED_COLUMNS = (".conll", ".bio", ".iob", ".iob2")
_OURS = {".conllu": "conllu", ".txt": "text"} | dict.fromkeys(UNNAMED_COLUMNS, "conll")
ENDINGS = (*_TABLES, *_OURS)


def ending(file: Path) -> str:
    """The ending that says the format: of `a.jsonl.gz` it is `.jsonl`."""
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def read_files(
    files: Sequence[Path], split: str, columns: Sequence[str | None] | None = None, rows: int | None = None
) -> Any:
    """The rows of files of one kind. `datasets` keeps them, and finds them again while the files stay the same.

    Args:
        files: files with an ending of `ENDINGS`, which exist.
        split: the name of the split.
        columns: the columns of files that do not name them.
        rows: read no more rows than these, the first.

    Raises:
        ValueError: a file cannot be read; says which and, of a text file, which line.
    """
    import datasets
    from datasets.table import CastError
    from pyarrow import ArrowInvalid

    kind = ending(files[0])
    reader = _OURS.get(kind)
    try:
        if kind == ".json" and is_squad(files[0]):
            reader = "squad"
        return _table(files, split, rows) if reader is None else _rows(reader, files, columns, rows)
    except (datasets.exceptions.DatasetsError, ValueError, OSError, EOFError, zlib.error) as error:
        for broken in (error, error.__cause__):
            if isinstance(broken, BrokenFileError):
                raise ValueError(str(broken)) from error
        if isinstance(error, UnicodeDecodeError | ArrowInvalid) or isinstance(error.__cause__, UnicodeDecodeError):
            check_utf8(files)
        reason = next(bad_lines(files), None) if kind in (".json", ".jsonl") and reader is None else None
        if reason is None and kind in _LINES and isinstance(error.__cause__, CastError | ArrowInvalid):
            with suppress(csv.Error, ValueError):  # what cannot be looked at is not to hide the fault
                reason = next(uneven_columns(files, kind), None)
        raise ValueError(reason or _cannot(files, error)) from error


def _table(files: Sequence[Path], split: str, rows: int | None) -> Any:
    import datasets

    reader, options = _TABLES[ending(files[0])]
    named = {split: [str(file) for file in files]}
    if rows is not None:
        return keep_rows(datasets.load_dataset(reader, data_files=named, split=split, streaming=True, **options), rows)
    found: Any = datasets.load_dataset(reader, data_files=named, split=split, **options)
    if reader == "json":  # which takes bytes as they are: what is no text would come to light far from its file
        found.data.table.validate(full=True)
    return found


def _rows(reader: str, files: Sequence[Path], columns: Sequence[str | None] | None, rows: int | None) -> Any:
    """The generator's arguments are what `datasets` knows its rows by: they say what could change them."""
    import datasets

    states = tuple((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    names = None if columns is None else tuple(columns)
    known: dict[str, Any] = {"reader": reader, "files": states, "columns": names, "rows": rows, "code": _code()}
    features = _features(reader, columns)
    if next(_generate(**known), None) is None:  # of which `datasets` makes no data set
        return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    return datasets.Dataset.from_generator(_generate, features=features, gen_kwargs=known)


def _generate(reader: str, files: Any, columns: Any, rows: int | None, code: str) -> Iterator[dict[str, Any]]:
    options = {"columns": columns} if reader == "conll" else {}
    read: Any = {"conll": read_conll, "conllu": read_conllu, "squad": read_squad, "text": read_text}[reader]
    return islice(chain.from_iterable(read(Path(name), **options) for name, _, _ in files), rows)


def _features(reader: str, columns: Sequence[str | None] | None) -> Any:
    from datasets import Features, List, Value

    text = Value("string")
    if reader == "conll":
        return Features({name: List(text) for name in conll_columns(columns)})
    if reader == "conllu":
        lists = {name: List(Value(kind)) for name, kind in CONLLU_COLUMNS.items()}
        return Features(lists | {"text": text, "id": text})
    if reader == "squad":
        answers = {"text": List(text), "answer_start": List(Value("int32"))}
        return Features({"id": text, "title": text, "context": text, "question": text, "answers": answers})
    return Features({"text": text})


@lru_cache(maxsize=1)
def _code() -> str:
    """What the readers do: `datasets` goes by their names alone, and would not see that they changed."""
    from datasets.fingerprint import Hasher

    return str(Hasher.hash([path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]))


def _cannot(files: Sequence[Path], error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{', '.join(map(str, files))} cannot be read: {str(cause).strip() or type(cause).__name__}"
