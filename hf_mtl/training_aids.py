"""Aids to a training that change a task's loss: teachers, and two passes that must agree."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer

from .forwarding import weighted_sum
from .modeling import MultiTaskModel
from .nearest import nearest
from .tasks import Task
from .teachers import Teacher, load_teachers
from .training_args import MultiTaskTrainingArguments
from .two_passes import twice

__all__ = ["TrainingAidsMixin"]


class TrainingAidsMixin(Trainer):
    """What `MultiTaskTrainer` adds to the losses of a training batch, by `args.teachers` and `args.r_drop`."""

    args: MultiTaskTrainingArguments
    _tasks: dict[str, Task]
    _teachers: dict[str, Teacher]
    _r_drop: dict[str, float]

    def _begin_aids(self, model: MultiTaskModel, tokenizer: Any, teachers: Mapping[str, Any], trained: Any) -> None:
        """Teachers loaded, and all that cannot be refused, before the data is encoded.

        Args:
            model: the student.
            tokenizer: its own.
            teachers: task -> model, or where it is; those of the arguments beside them.
            trained: the names of the tasks that there is training data for.
        """
        args = self.args
        for option, value in (("r_drop", args.r_drop), ("teachers", args.teachers or dict(teachers) or None)):
            if value is not None and args.batching == "mixed":
                raise ValueError(
                    f"{option} reads batches of one task, and batching='mixed' fills them with rows of several. Leave "
                    f"{option} out, or set batching='per_task'."
                )
        self._r_drop = args.r_drop_of(list(trained))
        for name in self._r_drop:
            if name not in self._tasks:
                raise ValueError(f"r_drop has {name!r}, which is no task of the model. {nearest(name, self._tasks)}")
            self._tasks[name].soft_outputs()
        given = {**args.paths_of_teachers(), **teachers}
        self._teachers = load_teachers(given, model, tokenizer, args.device) if given else {}

    def _aided(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the model gets of a training batch: each row twice, where two passes of it must agree."""
        return twice(inputs) if self._r_drop and self._r_drop.keys() & set(self._names(inputs)) else inputs

    def _add_aids(self, outputs: Any, inputs: dict[str, Any]) -> None:
        """Puts into the losses of a batch what its teachers say, and how far its two passes are apart.

        Args:
            outputs: of the model, for what `_aided` gave; changed in place.
            inputs: the batch itself.
        """
        losses = outputs.task_losses
        if not (self._teachers.keys() | self._r_drop.keys()) & losses.keys():
            return
        passes = 2 if self._r_drop.keys() & losses.keys() else 1
        for name in losses:
            losses[name] = self._aided_loss(name, losses[name], outputs.logits[name], inputs, passes)
        outputs.loss = weighted_sum(losses, self._tasks)

    def _aided_loss(
        self, name: str, loss: torch.Tensor, logits: torch.Tensor, inputs: Mapping[str, Any], passes: int
    ) -> torch.Tensor:
        """One task's loss. Of two passes `loss` is the mean."""
        teacher, alpha = self._teachers.get(name), self._r_drop.get(name, 0.0)
        if teacher is None and not alpha:
            return loss
        read, own = self._tasks[name].soft_outputs(), _of_task(inputs, name)
        mask = own["attention_mask"] if own["word_positions"] is None else (own["word_positions"] >= 0).long()
        found = [read(part, own["labels"], mask) for part in logits.chunk(passes)]
        share = 0.0 if teacher is None else self._share_of_teachers()
        if teacher is not None and share:
            wanted = read(teacher(inputs), own["labels"], mask)
            taught = [
                said.loss_to(target, self.args.teacher_temperature)
                for one in found
                for said, target in zip(one, wanted, strict=True)
            ]
            loss = (1 - share) * loss + share * torch.stack(taught).sum() / passes
        if alpha:
            apart = [one.apart_from(two) for one, two in zip(*found, strict=True)]
            loss = loss + alpha * torch.stack(apart).sum()
        return loss

    def _share_of_teachers(self) -> float:
        """The share of a target that is a teacher's: fixed, or falling from 1 to 0 over the training."""
        if self.args.teacher_weight is not None:
            return self.args.teacher_weight
        return 1 - self.state.global_step / self.state.max_steps

    def _names(self, inputs: Mapping[str, Any]) -> list[str]:
        """The tasks that a batch is of: one, or several that share its rows."""
        if inputs.get("tasks") is not None:
            return list(inputs["tasks"])
        return [list(self._tasks)[int(inputs["task_ids"][0])]]


def _of_task(inputs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A task's part of a batch."""
    found = {key: inputs.get(key) for key in ("attention_mask", "word_positions", "labels")}
    return {key: value[name] if isinstance(value, Mapping) else value for key, value in found.items()}
