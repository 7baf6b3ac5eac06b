"""Checkpoints that survive a killed run: whole or not there, and what a resumed run takes of them."""

import logging
import math
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy, rotate_checkpoints

from .adapters import task_of_key
from .checkpoint_files import SAVING, exclusive, fault, faults, finish_saves, put_in_place, seal
from .training_args import MultiTaskTrainingArguments

__all__ = ["CheckpointsMixin", "SaveAtEpochEnd"]

logger = logging.getLogger(__name__)


class CheckpointsMixin(Trainer):
    """Saving and resuming of `MultiTaskTrainer`.

    A checkpoint is written into a folder of its own by all processes, flushed, and renamed to `checkpoint-<step>` as
    the last act; older ones are deleted after that. So whenever a run is killed the last good checkpoint is there.
    """

    args: MultiTaskTrainingArguments
    _staging = False
    _saved: tuple[Path, ...] = ()  # the checkpoints of this training

    def train(
        self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: list[str] | None = None
    ) -> Any:
        """Trains.

        Args:
            resume_from_checkpoint: a checkpoint's folder; True: the last complete one in `output_dir`.
            trial: as for `transformers.Trainer`.
            ignore_keys_for_eval: not used: the only outputs are logits.

        Raises:
            ValueError: the checkpoint lacks a file or a part of one, there is none, or another process trains into
                `output_dir`.
        """
        folder, self._saved = Path(self._get_output_dir(trial)), ()
        if self.args.save_strategy == SaveStrategy.NO:
            return super().train(self._to_resume(resume_from_checkpoint, folder), trial, ignore_keys_for_eval)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder) if self.args.should_save else nullcontext(True) as alone:
            if not all(gather_object([alone])):
                raise ValueError(
                    f"Another process is training into output_dir={str(folder)!r}, and the two would overwrite each "
                    "other's checkpoints. Give each run an output_dir of its own, or end the other one."
                )
            self._on_each_disk(lambda: finish_saves(folder))
            if not resume_from_checkpoint and self.args.should_save:
                _warn_of_others(folder)
            return super().train(self._to_resume(resume_from_checkpoint, folder), trial, ignore_keys_for_eval)

    def has_checkpoints(self) -> bool:
        """Whether `output_dir` has a checkpoint, damaged or not, or one that lacks but its name: the same in all
        processes. What a killed run leaves of its first save is none."""
        folder = Path(self._get_output_dir(None))
        there = bool(faults(folder)) or None in faults(folder / SAVING).values()
        return any(gather_object([there]))

    # ------------------------------------------------------------------ saving

    def _begin_try(self, start: str | None) -> str | None:
        """The checkpoint that a try goes on from: the one that the training was resumed from, while that is there.

        `auto_find_batch_size` tries again, and then counts steps of other batches: the checkpoints of the try before
        are deleted, for a later run would take the last one, whichever try it is of.
        """
        saved, self._saved = [path for path in self._saved if path.is_dir()], ()
        if saved and start is not None and not Path(start).is_dir():  # save_total_limit has deleted it
            self._saved = tuple(saved)  # one of these again, should this try fail as well
            logger.warning("%s has been deleted by save_total_limit: the next try goes on from %s.", start, saved[-1])
            return str(saved[-1])
        for folder in saved:
            logger.warning("%s is deleted: it is of the try that the memory did not hold.", folder)
            shutil.rmtree(folder)
        return start

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, SAVING) if self._staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        best = folder / f"checkpoint-{self.state.best_global_step}"
        if best.name == name or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        self.accelerator.wait_for_everyone()  # each has written its random state
        staged = folder / SAVING / name

        def publish() -> None:
            if staged.is_dir():
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))  # with the best one's name as it will be
                seal(staged)
                put_in_place(staged, folder / name)

        self._on_each_disk(publish)
        self._saved = (*self._saved, folder / name)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(folder / name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._staging:  # the upload goes on in the background, and needs the name that stays
            super()._push_from_checkpoint(checkpoint_folder)

    def _on_each_disk(self, act: Callable[[], None]) -> None:
        """Lets the process that saves act, then those of nodes that may have a disk of their own: for them it is done
        already where all share one."""
        if self.args.should_save:
            act()
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0 and not self.args.should_save:
            act()
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------ resuming

    def _to_resume(self, asked: Any, folder: Path) -> str | None:
        """The checkpoint that is asked for, the same in all processes; `folder` has those of earlier runs."""
        if asked is None or asked is False:
            return None
        if asked is not True:
            wrong = [found for found in gather_object([fault(Path(asked))]) if found is not None]
            if wrong:
                raise ValueError(f"Checkpoint {str(asked)!r} is damaged: {wrong[0]}. {_instead_of(Path(asked))}")
            logger.info("The training goes on from %s.", asked)
            return str(asked)
        found = faults(folder)
        complete = set.intersection(*map(set, gather_object([[s for s, wrong in found.items() if wrong is None]])))
        broken = [f"checkpoint-{step}: {wrong or 'another process lacks it'}" for step, wrong in found.items()
                  if step not in complete]  # fmt: skip
        if not complete:
            raise ValueError(
                f"There is no complete checkpoint-* in output_dir={str(folder)!r} to resume from. "
                + ("; ".join(broken) or "Train without resume_from_checkpoint.")
            )
        last = max(complete)
        for text in broken:
            logger.warning("In %s there is a damaged %s. The run goes on from checkpoint-%s.", folder, text, last)
        logger.info("The training goes on from %s.", folder / f"checkpoint-{last}")
        return str(folder / f"checkpoint-{last}")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Of what tasks have nothing may be missing. The backbone is, where checkpoints are saved without it.

        Raises:
            ValueError: the checkpoint lacks a task's weights.
        """
        lacking = {task_of_key(key) for key in load_result.missing_keys} - {None}
        if lacking:
            raise ValueError(
                f"The checkpoint has no weights of {sorted(map(str, lacking))}, which this run trains: it was saved "
                "with other tasks, or by other names. Resume with the tasks, names and adapters that it was saved "
                "with; or begin anew from its weights: MultiTaskModel.from_pretrained(checkpoint), rename_task or "
                "add_task, and train() without resume_from_checkpoint."
            )
        if not self.args.save_backbone:
            load_result = load_result._replace(missing_keys=[])
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise ValueError(
                f"Checkpoint {str(checkpoint)!r} has the optimizer's state of other parameters, or of other groups of "
                "them, than this run trains. Resume with the tasks, adapters, freeze_layers, unfreezing, "
                "learning_rates, layer_decay and weight_decay that it was saved with; or begin anew from its weights: "
                "MultiTaskModel.from_pretrained(checkpoint), and train() without resume_from_checkpoint."
            ) from error


def _warn_of_others(folder: Path) -> None:
    """Says that a training begins anew beside the checkpoints of an earlier one."""
    if found := faults(folder):
        logger.warning(
            "output_dir=%r has checkpoints of an earlier training, checkpoint-%d the last, and this one begins at the "
            "start: a later resume would take the last one, whosever it is. Train into another folder, delete them "
            "first, or go on from it: train(resume_from_checkpoint=True).",
            str(folder), max(found),
        )  # fmt: skip


def _instead_of(broken: Path) -> str:
    """What can be resumed from in place of a damaged checkpoint."""
    name, _, step = broken.name.rpartition("-")
    limit = int(step) if name == "checkpoint" and step.isdecimal() else math.inf
    good = [number for number, wrong in faults(broken.parent).items() if wrong is None and number < limit]
    if not good:
        return "There is no complete one before it: copy it again, or train from the start."
    return f"Resume from {str(broken.with_name(f'checkpoint-{good[-1]}'))!r}, the last complete one before it."


class SaveAtEpochEnd(TrainerCallback):
    """Puts off a save at the last step of an epoch until the epoch has ended.

    What the end brings, its evaluation with what the mixture learns from it and its logs, would be in no checkpoint:
    a run that is resumed after the last step begins with the next epoch.
    """

    def __init__(self) -> None:
        self._due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._due = control.should_save and (state.epoch == int(state.epoch) or control.should_training_stop)
        control.should_save = control.should_save and not self._due

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = control.should_save or self._due
        self._due = False
