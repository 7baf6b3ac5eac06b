"""Rows -> encoded features -> padded batches."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from .tasks import RowError, Task
from .tasks.groups import group_rows
from .tasks.word_windows import stack_positions

__all__ = ["EncodedDataset", "MultiTaskCollator", "MultiTaskDataset", "encode_dataset", "named_rows"]

# What a model sees of a feature; the rest is for decoding.
INPUTS = ("input_ids", "token_type_ids", "positions", "labels")


class EncodedDataset(TorchDataset):
    """One task's data: the rows as they are, and their features.

    As a torch data set its items are what the model sees of a feature, with `task_ids`.

    Args:
        task: the task.
        task_id: its number among the model's tasks.
        rows: `datasets.Dataset` of the rows.
        features: `datasets.Dataset` of what `task.encode` gave, `row` being the row's number in `rows`.
    """

    def __init__(self, task: Task, task_id: int, rows: Any, features: Any):
        self.task = task
        self.task_id = task_id
        self.rows = rows
        self.features = features
        self.labelled = "labels" in features.column_names
        self._seen = features.select_columns([c for c in INPUTS if c in features.column_names])

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self._seen[list(indices)]
        return [
            {"task_ids": self.task_id} | dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def lengths(self) -> np.ndarray:
        """`[features]` subwords of each, of all its inputs."""
        import pyarrow.compute as pc

        column = self.features.with_format("arrow")["input_ids"][:]
        counts = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        if not self.task.grouped:
            return counts
        inner = pc.list_value_length(pc.list_flatten(column)).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.add.reduceat(inner, np.cumsum(counts) - counts)

    def sorted_by_length(self) -> tuple["EncodedDataset", np.ndarray]:
        """The longest first, and the order: item i of the result is item `order[i]` of this."""
        order = np.argsort(-self.lengths(), kind="stable")
        return EncodedDataset(self.task, self.task_id, self.rows, self.features.select(order)), order


class SharedRows(TorchDataset):
    """The features of tasks that read the same inputs. An item is one input, and `of_tasks` what each needs of it.

    Args:
        parts: the tasks' data, feature for feature of the same subwords.
    """

    def __init__(self, parts: Sequence[EncodedDataset]):
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        items = []
        for of_tasks in zip(*(part.__getitems__(indices) for part in self.parts), strict=True):
            inputs = {key: of_tasks[0][key] for key in ("input_ids", "token_type_ids") if key in of_tasks[0]}
            items.append(inputs | {"of_tasks": of_tasks})
        return items

    def lengths(self) -> np.ndarray:
        """`[features]` subwords of each."""
        return self.parts[0].lengths()


def shared_rows(parts: Mapping[str, EncodedDataset]) -> dict[str, EncodedDataset | SharedRows]:
    """The parts, those of the same inputs as one, whose name is all of theirs."""
    together: list[list[str]] = []
    for name, part in parts.items():
        alike = (names for names in together if _same_inputs(parts[names[0]], part))
        names = next(alike, None)
        if names is None:
            together.append([name])
        else:
            names.append(name)
    return {
        "+".join(names): parts[names[0]] if len(names) == 1 else SharedRows([parts[name] for name in names])
        for names in together
    }


def _same_inputs(a: EncodedDataset, b: EncodedDataset) -> bool:
    keys = [key for key in ("input_ids", "token_type_ids") if key in a.features.column_names]
    if a.task.grouped or b.task.grouped or len(a) != len(b) or not set(keys) <= set(b.features.column_names):
        return False
    first, second = (part.features.select_columns(keys).with_format("arrow") for part in (a, b))
    return all(first[key][:].equals(second[key][:]) for key in keys)


class MultiTaskDataset(TorchDataset):
    """The features of many tasks behind one index: unit after unit, as the batch sampler counts them.

    Args:
        parts: task -> its data.
        share_rows: whether tasks of the same inputs are one unit.
    """

    def __init__(self, parts: Mapping[str, EncodedDataset], share_rows: bool = False):
        self.parts = dict(parts)
        self.units: dict[str, EncodedDataset | SharedRows] = shared_rows(parts) if share_rows else dict(parts)
        self._list = list(self.units.values())
        self._ends = np.cumsum([len(part) for part in self._list])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = np.asarray(indices)
        part = np.searchsorted(self._ends, wanted, side="right")
        items: list[Any] = [None] * len(wanted)
        for k in np.unique(part):
            places = np.flatnonzero(part == k)
            start = self._ends[k] - len(self._list[k])
            found = self._list[k].__getitems__((wanted[places] - start).tolist())
            for place, item in zip(places, found, strict=True):
                items[place] = item
        return items


class MultiTaskCollator:
    """Features -> one padded batch: `input_ids`, `attention_mask`, `task_ids [batch]`, and what the tasks present need.

    Padding goes to the right whatever the tokenizer says: masked encoders do not mind, a causal backbone's tokens do
    not see it, and a feature's positions stay the batch's positions. `word_positions` (of tasks that read words),
    `row_groups` (of tasks whose features have several inputs, a row each) and `labels` are tensors when all rows are
    of one task, else task -> those of its rows.

    Args:
        tokenizer: for the padding token.
        tasks: the model's tasks in their order.
    """

    def __init__(self, tokenizer: Any, tasks: Sequence[Task]):
        self.tokenizer = tokenizer
        self.tasks = list(tasks)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if "of_tasks" in features[0]:
            return self._shared(features)
        inputs = [part for feature in features for part in self._inputs(feature)]
        batch, longest = self._padded(inputs)
        batch["task_ids"] = torch.tensor([part["task_ids"] for part in inputs])
        ids = sorted({feature["task_ids"] for feature in features})
        return batch | self._of_tasks({k: [f for f in features if f["task_ids"] == k] for k in ids}, longest)

    def _shared(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Every row is of the same tasks, which the batch names."""
        batch, longest = self._padded(features)
        by_task = {own[0]["task_ids"]: own for own in zip(*(feature["of_tasks"] for feature in features), strict=True)}
        return batch | {"tasks": [self.tasks[k].name for k in by_task]} | self._of_tasks(by_task, longest)

    def _padded(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], int]:
        lengths = np.array([len(part["input_ids"]) for part in inputs])
        longest = int(lengths.max())
        real = np.arange(longest) < lengths[:, None]
        batch: dict[str, Any] = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for key, filler in (("input_ids", self.tokenizer.pad_token_id), ("token_type_ids", 0)):
            if key in inputs[0]:
                values = np.full(real.shape, filler, dtype=np.int64)
                values[real] = list(chain.from_iterable(part[key] for part in inputs))
                batch[key] = torch.from_numpy(values)
        return batch, longest

    def _of_tasks(self, features: Mapping[int, Sequence[Mapping[str, Any]]], longest: int) -> dict[str, Any]:
        labels, positions, groups = {}, {}, {}
        for k, own in features.items():
            task, length = self.tasks[k], longest
            if task.per_word:
                positions[task.name] = stack_positions([feature["positions"] for feature in own])
                length = positions[task.name].shape[1]
            if task.grouped:
                groups[task.name] = group_rows([len(feature["input_ids"]) for feature in own])
            if "labels" in own[0]:
                labels[task.name] = task.stack_labels([feature["labels"] for feature in own], length)
        batch: dict[str, Any] = {}
        for key, by_task in (("word_positions", positions), ("row_groups", groups), ("labels", labels)):
            if by_task:
                batch[key] = next(iter(by_task.values())) if len(features) == 1 else by_task
        return batch

    def _inputs(self, feature: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        if not self.tasks[feature["task_ids"]].grouped:
            return [feature]
        keys = [key for key in ("input_ids", "token_type_ids") if key in feature]
        parts = zip(*(feature[key] for key in keys), strict=True)
        return [dict(zip(keys, part, strict=True)) | {"task_ids": feature["task_ids"]} for part in parts]


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
            f"got {type(dataset).__name__}."
        )
    dataset = dataset.with_format(None)  # tensors are no label names
    task.require_columns(dataset, list(task.inputs().values()))
    features, unlabelled = dataset.features, _unlabelled(dataset)

    def encode(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = named_rows(columns, features, unlabelled)
        try:
            encoded = task.encode(rows, tokenizer)
        except RowError as error:
            raise ValueError(f"Split {split!r}, row {indices[error.row]}: {error}") from error
        for feature in encoded:
            feature["row"] = indices[feature["row"]]
        return {key: [feature[key] for feature in encoded] for key in encoded[0]}

    known = {k: v for k, v in task.to_dict().items() if k not in task.not_in_features}
    identity = [
        dataset._fingerprint,
        json.dumps(known, sort_keys=True),
        _code_of(type(task).__qualname__, _homes(type(task))),
        unlabelled,
    ]
    identity.append(_tokenizer_state(tokenizer))
    encoded = dataset.map(
        encode,
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        new_fingerprint=Hasher.hash(identity),
        desc=f"Encoding {task.name} ({split})",
    )
    return EncodedDataset(task, task_id, dataset, encoded)


def _homes(kind: type[Task]) -> tuple[str, ...]:
    """The files of a task type and of the types that it is made from."""
    modules = [sys.modules.get(parent.__module__) for parent in kind.__mro__ if issubclass(parent, Task)]
    files = [getattr(module, "__file__", None) for module in modules]
    return tuple(str(file) for file in files if file)


@lru_cache(maxsize=64)
def _code_of(name: str, homes: tuple[str, ...]) -> str:
    """The code that encodes: all of the package's task types, and the files of a type of the user's own."""
    from datasets.fingerprint import Hasher

    files = {str(path) for path in Path(__file__).parent.joinpath("tasks").glob("*.py")} | set(homes)
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
    """All that the tokenizer's answers hang on. Padding and truncation are set by each call and left behind by it."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    rest = [tokenizer.model_max_length, tokenizer.model_input_names, tokenizer.truncation_side]
    return json.dumps([state, *rest, tokenizer.pad_token_id, tokenizer.eos_token_id], sort_keys=True)
