"""What a training runs out of: memory, disk, the processes that load its data. Said with the batch and the way out."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..disk import check_no_file, naming_unwritten
from ..training_args import MultiTaskTrainingArguments

__all__ = ["BatchMemoryError", "LoadingError", "NoBatchError", "ResourcesMixin"]

logger = logging.getLogger(__name__)

_DEATH = "DataLoader worker"  # as torch begins its message
_SIGNAL = 1.0  # seconds after which a child's death has been signalled


class BatchMemoryError(torch.OutOfMemoryError):
    """A batch that the memory does not hold, of whatever device. accelerate knows it as an error of memory."""


class NoBatchError(MemoryError):
    """What `auto_find_batch_size` cannot mend: not even one row fits, or a batch of an evaluation does not."""


class LoadingError(RuntimeError):
    """A process that loads batches has died."""


class ResourcesMixin(Trainer):
    """The Trainer's loops, whose errors of memory, disk and loading say what to do."""

    args: MultiTaskTrainingArguments
    _tasks: dict[str, Any]

    def _inner_training_loop(self, batch_size: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self.args.auto_find_batch_size and self.args.world_size > 1:
            raise ValueError(
                f"auto_find_batch_size=True is for one process, and these are {self.args.world_size}: one alone may "
                "run out of memory, and would go on with other rows than the others have. Find the size with one, then "
                "set per_device_train_batch_size, and leave auto_find_batch_size out."
            )
        try:
            with self._naming_memory(self._outside_a_batch), _naming_workers(self):
                return super()._inner_training_loop(batch_size, *args, **kwargs)
        except BatchMemoryError as error:
            if self.args.auto_find_batch_size and self._train_batch_size == 1:
                # accelerate would go on to a batch of no rows, and say only that there is none.
                raise NoBatchError(f"auto_find_batch_size has come down to one row a batch. {error}") from error
            if self.args.auto_find_batch_size:
                logger.warning("%s Training begins anew with fewer rows in a batch.", error)
            raise
        except RuntimeError as error:
            if not isinstance(error.__cause__, BatchMemoryError):
                raise
            # An evaluation's under auto_find_batch_size, in words of transformers that name no batch.
            raise NoBatchError(str(error.__cause__)) from error

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with self._naming_memory(lambda: self._batch_in_words(inputs, training=True)):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with self._naming_memory(lambda: self._batch_in_words(inputs, training=False)):
            return super().prediction_step(model, inputs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = self.args.output_dir or "."
        with naming_unwritten(f"The checkpoint of step {self.state.global_step}", folder, self._after_a_failed_save()):
            super()._save_checkpoint(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if _internal_call:  # for a checkpoint, which says it
            return super().save_model(output_dir, _internal_call=True)
        folder = output_dir or self.args.output_dir or "."
        check_no_file("output_dir", folder)
        way_out = "It is in memory still: make room, then call save_model again, or with another folder."
        with naming_unwritten("The model", folder, way_out):
            super().save_model(output_dir)
        return None

    def _after_a_failed_save(self) -> str:
        """What to do, and the last checkpoint that is whole: its state is written last."""
        less = "Make room, or keep less: save_total_limit, save_only_model=True"
        less += ", save_backbone=False with adapters" if self.args.save_backbone else ""
        last = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        steps = {
            int(state.parent.name.rpartition("-")[2]): state.parent
            for state in Path(self.args.output_dir or ".").glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")
            if state.parent.name != last and state.parent.name.rpartition("-")[2].isdecimal()
        }
        if not steps:
            return f"{less}. There is no checkpoint before it."
        whole = str(steps[max(steps)])
        return f"{less}. The checkpoint before it is whole: resume_from_checkpoint={whole!r} goes on from there."

    # ------------------------------------------------------------------ memory

    @contextmanager
    def _naming_memory(self, batch: Callable[[], str]) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)
            if not memory or isinstance(error, BatchMemoryError):
                raise
            raise BatchMemoryError(f"{batch()} ({error})") from error

    def _outside_a_batch(self) -> str:
        return (
            f"Step {self.state.global_step + 1} ran out of memory. It was outside of a batch: the gradients and the "
            "optimizer's state take as much as several times what is trained. Train adapters, freeze_layers, or take "
            "an optimizer with a smaller state (optim='adafactor')."
        )

    def _batch_in_words(self, inputs: Mapping[str, Any], *, training: bool) -> str:
        """What the batch is, and what to lower, that is not as low already."""
        args = self.args
        rows, longest = inputs["input_ids"].shape
        names = inputs.get("tasks") or [list(self._tasks)[k] for k in inputs["task_ids"].unique().tolist()]
        tasks = ", ".join(map(repr, names))
        size = f"{rows} rows of up to {longest} tokens, of task{'s' * (len(names) > 1)} {tasks}"
        if not training:
            return (
                f"Evaluating {tasks} ran out of memory. The batch: {size}. Lower per_device_eval_batch_size (now "
                f"{args.per_device_eval_batch_size}), or set eval_accumulation_steps, if the logits of all batches "
                "are too much for the device."
            )
        ways = []
        own = [name for name in names if name in (args.batch_sizes or {})]
        now = ", ".join(f"batch_sizes[{name!r}]" for name in own) or "per_device_train_batch_size"
        if rows > 1:
            ways.append(f"lower {now} (now {rows}), with more gradient_accumulation_steps for the same step")
        if args.max_tokens_per_batch is None:
            ways.append(f"limit max_tokens_per_batch (the batch has {rows * longest})")
        else:
            ways.append(f"lower max_tokens_per_batch (now {args.max_tokens_per_batch})")
        if args.r_drop:
            ways.append("leave r_drop out, by which each row is read twice")
        ways.append(f"cut long texts by the task's max_length (below {longest})")
        if not args.gradient_checkpointing and not args.activation_checkpointing:
            ways.append("set activation_checkpointing=True")
        if not args.auto_find_batch_size:
            ways.append("or let auto_find_batch_size=True find the size")
        return f"Step {self.state.global_step + 1} ran out of memory. The batch: {size}. To do: {'; '.join(ways)}."


@contextmanager
def _naming_workers(trainer: ResourcesMixin) -> Iterator[None]:
    """A worker's death is raised wherever the training stands: by its signal, or by the pipe that it breaks."""
    try:
        try:
            yield
        except (ConnectionError, EOFError) as error:
            if not trainer.args.dataloader_num_workers:
                raise
            time.sleep(_SIGNAL)  # in which the signal is raised, that says more
            raise RuntimeError(f"{_DEATH} does not answer ({error!r}).") from error
    except RuntimeError as error:
        if not str(error).startswith(_DEATH):
            raise
        number = trainer.args.dataloader_num_workers
        raise LoadingError(
            f"Step {trainer.state.global_step + 1}: one of the {number} processes that load batches has died: {error} "
            "Mostly the system killed it for want of memory: set dataloader_num_workers lower, or 0 to load in the "
            "process itself. No row is lost: resume_from_checkpoint goes on at the last checkpoint's very batch."
        ) from error
