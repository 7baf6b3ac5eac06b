"""What the tasks ask of a window of examples, and the batches that answer it: nothing runs twice."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .tasks import Task
from .tasks.base import Features, Row

__all__ = ["Batch", "Request", "WindowTokenizer", "make_batches"]


@dataclass
class Request:
    """One task's part of a window of examples.

    Args:
        task: the task.
        examples: numbers of the examples that it answers.
        rows: the row of each of them.
        features: what `task.encode` gave for the rows.
        logits: float32, one array for each feature; filled by the forward.
    """

    task: Task
    examples: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    logits: list[Any] = field(default_factory=list)

    def encode(self, tokenizer: Any, known: dict[Any, list[Features]]) -> None:
        """Rows -> features; `known` has those of tasks that encode alike and answer the same examples."""
        key = (self.task.encoding_key(), tuple(self.examples))
        if key not in known:
            known[key] = self.task.encode(self.rows, tokenizer)
        self.features = known[key]
        self.logits = [None] * len(self.features)

    def keep(self, logits: np.ndarray, places: Iterable[tuple[int, int]]) -> None:
        """Takes the logits of a batch; `places` says which of its rows are which features."""
        for row, i in places:
            values = logits[row]
            self.logits[i] = values[: len(self.features[i]["input_ids"])] if self.task.per_token else values


@dataclass(slots=True)
class Input:
    """One input of the backbone: its subwords, its adapter, and the features (which of which task) it is."""

    ids: Sequence[int]
    types: Sequence[int] | None
    adapter: str | None
    features: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Reading:
    """What a task reads of a batch: its rows, and for each feature (the place of its row in these, which)."""

    rows: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Batch:
    """A batch for the backbone, and what each task reads of it.

    Args:
        input_ids: `[batch, seq]`, padded on the right: right for every backbone that does not generate, and
            it leaves subwords where the features say they are.
        attention_mask: `[batch, seq]`.
        token_type_ids: `[batch, seq]`; None where the tokenizer gives none.
        names: the tasks whose adapters the rows go through; without adapters the tasks that read the batch.
        index: `[batch]` which of `names` each row goes through; None without adapters.
        readings: task -> what it reads.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor | None
    names: list[str]
    index: torch.Tensor | None
    readings: dict[str, Reading]


def make_batches(
    requests: Iterable[Request], size: int, *, adapters: bool, mixed: bool, tokenizer: Any
) -> Iterator[Batch]:
    """The features of all tasks in batches of inputs of like length, the same input once.

    Args:
        requests: the tasks' parts, encoded.
        size: most inputs in a batch.
        adapters: whether each task has its adapter, and so its own pass for the same input.
        mixed: whether a batch may hold rows of several adapters.
        tokenizer: says what to pad with.
    """
    together: dict[str | None, list[Input]] = {}
    for item in _distinct(requests, adapters):
        together.setdefault(None if mixed else item.adapter, []).append(item)
    for inputs in together.values():
        inputs.sort(key=lambda item: len(item.ids))
        for start in range(0, len(inputs), size):
            yield _batch(inputs[start : start + size], tokenizer)


def _distinct(requests: Iterable[Request], adapters: bool) -> Iterable[Input]:
    found: dict[Any, Input] = {}
    shared: dict[int, list[Input]] = {}
    for request in requests:
        name = request.task.name
        adapter = name if adapters else None
        if adapter is None and id(request.features) in shared:
            for i, item in enumerate(shared[id(request.features)]):
                item.features.append((name, i))
            continue
        mine = shared[id(request.features)] = []
        for i, feature in enumerate(request.features):
            ids, types = feature["input_ids"], feature.get("token_type_ids")
            key = (adapter, tuple(ids), None if types is None else tuple(types))
            if key not in found:
                found[key] = Input(ids, types, adapter)
            found[key].features.append((name, i))
            mine.append(found[key])
    return found.values()


def _batch(inputs: Sequence[Input], tokenizer: Any) -> Batch:
    readings: dict[str, Reading] = {}
    for row, item in enumerate(inputs):
        for name, feature in item.features:
            reading = readings.get(name)
            if reading is None:
                reading = readings[name] = Reading()
            if not reading.rows or reading.rows[-1] != row:
                reading.rows.append(row)
            reading.places.append((len(reading.rows) - 1, feature))
    names = list(readings)
    index = None
    if inputs[0].adapter is not None:
        numbers = {name: k for k, name in enumerate(names)}
        index = torch.tensor([numbers[item.adapter] for item in inputs if item.adapter is not None])
    typed = [item.types for item in inputs if item.types is not None]
    return Batch(
        input_ids=_padded([item.ids for item in inputs], tokenizer.pad_token_id),
        attention_mask=_padded([[1] * len(item.ids) for item in inputs], 0),
        token_type_ids=_padded(typed, tokenizer.pad_token_type_id) if typed else None,
        names=names,
        index=index,
        readings=readings,
    )


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(padded)


class WindowTokenizer:
    """A tokenizer that does not tokenize the same texts twice: many tasks of a model ask for the same.

    It keeps all that it gave and should live no longer than a window. In all else it is the tokenizer it
    wraps.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._given: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """What the tokenizer gives. It is given again to who asks the same: not to be changed."""
        if not all(part is None or _is_flat(part) for part in texts):
            return self._tokenizer(*texts, **options)
        key = (*(None if part is None else tuple(part) for part in texts), *sorted(options.items()))
        if key not in self._given:
            self._given[key] = self._tokenizer(*texts, **options)
        return self._given[key]


def _is_flat(texts: Any) -> bool:
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)
