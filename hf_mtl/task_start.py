"""Where a new task starts: from other tasks' adapters, the nearest ones."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .adapters import COMBINATIONS, check_has_own, combine_adapters
from .config import MultiTaskConfig
from .data import MultiTaskCollator, encode_dataset
from .nearest import nearest
from .tasks import Task

__all__ = ["TaskStartMixin"]


class TaskStartMixin(PreTrainedModel):
    """The part of a `MultiTaskModel` that makes a task out of others."""

    config: MultiTaskConfig
    tasks: dict[str, Task]
    heads: nn.ModuleDict
    tokenizer: Any
    task: Callable[[str], Task]
    head: Callable[..., Any]
    encode: Callable[..., tuple[torch.Tensor, ...]]
    _part: Callable[[Task], PreTrainedModel]

    def start_task(
        self,
        name: str,
        sources: str | Iterable[str] | Mapping[str, float],
        *,
        method: str = "svd",
        density: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Gives a task's adapter, in place of its values, a weighted merge of other tasks' adapters. Its head stays.

        Args:
            name: the task's.
            sources: a task, some tasks (their mean), or a dict task -> weight.
            method: peft's `combination_type`: `svd` (the sum of the products, cut to the adapter's rank), `linear`,
                `ties`, `dare_linear`, `dare_ties`, `magnitude_prune`, and those four with `_svd`.
            density: the share of the values that is kept, of methods that prune.
            seed: which values `dare` keeps.

        Raises:
            ValueError: there is no such task, one of them has no adapter, or the adapters cannot be combined.
        """
        if method not in COMBINATIONS:
            raise ValueError(f"Unknown method {method!r}. {nearest(method, COMBINATIONS)}")
        if not 0 < density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, got {density!r}.")
        given = [sources] if isinstance(sources, str) else list(sources)
        if not given:
            raise ValueError(f"Task {name!r} can start from one task or more, got none.")
        weights = dict(sources) if isinstance(sources, Mapping) else dict.fromkeys(given, 1 / len(given))
        for one in (name, *weights):
            if self.config.adapter_of(self.task(one).name) is None:
                raise ValueError(
                    f"Task {one!r} has no adapter: its head reads the backbone itself. Name tasks that have one."
                )
        check_has_own(self.config, name)
        part = self._part(self.task(name))
        combine_adapters(part, name, weights, method, density, seed)

    def nearest_tasks(
        self, name: str, dataset: Any, *, rows: int = 256, steps: int = 100, learning_rate: float = 1e-2
    ) -> dict[str, float]:
        """The model's tasks, the nearest first: with what loss the task is learned from what their adapters give.

        A copy of the task's head is trained on the hidden states that another task's adapter gives for some rows, which
        costs a forward a task, and its loss on other rows is the answer. The task's own adapter is among them, under
        its own name: a fresh one is the bare backbone, and what comes behind it is no help.

        Args:
            name: the task's, which the model has: see `add_task`.
            dataset: labelled rows of the task, a `datasets.Dataset` or a list of dicts.
            rows: how many of them are looked at, evenly spaced; of these a third is kept for the loss.
            steps: of the head's training.
            learning_rate: of it (Adam).

        Raises:
            ValueError: there is no such task, it has no head to train, or there are too few rows.
        """
        task = self.task(name)
        if not list(self.heads[name].parameters()):
            raise ValueError(f"Task {name!r} ({task.type}) has no head of its own whose loss could be compared.")
        features = self._some_features(task, dataset, rows)
        collate = MultiTaskCollator(self.tokenizer, [task])
        held_out = [collate(features[0::3]), collate([f for i, f in enumerate(features) if i % 3])]
        losses = {}
        for other in self.tasks:
            test, train = ([*self._frozen(other, name, batch)] for batch in held_out)
            losses[other] = self._probe(name, train, test, steps, learning_rate)
        return dict(sorted(losses.items(), key=lambda item: item[1]))

    def _some_features(self, task: Task, dataset: Any, rows: int) -> list[dict[str, Any]]:
        places = list(range(0, len(dataset), max(1, len(dataset) // rows)))[:rows]
        some = [dataset[i] for i in places] if isinstance(dataset, list) else dataset.select(places)
        encoded = encode_dataset(task, 0, some, self.tokenizer, "nearest")
        if len(encoded) < 6 or not encoded.labelled:
            raise ValueError(f"Task {task.name!r}: six labelled rows or more are needed, got {len(encoded)}.")
        return [encoded[i] for i in range(len(encoded))]

    @torch.no_grad()
    def _frozen(self, other: str, name: str, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """What a head needs of a batch: hidden states by the other task's adapter, their mask, labels and places."""
        given = {key: value.to(self.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
        mask, inputs = given["attention_mask"], {k: given.get(k) for k in ("input_ids", "token_type_ids")}
        training = self.training
        self.eval()
        states = self.encode([other], mask, read_by=[name], **inputs)
        self.train(training)
        more = {"labels": given["labels"], "positions": given.get("word_positions"), "groups": given.get("row_groups")}
        return states, mask, more

    def _probe(self, name: str, train: list[Any], test: list[Any], steps: int, learning_rate: float) -> float:
        own = self.heads[name]
        probe = copy.deepcopy(own).requires_grad_(True).eval()  # without dropout losses are compared with less noise
        optimizer = torch.optim.Adam(probe.parameters(), lr=learning_rate)
        self.heads[name] = probe  # `head` finds it there, and gathers words and groups for it
        try:
            with torch.enable_grad():
                for _ in range(steps):
                    optimizer.zero_grad()
                    self.head(name, train[0], train[1], **train[2]).loss.backward()
                    optimizer.step()
            with torch.no_grad():
                return float(self.head(name, test[0], test[1], **test[2]).loss)
        finally:
            self.heads[name] = own
