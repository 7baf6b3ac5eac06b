"""The data of a recipe's tasks: files beside the recipe, or data sets of the Hub."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..tasks.base import nearest
from .values import check_keys, mapping

__all__ = ["SPLITS", "TaskData"]

SPLITS = ("train", "validation", "test")
_ALSO = {"dev": "validation"}
_HUB_KEYS = ("path", "name", "revision")

# Ending -> reader of `datasets` and its options. "NA" and "null" are words like others. Tab-separated text is
# seldom quoted, and a single quotation mark would swallow all rows up to the next.
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t", "quoting": csv.QUOTE_NONE}),
    ".parquet": ("parquet", {}),
}


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Where the rows of one task are.

    Args:
        task: the task's name, for messages.
        splits: split -> files; or, with `path`, split -> what the data set calls it (`validation_matched`,
            `train[:90%]`).
        path: a data set's Hub id, or its folder.
        name: its configuration.
        revision: its branch, tag or commit on the Hub.
    """

    task: str
    splits: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    name: str | None = None
    revision: str | None = None

    @classmethod
    def from_dict(cls, task: str, values: Any, folder: Path) -> "TaskData":
        """From a recipe's `data:`. Relative paths start at the recipe's folder, or else at the current one.

        Raises:
            ValueError: an unknown key, no data at all, a value that is no file name, an unknown ending.
        """
        where = f"tasks.{task}.data"
        given = mapping(values, where)
        for also, split in _ALSO.items():
            if also in given:
                if split in given:
                    raise ValueError(f"{where} has {split!r} and {also!r}, which mean the same: give one.")
                given[split] = given.pop(also)
        check_keys(given, (*SPLITS, *_HUB_KEYS, *_ALSO), where)
        given = {key: value for key, value in given.items() if value is not None}
        for key in (*_HUB_KEYS, *(SPLITS if "path" in given else ())):
            if not isinstance(given.get(key, ""), str):
                raise ValueError(f"{where}.{key} must be text, got {given[key]!r:.60}.")
        splits = {key: given[key] for key in SPLITS if key in given}
        if "path" in given:
            path = _find(given["path"], folder)
            return cls(
                task=task,
                splits=splits,
                path=str(path) if path.is_dir() else given["path"],
                name=given.get("name"),
                revision=given.get("revision"),
            )
        if "name" in given or "revision" in given or not splits:
            raise ValueError(
                f"{where} must name files (train: FILE, validation: FILE, test: FILE) or a data set "
                f"(path: owner/name), got {given!r}."
            )
        return cls(task=task, splits={key: _files(f"{where}.{key}", v, folder) for key, v in splits.items()})

    def label(self) -> str | dict[str, Any]:
        """The data as the model card names them."""
        if self.path is None:
            first = next(iter(self.splits.values()))[0]
            return first.parent.name if first.stem in self.splits else first.name
        if Path(self.path).is_dir():
            return Path(self.path).resolve().name
        return {"id": self.path, "config": self.name}

    def there(self, split: str) -> bool:
        """Whether the split can be tried: it is named, with files that exist, or the data set may have it."""
        files = self.splits.get(split, ())
        return self.path is not None or (bool(files) and all(file.is_file() for file in files))

    def names(self) -> list[str]:
        """The splits that there are."""
        return list(self.splits) if self.path is None else list(self._load_path(list(SPLITS)))

    def load(self, splits: Iterable[str] = SPLITS) -> dict[str, Any]:
        """split -> `datasets.Dataset`, for those of the splits that there are.

        Raises:
            ValueError: a file is missing or cannot be read, a data set cannot be had, or a split is empty.
        """
        if self.path is None:
            loaded = {split: self._load_files(split) for split in splits if split in self.splits}
        else:
            loaded = self._load_path(list(splits))
        for split, rows in loaded.items():
            if not len(rows):
                where = self.path or ", ".join(map(str, self.splits[split]))
                raise ValueError(f"{self._said(split)}: no rows in {where}. Leave the split out, if need be.")
        return loaded

    def _said(self, split: str) -> str:
        return f"Task {self.task!r}, split {split!r}"

    def _load_files(self, split: str) -> Any:
        import datasets

        files = self.splits[split]
        for file in files:
            if not file.is_file():
                raise ValueError(f"{self._said(split)}: no such file: {file}. {_nearby(file)}")
        if not any(file.stat().st_size for file in files):  # which the reader of JSON cannot say
            raise ValueError(f"{self._said(split)}: no rows in {', '.join(map(str, files))}.")
        reader, options = _READERS[_ending(files[0])]
        named = {split: [str(file) for file in files]}
        try:
            return datasets.load_dataset(reader, data_files=named, split=split, **options)
        except (datasets.exceptions.DatasetsError, ValueError) as error:
            reason = next(_bad_lines(files), None) if reader == "json" else None
            raise ValueError(f"{self._said(split)}: {reason or _cannot(files, error)}") from error

    def _load_path(self, splits: list[str]) -> dict[str, Any]:
        import datasets

        try:
            if self.splits:
                return {
                    split: datasets.load_dataset(self.path, self.name, split=self.splits[split], revision=self.revision)
                    for split in splits
                    if split in self.splits
                }
            found = datasets.load_dataset(self.path, self.name, revision=self.revision)
        except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            which = repr(self.path) + (f", name {self.name!r}" if self.name else "")
            raise ValueError(f"Task {self.task!r}: data path {which} cannot be loaded: {error}") from error
        named = {_ALSO.get(key, key): rows for key, rows in found.items()}
        if not set(named) & set(SPLITS):
            raise ValueError(
                f"Task {self.task!r}: the data set {self.path!r} has the splits {list(found)}, and none of "
                f"{list(SPLITS)}. Say which is which, beside path: train: NAME, validation: NAME, ..."
            )
        return {split: named[split] for split in splits if split in named}


def _find(value: str, folder: Path) -> Path:
    """A path from the recipe's folder on, or else, as on a command line, from the current one on."""
    path = Path(value).expanduser()
    return path if path.exists() and not (folder / path).exists() else folder / path


def _files(where: str, value: Any, folder: Path) -> tuple[Path, ...]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where} must be a file's name, or a list of them, got {value!r:.60}.")
    files = tuple(_find(name, folder) for name in names)
    for file in files:
        ending = _ending(file)
        if ending not in _READERS:
            raise ValueError(f"{where}: {str(file)!r} ends in {ending!r}. {nearest(ending, _READERS)}")
    if len({_ending(file) for file in files}) > 1:
        raise ValueError(f"{where}: the files of a split must be of one kind, got {names}.")
    return files


def _ending(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _nearby(file: Path) -> str:
    folder = next(parent for parent in file.parents if parent.is_dir())
    if folder != file.parent:
        missing = file.relative_to(folder).parts[0]
        return f"{folder} has no folder {missing!r}. {nearest(missing, _names(folder))}"
    return f"In its folder: {nearest(file.name, _names(folder))}"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:20]


def _bad_lines(files: Iterable[Path]) -> Iterator[str]:
    """Lines that hold no JSON object. A file that is one JSON list has none."""
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


def _cannot(files: Iterable[Path], error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{', '.join(map(str, files))} cannot be read: {str(cause).strip() or type(cause).__name__}"
