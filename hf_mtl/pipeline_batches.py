"""What the tasks ask of a window of examples, and the batches that answer it: nothing runs twice."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch

from .tasks import Task
from .tasks.base import Features, Row
from .tasks.word_windows import stack_positions

__all__ = ["Batch", "Request", "WindowTokenizer", "cheapest_cuts", "make_batches", "requests_of"]


# A feature, and which of its inputs.
Place = tuple[int, int]


@dataclass
class Request:
    """The part of a window that some tasks have: those that encode alike and answer the same examples.

    Args:
        tasks: the tasks.
        examples: numbers of the examples that they answer.
        rows: the row of each of them.
        features: what `encode` gave for the rows.
        logits: task -> float32, one array for each feature; filled by the forward.
        repeated: whether the same input is answered anew each time: what is drawn at random differs.
    """

    tasks: list[Task]
    examples: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    logits: dict[str, list[Any]] = field(default_factory=dict)
    repeated: bool = False

    def encode(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        """Rows -> features, for tasks that write with these options of the call."""
        self.features = self.tasks[0].asked(options).encode(self.rows, tokenizer)
        self.logits = {task.name: [None] * len(self.features) for task in self.tasks}

    def inputs(self) -> Iterator[tuple[Place, Sequence[int], Sequence[int] | None]]:
        """Of each feature its input, or its inputs: whose it is, its subwords and their types."""
        for i, feature in enumerate(self.features):
            ids, types = feature["input_ids"], feature.get("token_type_ids")
            if self.tasks[0].grouped:
                for k, part in enumerate(ids):
                    yield (i, k), part, None if types is None else types[k]
            else:
                yield (i, 0), ids, types

    def keep(self, task: Task, logits: np.ndarray, places: Iterable[tuple[int, Place]]) -> None:
        """Takes a task's logits of a batch; `places` says which of its rows are which inputs of which features."""
        kept = self.logits[task.name]
        for row, (i, k) in places:
            if task.grouped:
                if kept[i] is None:
                    kept[i] = np.empty((len(self.features[i]["input_ids"]), *logits.shape[2:]), logits.dtype)
                kept[i][k] = logits[row, 0]
            else:
                kept[i] = task.cut(logits[row], self.features[i])


@dataclass(slots=True)
class Input:
    """One input of the backbone: its subwords, its adapter, and the features (which of which request) it is."""

    ids: Sequence[int]
    types: Sequence[int] | None
    adapter: str | None
    features: list[tuple[int, Place]] = field(default_factory=list)


@dataclass
class Reading:
    """What tasks read of a batch: its rows, and for each feature (the place of its row in these, which)."""

    request: Request
    tasks: list[Task]
    rows: list[int] = field(default_factory=list)
    places: list[tuple[int, Place]] = field(default_factory=list)

    def add(self, row: int, place: Place) -> None:
        """The input is read off the row. Two features may share it if they are not read at positions of their own."""
        if not self.rows or self.rows[-1] != row or self.tasks[0].per_word:
            self.rows.append(row)
        self.places.append((len(self.rows) - 1, place))

    def positions(self) -> torch.Tensor | None:
        """`[rows, words]` the subwords that are read, for tasks that read words."""
        if not self.tasks[0].per_word:
            return None
        return stack_positions([self.request.features[i]["positions"] for _, (i, _) in self.places])

    def groups(self) -> torch.Tensor | None:
        """`[rows, 1]` each row by itself, for tasks whose features have several inputs."""
        return torch.arange(len(self.rows)).unsqueeze(1) if self.tasks[0].grouped else None


@dataclass
class Batch:
    """A batch for the backbone, and what the tasks read of it.

    Args:
        input_ids: `[batch, seq]`, padded on the right: right for every backbone that does not generate, and
            it leaves subwords where the features say they are.
        attention_mask: `[batch, seq]`.
        token_type_ids: `[batch, seq]`; None where the tokenizer gives none.
        names: the tasks whose adapters the rows go through; without adapters the tasks that read the batch.
        index: `[batch]` which of `names` each row goes through; None without adapters.
        readings: what is read.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor | None
    names: list[str]
    index: torch.Tensor | None
    readings: list[Reading]


def requests_of(tasks: Iterable[Task]) -> list[Request]:
    """The tasks, those that encode alike together."""
    together: dict[Any, Request] = {}
    for task in tasks:
        together.setdefault(task.encoding_key(), Request([])).tasks.append(task)
    return list(together.values())


def make_batches(
    requests: Sequence[Request], size: int, *, adapters: bool, mixed: bool, tokenizer: Any, price: int
) -> Iterator[Batch]:
    """The features of all requests in batches of inputs of like length, the same input once.

    Args:
        requests: the tasks' parts, encoded.
        size: most inputs in a batch.
        adapters: whether each task has its adapter, and so its own pass for the same input.
        mixed: whether a batch may hold rows of several adapters.
        tokenizer: says what to pad with.
        price: what running one more batch costs, in tokens of padding.
    """
    together: dict[str | None, list[Input]] = {}
    for item in _distinct(requests, adapters):
        together.setdefault(None if mixed else item.adapter, []).append(item)
    for inputs in together.values():
        inputs.sort(key=lambda item: len(item.ids))
        bounds = cheapest_cuts(np.array([len(item.ids) for item in inputs]), size, price)
        for start, end in pairwise(bounds):
            yield _batch(inputs[start:end], requests, tokenizer)


def cheapest_cuts(lengths: np.ndarray, size: int, price: int) -> list[int]:
    """Where to cut inputs into batches for the least padding.

    Args:
        lengths: `[inputs]`, ascending.
        size: most inputs in a batch.
        price: what one more batch costs, in tokens of padding.

    Returns:
        The bounds of the batches, the first 0 and the last the number of inputs.
    """
    cost = np.zeros(len(lengths) + 1)  # of the cheapest batches of the first so many inputs
    begin = np.zeros(len(lengths) + 1, dtype=np.int64)  # of the last of these batches
    for end, longest in enumerate(lengths.tolist(), start=1):
        first = max(0, end - size)
        costs = cost[first:end] + np.arange(end - first, 0, -1) * longest
        begin[end] = first + costs.argmin()
        cost[end] = costs.min() + price
    bounds = [len(lengths)]
    while bounds[-1]:
        bounds.append(int(begin[bounds[-1]]))
    return bounds[::-1]


def _distinct(requests: Sequence[Request], adapters: bool) -> Iterable[Input]:
    found: dict[Any, Input] = {}
    for number, request in enumerate(requests):
        for adapter in [task.name for task in request.tasks] if adapters else [None]:
            for place, ids, types in request.inputs():
                own = (number, place) if request.repeated else None
                key = (adapter, own, tuple(ids), None if types is None else tuple(types))
                item = found.get(key)
                if item is None:
                    item = found[key] = Input(ids, types, adapter)
                item.features.append((number, place))
    return found.values()


def _batch(inputs: Sequence[Input], requests: Sequence[Request], tokenizer: Any) -> Batch:
    readings: dict[tuple[int, str | None], Reading] = {}
    for row, item in enumerate(inputs):
        for number, place in item.features:
            reading = readings.get((number, item.adapter))
            if reading is None:
                request = requests[number]
                tasks = [task for task in request.tasks if item.adapter in (None, task.name)]
                reading = readings[number, item.adapter] = Reading(request, tasks)
            reading.add(row, place)
    names = [task.name for reading in readings.values() for task in reading.tasks]
    index = None
    if inputs[0].adapter is not None:
        names = list(dict.fromkeys(names))
        numbers = {name: k for k, name in enumerate(names)}
        index = torch.tensor([numbers[item.adapter] for item in inputs if item.adapter is not None])
    lengths = np.array([len(item.ids) for item in inputs])
    real = np.arange(lengths.max()) < lengths[:, None]
    typed = [item.types for item in inputs if item.types is not None]
    return Batch(
        input_ids=_padded([item.ids for item in inputs], real, tokenizer.pad_token_id),
        attention_mask=torch.from_numpy(real.astype(np.int64)),
        token_type_ids=_padded(typed, real, tokenizer.pad_token_type_id) if typed else None,
        names=names,
        index=index,
        readings=list(readings.values()),
    )


def _padded(rows: Sequence[Sequence[int]], real: np.ndarray, value: int) -> torch.Tensor:
    padded = np.full(real.shape, value, dtype=np.int64)
    padded[real] = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    return torch.from_numpy(padded)


class WindowTokenizer:
    """A tokenizer that does not tokenize the same texts twice: many tasks of a model ask for the same.

    It keeps all that it gave and should live no longer than a window. In all else it is the tokenizer it
    wraps.
    """

    def __init__(self, tokenizer: Any):
        vars(self).update(_tokenizer=tokenizer, _given={})

    def __setattr__(self, name: str, value: Any) -> None:
        """A setting (the language of the texts, say) is the tokenizer's, and what it gave before is not given again."""
        setattr(self._tokenizer, name, value)
        self._given.clear()

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
