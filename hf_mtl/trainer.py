"""MultiTaskTrainer: transformers' Trainer over a mixture of tasks, with each task's own losses and scores."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from .adapters import reads_alike
from .backbone import prepare_tokenizer
from .balanced_training import BalancedTrainingMixin
from .checkpoints import CheckpointsMixin, SaveAtEpochEnd
from .data import MultiTaskCollator, MultiTaskDataset
from .data.encoded import EncodedDataset
from .disk import check_writable
from .evaluation import EvaluationMixin
from .failures import NonFiniteMixin, ResourcesMixin
from .forwarding import weighted_sum
from .learning_rates import LearningRatesMixin
from .mixed_training import MixedTrainingMixin
from .mixing import MixingRule, MixtureCallback
from .mixture_training import MixtureMixin
from .model_card import render_card, write_card
from .modeling import MultiTaskModel
from .task_stopping import TaskStoppingMixin
from .tasks.label_losses import total_weight
from .training_aids import TrainingAidsMixin
from .training_args import MultiTaskTrainingArguments
from .unfreezing import UnfreezingMixin
from .weight_average import WeightAverageMixin

__all__ = ["MultiTaskTrainer"]

logger = logging.getLogger(__name__)

# transformers' parameters that cannot do here what they say.
_WITHOUT_EFFECT = {
    "data_collator",
    "compute_metrics",
    "compute_loss_func",
    "preprocess_logits_for_metrics",
    "model_init",
}


class MultiTaskTrainer(
    UnfreezingMixin, TaskStoppingMixin, ResourcesMixin, NonFiniteMixin, TrainingAidsMixin, CheckpointsMixin,
    WeightAverageMixin, LearningRatesMixin, BalancedTrainingMixin, MixedTrainingMixin, MixtureMixin,
    EvaluationMixin,
):  # fmt: skip
    """Trains and evaluates a `MultiTaskModel` on several data sets at once.

    Every batch is of one task, drawn by the mixture in `args`; an optimizer step over several accumulated batches
    sees several tasks. With `args.batching="mixed"` the mixture draws each row, and a batch has rows of several tasks.
    Every task's loss is the mean over its own items, so no task outweighs another by its number of tokens. `evaluate`
    gives `eval_<task>_<metric>`, `eval_<task>_loss` and `eval_mean_score`, the mean of the tasks' main metrics.

    Args:
        model: the model; its tasks are those that can be trained.
        args: training arguments.
        train_dataset: task -> `datasets.Dataset` (or list of dicts) with the columns that the task names.
        eval_dataset: the same, for evaluation.
        processing_class: the tokenizer; `model.tokenizer` where it is not given.
        teachers: task -> a trained `MultiTaskModel` that it learns from beside its labels, or the Hub id or folder of
            one; see `args.teachers`.
        mixing_rule: your own rule in place of `args.mixing`: `(sizes, state) -> {task: weight}`, see `MixingState`.
        **kwargs: for `transformers.Trainer` (`callbacks`, `optimizers`, ...).

    Raises:
        ValueError: data for a task that the model does not have, or data that the task cannot use.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        args: MultiTaskTrainingArguments,
        train_dataset: Mapping[str, Any] | None = None,
        eval_dataset: Mapping[str, Any] | None = None,
        processing_class: Any = None,
        mixing_rule: MixingRule | None = None,
        teachers: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(model, MultiTaskModel):
            raise ValueError(f"model must be a MultiTaskModel, got {type(model).__name__}.")
        if not isinstance(args, MultiTaskTrainingArguments):
            raise ValueError(
                f"args must be MultiTaskTrainingArguments, got {type(args).__name__}: they have the mixture."
            )
        for name in _WITHOUT_EFFECT & kwargs.keys():
            if kwargs[name] is not None:
                raise ValueError(f"{name} has no effect here: each task encodes, computes its loss and scores itself.")
        if args.share_rows and not reads_alike(model.config):
            raise ValueError(
                "share_rows=True reads a row once for all of its tasks, and with adapters each task reads it in its "
                "own way. Set share_rows=False, or train without adapters or with sharing='shared'."
            )
        if len(set(getattr(model.backbone, "hf_device_map", {}).values())) > 1:
            raise ValueError(
                "The backbone is spread over several devices, or offloaded, by device_map: it can answer, and give "
                "losses, but a trainer moves it as a whole. Leave device_map out; for several devices start "
                "it by `accelerate launch`."
            )
        check_writable("output_dir", args.output_dir or ".")
        if args.freeze_layers is not None:
            model.freeze_layers(args.freeze_layers)
        if not args.save_backbone and model.config.adapters is None:
            raise ValueError(
                "save_backbone=False leaves the backbone out of checkpoints, and without adapters it is trained: set "
                "save_backbone=True, or make the model with adapters."
            )
        model.save_backbone = args.save_backbone
        if args.n_gpu > 1:
            logger.warning(
                "This process sees %d GPUs and trains on one: torch's DataParallel would cut batches where their tasks "
                "cannot be. For all of them start it by `accelerate launch`.",
                args.n_gpu,
            )
            args._n_gpu = 1
        tokenizer = processing_class if processing_class is not None else model.tokenizer
        if tokenizer is None:
            raise ValueError("The trainer needs a tokenizer: give processing_class, or set model.tokenizer.")
        model.tokenizer = prepare_tokenizer(tokenizer, model.config.text_config, model.tasks.values())
        self.args, self._tasks = args, dict(model.tasks)
        self._begin_balancing(tokenizer)  # before the data is encoded: what it lacks is said at once
        self._begin_aids(model, tokenizer, teachers or {}, train_dataset or {})
        self._ids = {name: i for i, name in enumerate(model.tasks)}
        self._mixing_rule = mixing_rule
        self._one = torch.ones((), device=args.device)
        self._task_losses = torch.zeros(len(self._tasks), 2, device=args.device)
        with args.main_process_first(desc="encoding"):
            train = self._encode(train_dataset, tokenizer, "train") if train_dataset is not None else None
            evaluated = self._encode(eval_dataset, tokenizer, "eval") if eval_dataset is not None else None
        self._labels_per_feature: dict[str, float] = {}
        for part in (train or {}).values():
            self._look_at(part)
        super().__init__(
            model=model,
            args=args,
            data_collator=MultiTaskCollator(tokenizer, list(self._tasks.values())),
            train_dataset=MultiTaskDataset(train, args.share_rows) if train else None,
            eval_dataset=evaluated,
            processing_class=tokenizer,
            **kwargs,
        )
        self._begin_guard()
        self.add_callback(MixtureCallback(lambda: self._sampler, self._metrics_of_units, self.log))
        self.add_callback(SaveAtEpochEnd())
        # The mean over a task's own items is taken in its head. A count over the step's micro-batches, which
        # transformers would divide by, adds up tokens, spans and rows.
        self.model_accepts_loss_kwargs = False

    # ------------------------------------------------------------------ training

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        gigabytes, model = self.args.cache_frozen_layers, cast(MultiTaskModel, self.model)
        count, points = None, self.args.unfreezing_points()
        if points:
            text_config: Any = model.config.text_config
            count = text_config.num_hidden_layers - max(layers for _, layers in points)
        kwargs["resume_from_checkpoint"] = self._begin_try(kwargs.get("resume_from_checkpoint"))
        self._task_losses.zero_()  # of a training before, or of a try that the memory did not hold
        self.is_in_train = True  # auto_find_batch_size comes here again
        try:
            with nullcontext() if gigabytes is None else model.keeping_frozen_outputs(gigabytes, count):
                return super()._inner_training_loop(*args, **kwargs)
        finally:
            self.is_in_train = False  # what is evaluated after an error, or an interrupt, is no part of the training

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        # What no log has averaged yet goes into `train_loss`, and is this process's alone.
        self._tr_loss = self.accelerator.reduce(self._tr_loss, reduction="mean")
        return super()._finalize_training(*args, **kwargs)

    def _look_at(self, part: EncodedDataset) -> None:
        """What must be known of a task's training data beforehand: whether it can be learned from, and its labels."""
        task = part.task
        if not part.labelled:
            task.require_columns(part.rows, task.columns())
        for column in task.unread_columns(part.rows.column_names):
            logger.warning(
                "Task %r does not read the column %r of its data. To read it, name it in the task: %s: %s.",
                task.name, column, column, column,
            )  # fmt: skip
        counted = part.labelled and (task.mean_over_labels or task.label_weights is not None)
        if counted and (count := part.labels_per_feature()):
            self._labels_per_feature[task.name] = count
        longest = task.longest_target
        if longest is not None and (cut := part.share_of_labels(longest)) > 0.01:
            logger.warning(
                "Task %r: %.0f %% of its training targets fill max_target_length=%d, and are probably cut.",
                task.name, 100 * cut, longest,
            )  # fmt: skip

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """Nothing is removed: the data sets give just what the collator makes a batch of."""
        return data_collator

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self._check_tasks()  # a callback may have changed them
        outputs = model(**(self._aided(inputs) if model.training else inputs))
        if outputs.loss is None:
            raise ValueError("The batch has no labels, so there is no loss to train on.")
        if model.training:
            self._add_aids(outputs, inputs)
            mixed = self.args.batching == "mixed"
            present = self._count_rows(outputs, inputs) if mixed else {}
            for name, loss in outputs.task_losses.items():
                number = self._one * present.get(name, 1)
                value = loss.detach().mean()
                known = torch.stack([value * number, number])  # one that is not finite would hide the others in the log
                self._task_losses[self._ids[name]] += torch.where(value.isfinite(), known, torch.zeros_like(known))
            self._note_losses(outputs.task_losses)
            if not mixed:
                self._shares = {}
                self._count_labels(outputs, inputs["labels"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _count_labels(self, outputs: Any, labels: Any) -> None:
        """Makes the mean loss of a batch's labels count by how many they are, so that each counts the same.

        Adds to `_shares`, and sets `outputs.loss` by them.
        """
        for name in outputs.task_losses.keys() & self._labels_per_batch.keys():
            own = labels[name] if isinstance(labels, Mapping) else labels
            self._shares[name] = total_weight(own, self._tasks[name].label_weights) / self._labels_per_batch[name]
        if self._shares:
            losses = {name: loss * self._shares.get(name, 1.0) for name, loss in outputs.task_losses.items()}
            outputs.loss = weighted_sum(losses, self._tasks)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log the mean loss of each task since the log before: `loss_<task>`."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._task_losses.clone(), reduction="sum")
            for name, (total, count) in zip(self._ids, sums.tolist(), strict=True):
                if count:
                    logs[f"loss_{name}"] = total / count
            self._task_losses.zero_()
        super().log(logs, start_time)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes the model card into `output_dir`, with the scores of the last `evaluate`.

        Args:
            language: ISO 639 code.
            license: the model's licence, in the Hub's words.
            tags: more tags.
            model_name: not used: the card's title is the repository's name.
            **kwargs: not used: the rest of what `transformers.Trainer` takes is read off the model.
        """
        if not self.is_world_process_zero():
            return
        config = self._own_model().config
        known = {"language": language, "license": license, "tags": [tags] if isinstance(tags, str) else tags}
        data = (config.card_data or {}) | {k: v for k, v in known.items() if v}
        folder = str(self.args.output_dir)
        model_id = self.hub_model_id or self.args.hub_model_id or Path(folder).name
        write_card(folder, render_card(config, model_id=model_id, **data))
