"""The tasks of a model: added, replaced, taken out, without a change to what the others answer."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from .adapters import adapter_from_dict, delete_adapter, inject_adapters
from .freezing import FreezingMixin
from .language_model import kind_needed, text_part
from .nearest import nearest
from .tasks import Task
from .tasks.base import shown

__all__ = ["TaskLifeMixin", "check_layer", "tasks_of"]


class TaskLifeMixin(FreezingMixin):
    """What a `MultiTaskModel` does with its tasks."""

    heads: nn.ModuleDict

    def task(self, name: str) -> Task:
        """The task of this name; raises ValueError where there is none."""
        if name not in self.tasks:
            raise ValueError(f"The model has no task {name!r}. {nearest(str(name), self.tasks)}")
        return self.tasks[name]

    def add_task(self, task: Task) -> None:
        """Adds a task with a fresh head and adapter. No other task's answers change by a bit.

        Raises:
            ValueError: the model has a task of this name already, or it is no task.
        """
        tasks_of(task)
        if task.name in self.tasks:
            raise ValueError(f"The model has a task {task.name!r} already. Remove it first, or take another name.")
        check_layer(task, self.config.text_config)
        if kind_needed([task], self.config.text_config) not in (None, self.config.language_model):
            raise ValueError(
                f"Task {task.name!r} ({task.type}) needs a language model, and this model's backbone was taken without "
                "one, for no task needed it. Make the model by from_backbone with such a task among its tasks."
            )
        head = task.build_head(self.config.text_config).to(self.device)
        head.apply(self._init_weights)
        adapters = adapter_from_dict(self.config.adapters)
        if adapters is not None:
            training = self.training
            self._inject(adapters, [task])
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
        self.config.tasks = [values for values in self.config.tasks or [] if values["name"] != name]
        for part in (self.config.card_data or {}).values():
            if isinstance(part, dict):
                part.pop(name, None)
        self._freeze()  # taking an adapter out, peft freezes the others

    def _inject(self, adapters: Any, tasks: Iterable[Task]) -> None:
        """Gives tasks their adapters, in the part of the backbone that they run through."""
        kinds = {task.name: task.language_model for task in tasks}
        whole = [name for name, kind in kinds.items() if kind == "seq2seq"]
        text = [name for name in kinds if name not in whole]
        if text:
            inject_adapters(text_part(self.backbone, self.config.language_model), adapters, text)
        if whole:  # the decoder and its attention to the encoder as well
            inject_adapters(self.backbone, adapters, whole)


def check_layer(task: Task, config: Any) -> None:
    states = config.num_hidden_layers + 1
    if not -states <= task.layer < states:
        raise ValueError(
            f"Task {task.name!r}: layer={task.layer}, but the backbone has hidden states 0 to {states - 1}."
        )


def tasks_of(value: Any) -> list[Task]:
    tasks = [value] if isinstance(value, Task) else list(value)
    for task in tasks:
        if not isinstance(task, Task):
            raise ValueError(f"tasks must hold tasks, such as TextClassification(name=...), got {shown(task)}.")
    if not tasks:
        raise ValueError("tasks is empty: a model needs one task or more. More are added by add_task.")
    return tasks
