"""The data of a recipe's tasks: files beside the recipe, or data sets of the Hub, one or several for a task."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nearest import nearest
from ..tasks import Task
from .data_joining import join_rows
from .data_options import SPLITS, by_split, read_columns, read_labels, read_lists, read_max_rows, read_shares
from .data_source import DataSource
from .readers import ENDINGS, UNNAMED_COLUMNS, ending

__all__ = ["SPLITS", "TaskData"]

_HUB_KEYS = ("path", "name", "revision")
_CHANGES = ("columns", "lists", "labels", "split", "max_rows", "streaming")


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Where the rows of one task are.

    Args:
        task: the task's name, for messages.
        sources: where its rows are; the rows of several stand one behind the other.
        needed: the columns that the task reads, where they are known: those which all sources must have.
    """

    task: str
    sources: tuple[DataSource, ...]
    needed: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, task: str | Task, values: Any, folder: Path = Path()) -> "TaskData":
        """From a recipe's `data:`, a mapping or a list of them.

        Args:
            task: the task, or where that is not at hand its name; `labels:` needs the task, whose columns say where
                labels are.
            values: what the recipe says.
            folder: where relative paths start; those that are not there start at the current folder.

        Raises:
            ValueError: an unknown key, no data at all, a value that is no file name, an unknown ending; or keys that
                do not go together.
        """
        known = task if isinstance(task, Task) else None
        name = str(task) if known is None else known.name
        needed = () if known is None else known.columns()
        inputs = () if known is None else known.inputs().values()
        where = f"tasks.{name}.data"
        several = isinstance(values, list)
        if several and not values:
            raise ValueError(f"{where} is an empty list: give at least one source, as {{train: FILE}}.")
        entries = {f"{where}[{i}]": v for i, v in enumerate(values)} if several else {where: values}
        labels = tuple(column for column in needed if column not in inputs)
        sources = tuple(_source(name, key, entry, folder, labels) for key, entry in entries.items())
        return cls(task=name, sources=sources, needed=tuple(needed))

    def label(self) -> str | dict[str, Any]:
        """The data as the model card names them."""
        labels = [source.label() for source in self.sources]
        if len(labels) == 1:
            return labels[0]
        return " and ".join(dict.fromkeys(label if isinstance(label, str) else str(label["id"]) for label in labels))

    def there(self, split: str) -> bool:
        """Whether the split can be tried: it is named, with files that exist, or the data set may have it."""
        return any(source.there(split) for source in self.sources)

    def names(self) -> list[str]:
        """The splits that there are."""
        there = {split for source in self.sources for split in source.names()}
        return [split for split in SPLITS if split in there]

    def load(self, splits: Iterable[str] = SPLITS) -> dict[str, Any]:
        """split -> `datasets.Dataset`, for those of the splits that there are.

        Raises:
            ValueError: a file is missing or cannot be read, a data set cannot be had, a split is empty, a column or a
                label that is to be renamed is not there, or several sources do not go together.
        """
        wanted = list(splits)
        loaded = {source.where: source.load(wanted) for source in self.sources}
        parts = {split: {where: found[split] for where, found in loaded.items() if split in found} for split in wanted}
        return {split: join_rows(found, split, self.needed) for split, found in parts.items() if found}


def _source(task: str, where: str, values: Any, folder: Path, label_columns: tuple[str, ...]) -> DataSource:
    given = by_split(values, where, *_HUB_KEYS, *_CHANGES)
    for key in (*_HUB_KEYS, *(SPLITS if "path" in given else ())):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{where}.{key} must be text, got {given[key]!r:.60}.")
    splits: dict[str, Any] = {key: given[key] for key in SPLITS if key in given}
    path = given.get("path")
    if path is not None:
        found = _find(path, folder)
        path = str(found) if found.is_dir() else path
    elif "name" in given or "revision" in given or not splits:
        raise ValueError(
            f"{where} must name files (train: FILE, validation: FILE, test: FILE) or a data set "
            f"(path: owner/name), got {given!r}."
        )
    else:
        splits = {key: _files(f"{where}.{key}", value, folder) for key, value in splits.items()}
    held_out, seed = read_shares(given.get("split"), f"{where}.split")
    source = DataSource(
        task=task,
        where=where,
        splits=splits,
        path=path,
        name=given.get("name"),
        revision=given.get("revision"),
        columns=read_columns(given.get("columns"), f"{where}.columns"),
        lists=read_lists(given.get("lists"), f"{where}.lists"),
        labels=read_labels(given.get("labels"), f"{where}.labels"),
        label_columns=label_columns,
        held_out=held_out,
        seed=seed,
        max_rows=read_max_rows(given.get("max_rows"), f"{where}.max_rows"),
        streaming=given.get("streaming", False),
    )
    _check(source)
    return source


def _check(source: DataSource) -> None:
    """Raises ValueError for keys that do not go together."""
    where, named = source.where, list(source.splits)
    for split in source.held_out:
        if split in named:
            raise ValueError(f"{where}.split.{split}: the data has this split already, {where}.{split}. Give one.")
        if named and "train" not in named:
            raise ValueError(f"{where}.split.{split} is taken out of train, and there is only {named}.")
    if isinstance(source.columns, tuple):
        files = [file for files in source.splits.values() for file in files] if source.path is None else []
        if not files or any(ending(file) not in UNNAMED_COLUMNS for file in files):
            raise ValueError(
                f"{where}.columns: a list names the columns of files that end in {', '.join(UNNAMED_COLUMNS)}. "
                "The columns of others have names: columns: {OURS: THEIRS}."
            )
    if source.labels and not source.label_columns:
        raise ValueError(f"{where}.labels: which columns hold labels is not known. Give from_dict the task itself.")
    if not isinstance(source.streaming, bool):
        raise ValueError(f"{where}.streaming must be true or false, got {source.streaming!r:.60}.")
    lacking = [split for split in named or ["train"] if split not in source.max_rows]
    if source.streaming and lacking:
        raise ValueError(
            f"{where}.streaming needs max_rows for {lacking[0]}: how many rows are read, as max_rows: 10000. Without "
            "streaming all rows are read, and kept on disk."
        )


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
        if ending(file) not in ENDINGS:
            raise ValueError(f"{where}: {str(file)!r} ends in {ending(file)!r}. {nearest(ending(file), ENDINGS)}")
    if len({ending(file) for file in files}) > 1:
        raise ValueError(f"{where}: the files of a split must be of one kind, got {names}.")
    return files
