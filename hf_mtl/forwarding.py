"""Running a model: which rows go through the backbone together, and which head answers which of them."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.utils import ModelOutput

from .adapters import common_input, computed_once, layer_above, reads_alike, route_of, trunk_layers, use_route
from .backbone import rows_come_first
from .cached_batches import output_in_parts
from .frozen_outputs import FrozenOutputs
from .input_rows import check_whole, inputs_of_rows, of_rows
from .language_model import text_part
from .nearest import closest, nearest
from .tasks import Task, TaskOutput
from .tasks.base import shown
from .tasks.groups import gather_groups
from .writing import WritingMixin

__all__ = ["ForwardMixin", "MultiTaskOutput", "weighted_sum"]


@dataclass
class MultiTaskOutput(ModelOutput):
    """What `MultiTaskModel.forward` gives.

    Args:
        loss: `[]`, the sum of the losses of the tasks present, each times its task's weight.
        logits: task -> logits of the rows that are of this task, in their order. Of a task that writes: the tokens
            written, `[batch, sequences, tokens]`, padded by -100. Of a language model's task with labels:
            `[batch, 3]`, see `hf_mtl.tasks.language_heads.token_loss`.
        task_losses: task -> `[]`, the loss before its weight.
    """

    loss: torch.Tensor | None = None
    logits: dict[str, torch.Tensor] | None = None
    task_losses: dict[str, torch.Tensor] | None = None


class ForwardMixin(WritingMixin):
    """The forward of a `MultiTaskModel`, and its parts."""

    _takes: frozenset[str]
    _frozen_outputs: FrozenOutputs | None

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        tasks: Sequence[str] | None = None,
        task_ids: torch.Tensor | None = None,
        word_positions: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        row_groups: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        labels: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> MultiTaskOutput:
        """Logits, and with `labels` the loss, of some tasks.

        Args:
            input_ids: `[batch, seq]`.
            attention_mask: `[batch, seq]`, 1 for real tokens; padding may be on either side.
            token_type_ids: `[batch, seq]`, for backbones that know them.
            inputs_embeds: `[batch, seq, width]`, in place of `input_ids`.
            tasks: names: every row is answered by each of these tasks. All tasks where neither this nor `task_ids`
                is given.
            task_ids: `[batch]`: each row is answered by one task, numbered in the order of `config.tasks`.
            word_positions: `[batch, words]`, for tasks that read words: which subwords their heads see, -1 where
                there are no more. A tensor when only one task is asked, else task -> those of this task's rows.
                Where it is not given such a head sees every subword.
            row_groups: `[examples, inputs]`, for tasks whose examples have several inputs each: which of the task's
                rows they are, -1 where there are no more; said as `word_positions` are.
            labels: a tensor when only one task is asked, else task -> the labels of this task's rows.
            **kwargs: more of the backbone's inputs. Hidden states are had from `encode`.

        Raises:
            ValueError: an unknown task, both `tasks` and `task_ids`, or labels, positions or groups that do not say
                whose they are.
        """
        _check_names(kwargs, self._takes)
        for name in {"output_hidden_states", "output_attentions", "return_dict"} & kwargs.keys():
            if kwargs.pop(name) not in (None, name == "return_dict"):
                raise ValueError(f"forward gives logits and losses, not {name}: ask model.encode, or model.backbone.")
        check_whole(kwargs)
        tasks = [tasks] if isinstance(tasks, str) else tasks
        first = inputs_embeds if inputs_embeds is not None else input_ids
        if first is None:
            raise ValueError("forward needs input_ids, or inputs_embeds in their place; both are None.")
        if attention_mask is None:
            attention_mask = torch.ones(first.shape[:2], dtype=torch.long, device=first.device)
        inputs = {
            "input_ids": input_ids,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
        } | kwargs
        if task_ids is not None and tasks is not None:
            raise ValueError("Give `tasks` (each answers every row) or `task_ids` (one task a row), not both.")
        asked: dict[str, torch.Tensor | None]
        if task_ids is None:
            asked = dict.fromkeys(self.tasks if tasks is None else [self.task(name).name for name in tasks])
        else:
            asked = self._rows_of_tasks(task_ids, len(first))
        gold = _of_tasks("labels", labels, list(asked))
        places = _of_tasks("word_positions", word_positions, list(asked))
        groups = _of_tasks("row_groups", row_groups, list(asked))
        in_parts = {name for name in gold.keys() & groups.keys() if self._learns_in_parts(name)}
        alone = in_parts | {name for name in asked if self._reads_alone(name, name in gold)}
        seen = self._states({name: rows for name, rows in asked.items() if name not in alone}, attention_mask, inputs)
        outputs = {}
        for name, rows in asked.items():
            if name in alone:
                mask, own = of_rows(rows, attention_mask), inputs_of_rows(rows, inputs, len(attention_mask))
                if name in in_parts:
                    outputs[name] = output_in_parts(self, name, gold[name], groups[name], mask, own)
                elif name in gold:
                    outputs[name] = self._guess(name, gold[name], places.get(name), mask, own)
                else:
                    outputs[name] = TaskOutput(None, self._write(name, own["input_ids"], None, mask))
            else:
                outputs[name] = self.head(
                    name, *seen[name], labels=gold.get(name), positions=places.get(name), groups=groups.get(name),
                    input_ids=of_rows(rows, input_ids),
                )  # fmt: skip
        losses = {name: output.loss for name, output in outputs.items() if output.loss is not None}
        return MultiTaskOutput(
            loss=weighted_sum(losses, self.tasks) if losses else None,
            logits={name: output.logits for name, output in outputs.items()},
            task_losses=losses or None,
        )

    def encode(
        self,
        names: Sequence[str],
        attention_mask: torch.Tensor,
        index: torch.Tensor | None = None,
        read_by: Sequence[str] = (),
        **inputs: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Hidden states `[batch, seq, width]` for the heads of these tasks: all layers' where one reads an inner layer.

        Args:
            names: the tasks whose adapters the rows go through.
            attention_mask: `[batch, seq]`.
            index: `[batch]` which of `names` each row belongs to; None where there is one name, or no adapters.
            read_by: more tasks whose heads are to read them.
            **inputs: the backbone's other inputs.
        """
        deep = any(self.tasks[name].layer != -1 for name in (*names, *read_by))
        given = {k: v for k, v in inputs.items() if v is not None and (k != "token_type_ids" or k in self._takes)}
        route = route_of(self.config, names, index)
        read = text_part(self.backbone, self.config.language_model)
        with use_route(route), self._known(names, given, attention_mask, deep):
            output = read(attention_mask=attention_mask, output_hidden_states=deep, return_dict=True, **given)
        return (*(output.hidden_states or ())[:-1], output.last_hidden_state)

    def _known(
        self, names: Sequence[str], given: Mapping[str, Any], mask: torch.Tensor, deep: bool
    ) -> AbstractContextManager[None]:
        """What is known of frozen layers. Heads of inner layers need all of them, and masked texts do not recur."""
        masked = any(self.tasks[name].language_model for name in names)
        ids = given.get("input_ids")
        if self._frozen_outputs is None or not self.training or deep or masked or ids is None:
            return nullcontext()
        return self._frozen_outputs.used_for(ids, mask, given.get("token_type_ids"))

    def head(
        self,
        name: str,
        states: tuple[torch.Tensor, ...],
        mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        groups: torch.Tensor | None = None,
        options: Mapping[str, Any] | None = None,
        input_ids: torch.Tensor | None = None,
    ) -> TaskOutput:
        """One task's head on what `encode` gave, or on the subwords at `positions` of it. See `forward`.

        `options` are for `generate`, of tasks that write, and `input_ids` for those of them that look at the input's
        tokens. A decoder does not write from states: see `generate`.
        """
        task = self.tasks[name]
        context, context_mask = hidden, mask = states[task.layer], mask
        if task.grouped:
            if groups is None:
                raise ValueError(
                    f"Task {name!r} answers examples of several inputs: give row_groups, which rows each example has."
                )
            hidden, mask = gather_groups(hidden, mask, groups.to(hidden.device))
        if positions is not None and task.per_word:
            positions = positions.to(hidden.device)
            mask = (positions >= 0).to(mask.dtype)
            hidden = hidden.gather(1, positions.clamp(min=0).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        if task.language_model is None:
            return self.heads[name](hidden, mask, labels)
        if labels is None and task.writes:
            return TaskOutput(None, self._write(name, input_ids, context, context_mask, options))
        return self._predicted(name, hidden, mask, labels, context, context_mask)

    def _reads_alone(self, name: str, labelled: bool) -> bool:
        """Whether a task's rows go through the backbone by themselves: they are changed first, or written on."""
        kind = self.tasks[name].language_model
        return (kind == "masked" and labelled) or (kind == "causal" and not labelled)

    def _learns_in_parts(self, name: str) -> bool:
        """Whether a task that learns has not all of its rows go through the backbone at a time."""
        return torch.is_grad_enabled() and self.tasks[name].examples_in_memory is not None

    def _rows_of_tasks(self, task_ids: torch.Tensor, rows: int) -> dict[str, torch.Tensor | None]:
        """task -> which rows are its own; None: all."""
        kind = getattr(task_ids, "dtype", None)
        if not isinstance(kind, torch.dtype) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise ValueError(
                f"task_ids must be a tensor of whole numbers, one a row, by the order of the model's tasks; got "
                f"{shown(task_ids)}. For all rows by their names: tasks=[...]."
            )
        if task_ids.shape != (rows,):
            raise ValueError(f"task_ids must be of shape [{rows}], one for each row, and is {list(task_ids.shape)}.")
        present, index = torch.unique(task_ids, return_inverse=True)
        known = list(self.tasks)
        numbers = present.tolist()
        if numbers[0] < 0 or numbers[-1] >= len(known):
            raise ValueError(f"task_ids must lie in 0 to {len(known) - 1} (tasks {known}), got {numbers}.")
        if len(numbers) == 1:
            return {known[numbers[0]]: None}
        return {known[k]: torch.nonzero(index == i).squeeze(1) for i, k in enumerate(numbers)}

    def _trunk(self) -> list[nn.Module]:
        """The layers that give all tasks the same: those below the first adapter."""
        return [] if torch.compiler.is_compiling() else trunk_layers(*self._layers())

    def _layer_above(self) -> nn.Module | None:
        """The first layer with an adapter, where what is below gives all tasks the same."""
        return None if torch.compiler.is_compiling() or self.training else layer_above(*self._layers())

    def _layers(self) -> tuple[nn.Module, int]:
        count: int = self.config.text_config.num_hidden_layers  # type: ignore[union-attr]
        return cast(nn.Module, text_part(self.backbone, self.config.language_model)), count

    def _states(
        self, asked: Mapping[str, torch.Tensor | None], mask: torch.Tensor, inputs: Mapping[str, Any]
    ) -> dict[str, tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        """task -> the hidden states of its rows, and their mask."""
        names = list(asked)
        chosen = [rows for rows in asked.values() if rows is not None]
        if not chosen:  # every row is each task's
            if not names or not reads_alike(self.config):
                # Of one task as well: a task's answers are the same to the bit, whichever others are asked beside it.
                with computed_once(self._trunk() if len(names) > 1 else []), common_input(self._layer_above()):
                    return {name: (self.encode([name], mask, **inputs), mask) for name in names}
            return dict.fromkeys(names, (self.encode(names, mask, **inputs), mask))
        if not reads_alike(self.config) and not rows_come_first(self.config.text_config):
            own = {n: (inputs_of_rows(r, inputs, len(mask)), of_rows(r, mask)) for n, r in asked.items()}
            return {name: (self.encode([name], seen, **given), seen) for name, (given, seen) in own.items()}
        # Sorted by task: rows that share an adapter are one block then. The others' rows are read elsewhere.
        order, counts = torch.cat(chosen), [len(rows) for rows in chosen]
        index = torch.repeat_interleave(torch.tensor(counts)).to(order.device)
        inputs, mask = inputs_of_rows(order, inputs, len(mask)), mask[order]
        states = self.encode(names, mask, index, **inputs)
        parts = zip(*(state.split(counts) for state in states), strict=True)
        return {name: (part, own) for name, part, own in zip(names, parts, mask.split(counts), strict=True)}


def weighted_sum(losses: Mapping[str, torch.Tensor], tasks: Mapping[str, Task]) -> torch.Tensor:
    """The loss `[]` of a batch: the sum of the losses of its tasks, each times its task's weight."""
    return torch.stack([loss * tasks[name].weight for name, loss in losses.items()]).sum()


def _check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """A slip of the pen (`task=`) would go to the backbone, which takes anything, and be lost there."""
    own = [name for name in inspect.signature(ForwardMixin.forward).parameters if name not in ("self", "kwargs")]
    for name in set(given) - set(known) - {"return_dict"}:
        if close := closest(name, own, cutoff=0.8):
            raise ValueError(f"forward has no argument {name!r}. Did you mean {close!r}?")


def _of_tasks(
    what: str, values: torch.Tensor | Mapping[str, torch.Tensor] | None, names: list[str]
) -> Mapping[str, torch.Tensor]:
    if values is None:
        return {}
    if isinstance(values, Mapping):
        for name in values:
            if name not in names:
                raise ValueError(f"{what} has {name!r}, which the batch does not ask. {nearest(str(name), names)}")
        return values
    if len(names) != 1:
        raise ValueError(f"The batch asks tasks {names}: give {what} as a dict task -> tensor, not as one tensor.")
    return {names[0]: values}
