"""The tasks of a model: added, replaced, taken out, without a change to what the others answer."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .adapters import (
    adapter_from_dict,
    adapter_names,
    adapter_to_dict,
    check_adapters,
    check_may_have_own,
    check_one_kind,
    composition_of,
    delete_adapter,
    inject_adapters,
    order_adapters,
    recompose,
    rename_adapter,
    rename_key,
    starts_from_base,
)
from .backbone import check_offsets, warn_of_lengths
from .freezing import FreezingMixin
from .language_model import kind_needed, text_part
from .nearest import nearest
from .tasks import Task
from .tasks.base import shown

__all__ = ["TaskLifeMixin", "adapter_settings", "check_layer", "tasks_of"]


class TaskLifeMixin(FreezingMixin):
    """What a `MultiTaskModel` does with its tasks."""

    heads: nn.ModuleDict
    tokenizer: Any

    def task(self, name: str) -> Task:
        """The task of this name; raises ValueError where there is none."""
        if not isinstance(name, str):
            raise ValueError(f"A task is said by its name, a string, not by {shown(name)}. {nearest('', self.tasks)}")
        if name not in self.tasks:
            raise ValueError(f"The model has no task {name!r}. {nearest(name, self.tasks)}")
        return self.tasks[name]

    def add_task(self, task: Task, adapter: Any = None) -> None:
        """Adds a task with a fresh head and adapter. No other task's answers change by a bit.

        Args:
            task: with its labels known.
            adapter: a peft config of its own, in place of the one that the model's tasks have, of the same kind. Where
                tasks share adapters it is the task's alone, so that training it leaves the others as they are.
                None: as the model's tasks have it. False: none, the head reads the bare backbone.

        Raises:
            ValueError: the model has a task of this name already, or it is no task; an adapter for a model that has
                none; or one of its own, or none, where all tasks go through one (`sharing="shared"`).
        """
        if adapter is False:
            settings, own = None, self.config.adapters is not None
        else:
            settings = self.config.adapters if adapter is None else adapter_to_dict(adapter)
            own = adapter is not None
        if settings == self.config.adapters and starts_from_base((settings or {}).get("init_lora_weights")):
            own = False  # it starts where all do
        self._add(task, settings, own)

    def _add(self, task: Task, adapter: Mapping[str, Any] | None, own: bool) -> None:
        """`own`: the adapter, or that there is none, is the task's alone, whatever the others share."""
        tasks_of(task)
        if task.name in self.tasks:
            raise ValueError(f"The model has a task {task.name!r} already. Remove it first, or take another name.")
        check_layer(task, self.config.text_config)
        if kind_needed([task], self.config.text_config) not in (None, self.config.language_model):
            raise ValueError(
                f"Task {task.name!r} ({task.type}) needs a language model, and this model's backbone was taken without "
                "one, for no task needed it. Make the model by from_backbone with such a task among its tasks."
            )
        self._check_adapters(task.name, adapter, own)
        if adapter is not None and self.config.sharing != "shared":
            self._check_places(task, adapter)
        if self.tokenizer is not None:
            check_offsets(self.tokenizer, [task])
            warn_of_lengths(self.tokenizer, self.config.text_config, [task])
        head = task.build_head(self.config.text_config).to(self.device)
        head.apply(self._init_weights)
        self._keep_settings(task.name, adapter, own)
        training = self.training
        self._inject([task])
        self.backbone.train(training)
        self.heads[task.name] = head.train(self.training)
        self.tasks[task.name] = task
        self.config.tasks = [*(self.config.tasks or []), task.to_dict()]
        self._freeze()

    def replace_task(self, task: Task) -> None:
        """Puts a task in the place of that of its name, whose head and adapter it keeps: for a tuned threshold.

        Raises:
            ValueError: there is no such task, or it needs another head.
        """
        before = self.task(task.name)
        check_layer(task, self.config.text_config)
        head, kept = task.build_head(self.config.text_config), self.heads[task.name]
        shapes = [{k: v.shape for k, v in module.state_dict().items()} for module in (head, kept)]
        if task.type != before.type or shapes[0] != shapes[1] or task.labels_of_head() != before.labels_of_head():
            raise ValueError(
                f"Task {task.name!r} cannot be replaced: the new one needs another head. Remove it and add the new one."
            )
        for path, parameter in list(kept.named_parameters()):
            module, _, leaf = path.rpartition(".")
            setattr(head.get_submodule(module), leaf, parameter)
        self.heads[task.name] = head.train(kept.training)
        self.tasks[task.name] = task
        self.config.tasks = [task.to_dict() if v["name"] == task.name else v for v in self.config.tasks or []]

    def remove_task(self, name: str) -> None:
        """Takes a task out, with its head, its adapter and its part of the card.

        Raises:
            ValueError: there is no such task, or it is the only one.
        """
        self.task(name)
        if len(self.tasks) == 1:
            raise ValueError(f"{name!r} is the model's only task. Add another one before you remove it.")
        del self.heads[name], self.tasks[name]
        if self.config.adapters is not None:
            delete_adapter(self.backbone, name)
        (self.config.task_adapters or {}).pop(name, None)
        self.config.tasks = [values for values in self.config.tasks or [] if values["name"] != name]
        for part in (self.config.card_data or {}).values():
            if isinstance(part, dict):
                part.pop(name, None)
        self._freeze()  # taking an adapter out, peft freezes the others

    def _set_adapter(self, name: str, adapter: Mapping[str, Any] | None, own: bool) -> None:
        """Gives a task, which there is already, a fresh adapter with these settings, or none; `own` as for `_add`."""
        task = self.task(name)
        self._check_adapters(name, adapter, own)
        if adapter is not None:
            self._check_places(task, adapter)
        training = self.training
        delete_adapter(self.backbone, name)
        self._keep_settings(name, adapter, own)
        self._inject([task])
        self.backbone.train(training)
        self._freeze()

    def _keep_settings(self, name: str, adapter: Mapping[str, Any] | None, own: bool) -> None:
        """Writes into the config what adapter a task has, where that is not simply the model's."""
        kept = {key: value for key, value in (self.config.task_adapters or {}).items() if key != name}
        if adapter != self.config.adapters or (own and composition_of(self.config) is not None):
            kept[name] = None if adapter is None else dict(adapter)
        self.config.task_adapters = kept or None

    def _check_adapters(self, name: str, adapter: Mapping[str, Any] | None, own: bool) -> None:
        if own:
            check_may_have_own(self.config, name, adapter)
        init = (adapter or {}).get("init_lora_weights")
        if adapter != self.config.adapters and starts_from_base(init):
            raise ValueError(
                f"Task {name!r} cannot have init_lora_weights={init!r} alone: what adapters start from is kept "
                "once for all tasks. Make the model by from_backbone with it, or leave it out of this adapter."
            )
        if adapter is not None and self.config.adapters is None:
            raise ValueError(
                f"Task {name!r} cannot have an adapter: this model's tasks share all of the backbone, which is "
                "trained with them. Make the model by from_backbone(..., adapters=LoraConfig(...))."
            )
        check_one_kind([self.config.adapters, adapter])

    def _check_places(self, task: Task, adapter: Mapping[str, Any]) -> None:
        """Raises ValueError, before anything is changed, where such an adapter has no place in the backbone."""
        config: Any = adapter_from_dict(dict(adapter))
        check_adapters(self._part(task), config, composition_of(self.config), self.backbone)

    def rename_task(self, old: str, new: str) -> None:
        """Gives a task another name: its head, its adapter, its place among the tasks and its part of the card stay.

        Raises:
            ValueError: there is no task `old`, there is one named `new`, or `new` cannot be a task's name.
        """
        task = dataclasses.replace(self.task(old), name=new)
        if new == old:
            return
        if new in self.tasks:
            raise ValueError(f"Task {old!r} cannot become {new!r}: the model has such a task. Take another name.")
        rename_key(self.heads, old, new)
        rename_key(self.tasks, old, new)
        self.tasks[new] = task
        if self.config.adapters is not None:
            rename_adapter(self.backbone, old, new)
        rename_key(self.config.task_adapters or {}, old, new)
        recompose(self.backbone, composition_of(self.config))
        self.config.tasks = [task.to_dict() if v["name"] == old else v for v in self.config.tasks or []]
        for part in (self.config.card_data or {}).values():
            if isinstance(part, dict):
                rename_key(part, old, new)

    def _inject(self, tasks: Iterable[Task], loading: bool = False) -> None:
        """Gives tasks their adapters, each in the part of the backbone that it runs through.

        `loading`: the values come later; initialisations that read the base weights would have nothing to read.
        """
        config = self.config
        if shared := adapter_names(config, ()):
            kind = config.language_model
            whole = self.backbone if kind == "seq2seq" else text_part(self.backbone, kind)
            self._inject_into(whole, config.adapters, shared, loading)
        if config.sharing == "shared":
            return
        groups: dict[tuple[bool, str], list[Task]] = {}
        for task in tasks:
            settings = config.adapter_of(task.name)
            if settings is not None:
                groups.setdefault((task.language_model == "seq2seq", repr(settings)), []).append(task)
        for found in groups.values():
            names = [task.name for task in found]
            self._inject_into(self._part(found[0]), config.adapter_of(names[0]), names, loading)
        order_adapters(self.backbone, adapter_names(config, self.tasks))

    def _inject_into(self, part: PreTrainedModel, settings: Any, names: list[str], loading: bool) -> None:
        adapter: Any = adapter_from_dict(settings, loading=loading)
        inject_adapters(part, adapter, names, composition_of(self.config), self.backbone)

    def _part(self, task: Task) -> PreTrainedModel:
        """The part of the backbone that has the task's adapter: a task that writes runs through the decoder as well."""
        if task.language_model == "seq2seq":
            return self.backbone
        return text_part(self.backbone, self.config.language_model)


def check_layer(task: Task, config: Any) -> None:
    states = config.num_hidden_layers + 1
    if not -states <= task.layer < states:
        raise ValueError(
            f"Task {task.name!r}: layer={task.layer}, but the backbone has hidden states 0 to {states - 1}."
        )


def tasks_of(value: Any) -> list[Task]:
    tasks = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) else [value]
    for task in tasks:
        if not isinstance(task, Task):
            raise ValueError(f"tasks must hold tasks, such as TextClassification(name=...), got {shown(task)}.")
    if not tasks:
        raise ValueError("tasks is empty: a model needs one task or more. More are added by add_task.")
    return tasks


def adapter_settings(adapters: Any, tasks: Iterable[Task]) -> dict[str, Any]:
    """What a config keeps of one adapter for all tasks, or of a dict task -> adapter, whose first is for tasks to come.

    Raises:
        ValueError: the dict does not name each task once, or an adapter cannot be used.
    """
    if not isinstance(adapters, Mapping):
        return {"adapters": adapter_to_dict(adapters)}
    names = [task.name for task in tasks]
    for name in [*adapters, *names]:
        if name not in names:
            raise ValueError(
                f"adapters names a task {name!r} that is not among the tasks. {nearest(str(name), names)} The same for "
                "all of them is a peft config: adapters=LoraConfig(...)."
            )
        if name not in adapters:
            raise ValueError(f"adapters says nothing of task {name!r}: give its LoraConfig, or None for no adapter.")
    own = {name: adapter_to_dict(adapters[name]) for name in names}
    check_one_kind(own.values())
    first = next((values for values in own.values() if values is not None), None)
    return {"adapters": first, "task_adapters": {n: v for n, v in own.items() if v != first} or None}
