"""Teachers: trained models whose answers another model learns from."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .modeling import MultiTaskModel
from .nearest import nearest
from .tasks import Task

__all__ = ["Teacher", "load_teachers"]

# Texts by which two tokenizers are told apart that have the same words: by case, accents, spaces, special tokens.
_PROBES = ("Où  est-Il ? naïve", "the word's 12,5 % …", "Zürich 東京 x_y")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Teacher:
    """One task of a trained model, as a teacher of a task of another.

    Args:
        model: the trained model. It is put into evaluation mode, and stays as it is otherwise.
        student: the task that learns; `model` must have a task of its name, or but one task.
        tokenizer: the student's.

    Raises:
        ValueError: the model cannot teach that task: it reads other inputs, or answers by other labels; says which.
    """

    def __init__(self, model: MultiTaskModel, student: Task, tokenizer: Any):
        names = list(model.tasks)
        self.task = model.tasks[names[0]] if len(names) == 1 else model.task(student.name)
        self.student = student
        self.model = model.eval()
        _check_kind(self.task, student)
        _check_tokenizer(model.tokenizer, student, tokenizer)
        self.order = _order_of_labels(self.task, student)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """What the teacher says of a batch, as the student's logits: its labels in the student's order and unit.

        Args:
            inputs: what the collator gave: of one task, or of tasks that share all rows.
        """
        given = {key: inputs[key] for key in _INPUTS if key in inputs}
        for key in ("word_positions", "row_groups"):
            value = inputs.get(key)
            value = value.get(self.student.name) if isinstance(value, Mapping) else value
            if value is not None:
                given[key] = value
        logits = self.model(tasks=[self.task.name], **given).logits[self.task.name]
        logits = logits if self.order is None else logits[..., torch.tensor(self.order, device=logits.device)]
        return self.student.in_own_unit(logits, self.task)


def load_teachers(
    given: Mapping[str, Any], model: MultiTaskModel, tokenizer: Any, device: torch.device
) -> dict[str, Teacher]:
    """task -> its teacher, on the device.

    Args:
        given: task -> a trained `MultiTaskModel`, or its Hub id or folder. One may teach several tasks.
        model: the student.
        tokenizer: the student's.
        device: where the student is trained.

    Raises:
        ValueError: a task that the student does not have, or a teacher that cannot teach; says why.
    """
    loaded: dict[str, MultiTaskModel] = {}
    teachers = {}
    for name, value in given.items():
        if name not in model.tasks:
            raise ValueError(f"teachers has {name!r}, which is no task of the model. {nearest(str(name), model.tasks)}")
        if isinstance(value, str | os.PathLike):
            path = os.fspath(value)
            if path not in loaded:
                loaded[path] = MultiTaskModel.from_pretrained(path)
            value = loaded[path]
        if not isinstance(value, MultiTaskModel):
            raise ValueError(
                f"teachers[{name!r}] must be a MultiTaskModel, or the Hub id or folder of one, got "
                f"{type(value).__name__}. A task is trained alone by a MultiTaskModel that has it alone."
            )
        if value is model:
            raise ValueError(
                f"teachers[{name!r}] is the model that learns: give another one, a copy of it (copy.deepcopy) say."
            )
        teachers[name] = Teacher(value.to(device), model.tasks[name], tokenizer)  # type: ignore[arg-type]
    return teachers


def _check_kind(teacher: Task, student: Task) -> None:
    student.soft_outputs()
    if teacher.type != student.type:
        raise ValueError(
            f"The teacher of task {student.name!r} has a task of type {teacher.type!r} for it, and the task is of type "
            f"{student.type!r}. Give a teacher of that type."
        )
    teacher.soft_outputs()
    here, there = _way_of_reading(student), _way_of_reading(teacher)
    for field, value in here.items():
        if value != there.get(field):
            raise ValueError(
                f"The teacher of task {student.name!r} was trained with {field}={there.get(field)!r}, and the task has "
                f"{field}={value!r}: they read rows in different ways. Train one of them anew with the other's."
            )


def _way_of_reading(task: Task) -> dict[str, Any]:
    """What of a task's fields says how rows become inputs; columns by what they hold, and limits left out."""
    public = {column: name for name, column in task.inputs().items()}
    values = {key: value for key, value in task.to_dict().items() if key not in task.not_encoded}
    return {k: public.get(v, v) if isinstance(v, str) else v for k, v in values.items() if not _is_limit(v)}


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_tokenizer(tokenizer: Any, student: Task, own: Any) -> None:
    if tokenizer is None:
        raise ValueError(
            f"The teacher of task {student.name!r} has no tokenizer: set teacher.tokenizer. It must be the model's own."
        )
    same = tokenizer is own or (
        tokenizer.get_vocab() == own.get_vocab()
        and all(tokenizer(text, text)["input_ids"] == own(text, text)["input_ids"] for text in _PROBES)
    )
    if not same:
        raise ValueError(
            f"The teacher of task {student.name!r} has another tokenizer than the model, so that it cannot read the "
            "same batches. Take a teacher over a backbone with the same tokenizer."
        )
    if student.limit(own) > tokenizer.model_max_length:
        raise ValueError(
            f"The teacher of task {student.name!r} reads {tokenizer.model_max_length} subwords, and the task's inputs "
            f"may have {student.limit(own)}. Give the task max_length={tokenizer.model_max_length}."
        )


def _order_of_labels(teacher: Task, student: Task) -> list[int] | None:
    """Where among the teacher's logits each of the student's is; None: they are the same."""
    there, here = _names(teacher), _names(student)
    if there == here:
        return None
    lacking, more = _without(here, there), _without(there, here)
    if lacking or more:
        raise ValueError(
            f"The teacher of task {student.name!r} has other labels than the task: it lacks {lacking!r:.200}, and has "
            f"beside them {more!r:.200}. Make one of the tasks with the labels of the other: labels=[...]."
        )
    place = {name: k for k, name in enumerate(there)}
    return [place[name] for name in here]


def _names(task: Task) -> list[tuple[str, str]]:
    """What the logits stand for, each with the field that names it."""
    return [(field, name) for field, names in task.labels_of_head().items() for name in names]


def _without(names: Iterable[tuple[str, str]], others: Iterable[tuple[str, str]]) -> list[str]:
    known = set(others)
    return [name for field, name in names if (field, name) not in known]
