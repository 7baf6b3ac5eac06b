"""Rows -> features, encoded once and found again."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import naming_unwritten
from ..tasks import RowError, Task
from .encoded import EncodedDataset

__all__ = ["encode_dataset", "named_rows"]


def encode_dataset(task: Task, task_id: int, dataset: Any, tokenizer: Any, split: str) -> EncodedDataset:
    """Encodes all rows, once: `datasets` finds the result again by the data, the task and the tokenizer.

    Args:
        task: the task.
        task_id: its number among the model's tasks.
        dataset: a `datasets.Dataset`, or a list of rows.
        tokenizer: a prepared tokenizer.
        split: the name of the split, for messages.

    Raises:
        ValueError: an empty split, a missing column, or a row that cannot be used; says which.
    """
    import datasets
    from datasets.fingerprint import Hasher

    if isinstance(dataset, list):
        dataset = datasets.Dataset.from_list(dataset)
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"Task {task.name!r}, split {split!r}: the data must be a datasets.Dataset or a list of dicts, "
            f"got {type(dataset).__name__}{_instead(dataset, split)}"
        )
    dataset = dataset.with_format(None)  # tensors are no label names
    task.require_columns(dataset, task.columns_to_encode(dataset.column_names))
    features, unlabelled = dataset.features, _unlabelled(dataset)

    def encode(columns: dict[str, list[Any]], indices: list[int]) -> Any:
        rows = named_rows(columns, features, unlabelled)
        try:
            encoded = task.encode(rows, tokenizer)
        except RowError as error:
            raise ValueError(f"Split {split!r}, row {indices[error.row]}: {error}") from error
        for feature in encoded:
            feature["row"] = indices[feature["row"]]
        return _columns(encoded)

    known = {k: v for k, v in task.to_dict().items() if k not in task.not_in_features}
    identity = [
        dataset._fingerprint,
        json.dumps(known, sort_keys=True),
        _code_of(type(task).__qualname__, _homes(type(task))),
        unlabelled,
    ]
    identity.append(_tokenizer_state(tokenizer))
    cache = Path(dataset.cache_files[0]["filename"]).parent if dataset.cache_files else tempfile.gettempdir()
    room = "Make room, or set HF_DATASETS_CACHE to a folder on another disk."
    with naming_unwritten(f"The encoded rows of task {task.name!r}, split {split!r},", cache, room):
        encoded = dataset.map(
            encode,
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            new_fingerprint=Hasher.hash(identity),
            desc=f"Encoding {task.name} ({split})",
        )
    return EncodedDataset(task, task_id, dataset, encoded)


def _instead(data: Any, split: str) -> str:
    """The end of the message about data of another kind: what to give in place of them."""
    import datasets

    if isinstance(data, Mapping) and data:
        wanted = next((name for name in (split, "validation", "test") if name in data), next(iter(data)))
        return f" with the splits {list(data)}. Give one of them, as data[{wanted!r}]."
    if isinstance(data, datasets.IterableDataset):
        return ". Of a stream take rows: datasets.Dataset.from_list(list(stream.take(1000)))."
    return ". Make one: datasets.Dataset.from_dict(...), from_list(...) or from_pandas(...)."


def _columns(features: Sequence[Mapping[str, Any]]) -> Any:
    """Features as an Arrow table, where they are of numbers, texts and lists of them.

    Made by `datasets`, which looks at every number by itself, it may take as long as the tokenizer.
    """
    import pyarrow as pa

    columns = {key: [feature[key] for feature in features] for key in features[0]}
    for first, *_ in columns.values():
        if isinstance(first, dict) or (isinstance(first, np.ndarray) and first.ndim > 1):
            return columns
    arrays = {key: pa.array(values) for key, values in columns.items()}
    for key in _SMALL.keys() & arrays.keys():
        arrays[key] = arrays[key].cast(_lists_of(_SMALL[key], arrays[key].type))
    return pa.table(arrays)


# What `datasets` keeps in fewer bytes than other integers.
_SMALL = {"input_ids": "int32", "token_type_ids": "int8"}


def _lists_of(numbers: str, kind: Any) -> Any:
    """The Arrow type of such lists (of lists) as `kind` is, with other numbers in them."""
    import pyarrow as pa

    return pa.list_(_lists_of(numbers, kind.value_type)) if pa.types.is_list(kind) else pa.type_for_alias(numbers)


def _homes(kind: type[Task]) -> tuple[str, ...]:
    """The files of a task type and of the types that it is made from."""
    modules = [sys.modules.get(parent.__module__) for parent in kind.__mro__ if issubclass(parent, Task)]
    files = [getattr(module, "__file__", None) for module in modules]
    return tuple(str(file) for file in files if file)


@lru_cache(maxsize=64)
def _code_of(name: str, homes: tuple[str, ...]) -> str:
    """The code that encodes: all of the package's task types, and the files of a type of the user's own."""
    from datasets.fingerprint import Hasher

    files = {str(path) for path in Path(__file__).parent.parent.joinpath("tasks").glob("*.py")} | set(homes)
    return Hasher.hash([name, *(Path(file).read_bytes() for file in sorted(files))])


def named_rows(columns: Mapping[str, list[Any]], features: Any, left_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A batch of columns as rows, the integers of `ClassLabel` columns as their names."""
    named = {key: _names(values, features[key]) for key, values in columns.items() if key not in left_out}
    return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]


def _names(values: list[Any], feature: Any) -> list[Any]:
    if getattr(feature, "names", None):
        return [feature.names[v] if isinstance(v, int) and v >= 0 else v for v in values]
    inner = getattr(feature, "feature", None)
    if getattr(inner, "names", None):
        return [None if v is None else _names(v, inner) for v in values]
    return values


def _unlabelled(dataset: Any) -> list[str]:
    """`ClassLabel` columns that hold -1 alone: published test sets without their labels."""
    return [
        name
        for name, feature in dataset.features.items()
        if getattr(feature, "names", None) and dataset[name][0] == -1 and set(dataset[name]) == {-1}
    ]


def _tokenizer_state(tokenizer: Any) -> str:
    """All that the tokenizer's answers hang on. Padding and truncation are set by each call and left behind by it.

    They stand before its words, which are as long as a small data set's rows: those are not read and written anew.
    """
    if not tokenizer.is_fast:
        return _slow_tokenizer_state(tokenizer)
    head, _, words = tokenizer.backend_tokenizer.to_str().partition(_WORDS)
    state = json.loads(head + "}") | {"truncation": None, "padding": None}
    rest = [tokenizer.model_max_length, tokenizer.model_input_names, tokenizer.truncation_side]
    return json.dumps([state, *rest, tokenizer.pad_token_id, tokenizer.eos_token_id], sort_keys=True) + words


def _slow_tokenizer_state(tokenizer: Any) -> str:
    """Its class and the files that it saves: its own state holds paths, and what no process finds the same again."""
    from datasets.fingerprint import Hasher
    from transformers import __version__

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    return Hasher.hash([type(tokenizer).__qualname__, __version__, *files.items()])


_WORDS = ',"added_tokens":'
