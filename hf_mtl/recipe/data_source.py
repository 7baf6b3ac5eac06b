"""One source of a task's rows: files beside the recipe, or a data set of the Hub, and what is done to its rows."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..nearest import nearest
from .data_changes import map_labels, rename_columns
from .data_lists import split_cells
from .data_options import ALSO, SPLITS
from .data_splits import hold_out, sample
from .readers import keep_rows, read_files

__all__ = ["DataSource"]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where rows are, and how they become the task's: columns and labels renamed, rows held out, rows drawn.

    Args:
        task: the task's name, for messages.
        where: the source's key in the recipe, for messages.
        splits: split -> files; or, with `path`, split -> what the data set calls it.
        path: a data set's Hub id, or its folder.
        name: its configuration.
        revision: its branch, tag or commit on the Hub.
        columns: ours -> theirs; or the names of the columns of files that have none.
        lists: column, by our name -> what stands between the parts of its cells.
        labels: theirs -> ours.
        label_columns: the columns that `labels` is for.
        held_out: split -> share or number of the training rows, which it gets.
        seed: which rows are held out, and drawn.
        max_rows: split -> most rows.
        streaming: read no more than `max_rows`.
    """

    task: str
    where: str
    splits: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] | tuple[str | None, ...] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    label_columns: tuple[str, ...] = ()
    held_out: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    max_rows: Mapping[str, int] = field(default_factory=dict)
    streaming: bool = False

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
        files = self.splits.get("train" if split in self.held_out else split, ())
        return self.path is not None or (bool(files) and all(file.is_file() for file in files))

    def names(self) -> list[str]:
        """The splits that there are."""
        there = {*(self.splits if self.path is None else self._load_path(list(SPLITS))), *self.held_out}
        return [split for split in SPLITS if split in there]

    def load(self, splits: Iterable[str]) -> dict[str, Any]:
        """split -> `datasets.Dataset`, for those of the splits that there are. Raises as `TaskData.load`."""
        wanted = list(splits)
        read = [split for split in wanted if split not in self.held_out]
        if len(read) < len(wanted) and "train" not in read:
            read.append("train")
        if self.path is None:
            loaded = {split: self._load_files(split) for split in read if split in self.splits}
        else:
            loaded = self._load_path(read)
        for split, rows in loaded.items():
            if not len(rows):
                place = self.path or ", ".join(map(str, self.splits[split]))
                raise ValueError(f"{self._said(split)}: no rows in {place}. Leave the split out, if need be.")
        if isinstance(self.columns, Mapping):
            for split, rows in loaded.items():
                loaded[split] = rename_columns(rows, self.columns, split, f"{self.where}.columns")
        for split, rows in loaded.items():
            loaded[split] = split_cells(rows, self.lists, split, f"{self.where}.lists")
        if self.labels:
            loaded = map_labels(loaded, self.labels, self.label_columns, f"{self.where}.labels")
        if self.held_out and "train" in loaded:
            loaded |= hold_out(loaded["train"], self.held_out, self.seed, f"{self.where}.split")
        for split in loaded.keys() & self.max_rows.keys():
            loaded[split] = sample(loaded[split], self.max_rows[split], self.seed)
        return {split: loaded[split] for split in wanted if split in loaded}

    def _said(self, split: str) -> str:
        return f"Task {self.task!r}, split {split!r}"

    def _most(self, split: str) -> int | None:
        """How many rows of a split are read; None: all."""
        return self.max_rows.get(split) if self.streaming else None

    # ------------------------------------------------------------------ files

    def _load_files(self, split: str) -> Any:
        files = self.splits[split]
        for file in files:
            if not file.is_file():
                raise ValueError(f"{self._said(split)}: no such file: {file}. {_nearby(file)}")
        if not any(file.stat().st_size for file in files):  # which the reader of JSON cannot say
            raise ValueError(f"{self._said(split)}: no rows in {', '.join(map(str, files))}.")
        columns = self.columns if isinstance(self.columns, tuple) else None
        try:
            return read_files(files, split, columns, self._most(split))
        except ValueError as error:
            raise ValueError(f"{self._said(split)}: {error}") from error

    # ------------------------------------------------------------------ data sets

    def _load_path(self, splits: list[str]) -> dict[str, Any]:
        if self.splits:
            return {split: self._open(split, self.splits[split]) for split in splits if split in self.splits}
        found = self._open()
        named = {ALSO.get(key, key): rows for key, rows in found.items()}
        if not set(named) & set(SPLITS):
            raise ValueError(
                f"Task {self.task!r}: the data set {self.path!r} has the splits {list(found)}, and none of "
                f"{list(SPLITS)}. Say which is which, beside path: train: NAME, validation: NAME, ..."
            )
        for split in self.held_out:
            if split in named:
                raise ValueError(
                    f"{self.where}.split.{split}: the data set {self.path!r} has this split already. Leave the key "
                    "out, or name the splits that are wanted, beside path: train: train."
                )
        return {split: self._kept(split, named[split]) for split in splits if split in named}

    def _open(self, split: str | None = None, name: str | None = None) -> Any:
        import datasets

        with self._naming():
            found = datasets.load_dataset(
                self.path, self.name, split=name, revision=self.revision, streaming=self.streaming
            )
        return found if split is None else self._kept(split, found)

    def _kept(self, split: str, rows: Any) -> Any:
        if not self.streaming:
            return rows
        if split not in self.max_rows:
            raise ValueError(f"{self.where}.streaming needs max_rows.{split}: how many rows are read.")
        with self._naming():
            return keep_rows(rows, self.max_rows[split])

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Errors say whose data could not be had."""
        import datasets

        try:
            yield
        except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            which = repr(self.path) + (f", name {self.name!r}" if self.name else "")
            raise ValueError(f"Task {self.task!r}: data path {which} cannot be loaded: {error}") from error


def _nearby(file: Path) -> str:
    folder = next(parent for parent in file.parents if parent.is_dir())
    if folder != file.parent:
        missing = file.relative_to(folder).parts[0]
        return f"{folder} has no folder {missing!r}. {nearest(missing, _names(folder))}"
    return f"Of the files in its folder: {nearest(file.name, _names(folder))}"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:20]
