"""Tasks that have stopped improving leave the mixture; each task's best head and adapter are kept."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback

from .adapters import adapter_tensors
from .mixing import PlannedBatchSampler, record_in_mixture
from .modeling import MultiTaskModel
from .tasks import Task
from .training_args import MultiTaskTrainingArguments

__all__ = ["TaskStoppingMixin"]

logger = logging.getLogger(__name__)

# In a checkpoint's folder.
_STATE, _WEIGHTS = "task_stopping.json", "task_stopping.safetensors"


@dataclass
class _Course:
    """How a task's training goes: its best score and step, evaluations since, whether it has left."""

    best: float | None = None
    step: int = 0
    since: int = 0
    left: bool = False


class TaskStoppingMixin(Trainer):
    """The part of `MultiTaskTrainer` that lets tasks leave and assembles the best of each.

    Every evaluation during training on the trainer's own data counts. A unit of the mixture (one task, or those that
    share rows) leaves when none of its tasks improved for `task_patience` evaluations. From the first step of which no
    batch has been handed out, its rows come no more; batches that were are trained on, and its own parameters put back.
    """

    args: MultiTaskTrainingArguments
    _sampler: PlannedBatchSampler
    _tasks: dict[str, Task]
    _units: Callable[[], dict[str, list[Task]]]
    # What averages the weights, if anything does.
    _averaged_weights: Any
    _set_average: Callable[[Tensor], None]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._courses: dict[str, _Course] = {}
        self._kept: dict[str, dict[str, Tensor]] = {}  # task -> its weights, on the CPU
        if self.args.task_patience is not None:
            self.add_callback(_AfterStep(self._put_back))
        if self.args.load_best_tasks_at_end:
            self._check_nothing_shared()

    def _check_nothing_shared(self) -> None:
        model: Any = self.model
        own = {tensor for name in self._tasks for tensor in _tensors(model, name).values()}
        shared = [name for name, p in model.named_parameters() if p.requires_grad and p not in own]
        if shared:
            raise ValueError(
                f"load_best_tasks_at_end takes each task's head and adapter of another step, and {len(shared)} "
                f"parameters that learn with all tasks ({shared[0]}, ...) are of one: scores would not be those found. "
                "Make the model with adapters=LoraConfig(...), freeze all layers, or set load_best_model_at_end."
            )

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        options, self._courses, self._kept = self.args, {}, {}
        if options.task_patience is not None or options.load_best_tasks_at_end:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                raise ValueError(
                    "task_patience and load_best_tasks_at_end need whole weights in each process, which DeepSpeed and "
                    "FSDP have not: train without them."
                )
            self._courses = {task.name: _Course() for tasks in self._units().values() for task in tasks}
            if kwargs.get("resume_from_checkpoint") is not None:
                self._load_courses(Path(kwargs["resume_from_checkpoint"]))
        return super()._inner_training_loop(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._all_left():  # a run goes on that had ended
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        # eval_on_start of a resumed run: the unbroken one has not evaluated here, or has counted it.
        again = self.is_in_train and self.state.global_step == self._initial_global_step > 0
        counts = self.is_in_train and not again and eval_dataset is None and metric_key_prefix == "eval"
        if counts and self._courses:
            self._judge(metrics)
        return metrics

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.load_best_tasks_at_end:
            for name in self._kept:
                self._restore(name)
        return super()._finalize_training(*args, **kwargs)

    # ------------------------------------------------------------------ courses

    def _judge(self, metrics: dict[str, float]) -> None:
        """Takes an evaluation in: what is best so far, and who leaves."""
        scores: dict[str, float] = {}
        for name in self._courses:
            task = self._tasks[name]
            sign = -1 if task.main_metric in task.lower_is_better else 1
            if (key := f"eval_{name}_{task.main_metric}") in metrics:
                scores[name] = sign * metrics[key]
        (scores,) = broadcast_object_list([scores])  # the processes must do the same, so they take the scores of one
        for name, score in scores.items():
            course = self._courses[name]
            if course.left:
                continue
            course.since += 1
            if not math.isnan(score) and (course.best is None or score > course.best):
                course.best, course.step, course.since = score, self.state.global_step, 0
                if self.args.load_best_tasks_at_end:
                    self._keep(name)
        patience = self.args.task_patience
        if patience is None:
            return
        units = {unit: [task.name for task in tasks] for unit, tasks in self._units().items()}
        done = [unit for unit, names in units.items() if all(self._courses[name].since >= patience for name in names)]
        leaving = [unit for unit in done if not all(self._courses[name].left for name in units[unit])]
        for name in [name for unit in leaving for name in units[unit]]:
            self._leave(name)
        if self._all_left():
            logger.info("All tasks have stopped improving: the training ends.")
            self.control.should_training_stop = True
        elif leaving:
            record_in_mixture(self._sampler, self.state, {}, leaving)

    def _leave(self, name: str) -> None:
        course = self._courses[name]
        course.left = True
        if name not in self._kept:
            self._keep(name)
        self._restore(name)  # of averaged weights the averages, which would go on towards the weights otherwise
        logger.info(
            "Task %r leaves the mixture at step %d: its best score was that of step %d.",
            name, self.state.global_step, course.step,
        )  # fmt: skip

    def _all_left(self) -> bool:
        return bool(self._courses) and all(course.left for course in self._courses.values())

    # ------------------------------------------------------------------ weights

    def _keep(self, name: str) -> None:
        with self._averaged_weights():
            found = _tensors(self.model, name)
            self._kept[name] = {key: tensor.detach().cpu().clone() for key, tensor in found.items()}

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        for key, tensor in _tensors(self.model, name).items():
            tensor.copy_(self._kept[name][key])
            self._set_average(tensor)

    def _put_back(self) -> None:
        """After an optimizer step: batches that had been handed out before a task left have moved nothing of it."""
        for name, course in self._courses.items():
            if course.left and any(t.grad is not None for t in _tensors(self.model, name).values()):
                self._restore(name)

    # ------------------------------------------------------------------ checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._courses and self.args.should_save:
            state = {name: vars(course) for name, course in self._courses.items()}
            Path(output_dir, _STATE).write_text(json.dumps(state), encoding="utf-8")
            kept = {f"{name}/{key}": t for name, tensors in self._kept.items() for key, t in tensors.items()}
            save_file(kept, Path(output_dir, _WEIGHTS))

    def _load_courses(self, folder: Path) -> None:
        path = folder / _STATE
        if not path.is_file():
            logger.warning(
                "%s has no %s, as without task_patience and load_best_tasks_at_end, or with save_only_model: they "
                "begin anew.", folder, _STATE,
            )  # fmt: skip
            return
        for name, values in json.loads(path.read_text(encoding="utf-8")).items():
            if name in self._courses:
                self._courses[name] = _Course(**values)
        for key, tensor in load_file(folder / _WEIGHTS).items():
            name, _, rest = key.rpartition("/")
            if name in self._courses:
                self._kept.setdefault(name, {})[rest] = tensor


class _AfterStep(TrainerCallback):
    """Calls a function after each optimizer step, while the gradients are there."""

    def __init__(self, function: Callable[[], None]):
        self._function = function

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._function()


def _tensors(model: Any, name: str) -> dict[str, Tensor]:
    """What is a task's own in a model, by name: parameters and buffers of its head, its adapter's parameters."""
    return dict(_own(model, name))


def _own(model: MultiTaskModel, name: str) -> Iterator[tuple[str, Tensor]]:
    head = model.heads[name]
    yield from ((f"head.{key}", tensor) for key, tensor in head.state_dict(keep_vars=True).items())
    yield from adapter_tensors(model.backbone, name)
