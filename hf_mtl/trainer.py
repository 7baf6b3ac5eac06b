"""MultiTaskTrainer: transformers' Trainer over a mixture of tasks, with each task's own losses and scores."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PredictionOutput, speed_metrics

from .backbone import prepare_tokenizer
from .data import EncodedDataset, MultiTaskCollator, MultiTaskDataset, encode_dataset, named_rows
from .metrics import flatten_scores, mean_score
from .mixing import MultiTaskBatchSampler
from .model_card import render_card, write_card
from .modeling import MultiTaskModel
from .tasks import Task
from .training_args import MultiTaskTrainingArguments

__all__ = ["MultiTaskTrainer"]

Scores = dict[str, dict[str, float]]

# transformers' parameters that cannot do here what they say.
_WITHOUT_EFFECT = {
    "data_collator",
    "compute_metrics",
    "compute_loss_func",
    "preprocess_logits_for_metrics",
    "model_init",
}


class MultiTaskTrainer(Trainer):
    """Trains and evaluates a `MultiTaskModel` on several data sets at once.

    Every batch is of one task, drawn by the mixture in `args`; an optimizer step over several accumulated batches
    sees several tasks. Every task's loss is the mean over its own items, so no task outweighs another by its number
    of tokens. `evaluate` gives `eval_<task>_<metric>`, `eval_<task>_loss` and `eval_mean_score`, the mean of the
    tasks' main metrics.

    Args:
        model: the model; its tasks are those that can be trained.
        args: training arguments.
        train_dataset: task -> `datasets.Dataset` (or list of dicts) with the columns that the task names.
        eval_dataset: the same, for evaluation.
        processing_class: the tokenizer; `model.tokenizer` where it is not given.
        **kwargs: for `transformers.Trainer` (`callbacks`, `optimizers`, ...).

    Raises:
        ValueError: data for a task that the model does not have, or data that the task cannot use.
    """

    args: MultiTaskTrainingArguments
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: MultiTaskModel,
        args: MultiTaskTrainingArguments,
        train_dataset: Mapping[str, Any] | None = None,
        eval_dataset: Mapping[str, Any] | None = None,
        processing_class: Any = None,
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
        if args.share_rows and model.config.adapters is not None:
            raise ValueError(
                "share_rows=True reads a row once for all of its tasks, and with adapters each task reads it in its "
                "own way. Set share_rows=False, or train without adapters."
            )
        tokenizer = processing_class if processing_class is not None else model.tokenizer
        if tokenizer is None:
            raise ValueError("The trainer needs a tokenizer: give processing_class, or set model.tokenizer.")
        model.tokenizer = prepare_tokenizer(tokenizer, model.config.text_config)
        self._tasks = dict(model.tasks)
        self._ids = {name: i for i, name in enumerate(model.tasks)}
        self._one = torch.ones((), device=args.device)
        self._task_losses = torch.zeros(len(self._tasks), 2, device=args.device)
        with args.main_process_first(desc="encoding"):
            train = self._encode(train_dataset, tokenizer, "train") if train_dataset is not None else None
            evaluated = self._encode(eval_dataset, tokenizer, "eval") if eval_dataset is not None else None
        for name, part in (train or {}).items():
            if not part.labelled:
                self._tasks[name].require_columns(part.rows, self._tasks[name].columns())
        super().__init__(
            model=model,
            args=args,
            data_collator=MultiTaskCollator(tokenizer, list(self._tasks.values())),
            train_dataset=MultiTaskDataset(train, args.share_rows) if train else None,
            eval_dataset=evaluated,
            processing_class=tokenizer,
            **kwargs,
        )
        self.add_callback(_EpochOfSampler(self))
        # The mean over a task's own items is taken in its head. A count over the step's micro-batches, which
        # transformers would divide by, adds up tokens, spans and rows.
        self.model_accepts_loss_kwargs = False

    def _encode(self, data: Mapping[str, Any], tokenizer: Any, split: str) -> dict[str, EncodedDataset]:
        if not isinstance(data, Mapping):
            raise ValueError(f"The {split} data must be a dict task -> data set, got {type(data).__name__}.")
        if not data:
            raise ValueError(f"The {split} data is an empty dict: give at least one task's.")
        for name in data:
            if name not in self._tasks:
                raise ValueError(
                    f"The {split} data has {name!r}, which is none of the model's tasks {list(self._tasks)}."
                )
        return {
            name: encode_dataset(self._tasks[name], self._ids[name], rows, tokenizer, split)
            for name, rows in data.items()
        }

    # ------------------------------------------------------------------ training

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """Nothing is removed: the data sets give just what the collator makes a batch of."""
        return data_collator

    def _check_tasks(self) -> None:
        if list(self._ids) != list(self.accelerator.unwrap_model(self.model).tasks):
            raise ValueError("The model's tasks have changed since this trainer was made. Make a new trainer.")

    def _get_train_sampler(self, train_dataset: Any = None) -> MultiTaskBatchSampler:
        self._check_tasks()
        dataset: Any = train_dataset or self.train_dataset
        args = self.args
        self._sampler = MultiTaskBatchSampler(
            {name: len(unit) for name, unit in dataset.units.items()},
            batch_size=self._train_batch_size,
            world_size=args.world_size,
            rank=args.process_index,
            accumulation=args.gradient_accumulation_steps,
            tasks_per_step=args.tasks_per_step,
            strategy=args.mixing,
            temperature=args.temperature,
            cap=args.cap,
            seed=args.seed if args.data_seed is None else args.data_seed,
            lengths={n: unit.lengths() for n, unit in dataset.units.items()} if args.length_grouped else None,
            epochs=args.num_train_epochs,
        )
        return self._sampler

    def rows_per_epoch(self) -> dict[str, int]:
        """Rows that an epoch takes of each task, by the mixture; more than a task has means that they repeat.

        Tasks that share their rows (`share_rows`) have one entry, under all of their names.
        """
        return self._get_train_sampler().rows_per_epoch()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        if outputs.loss is None:
            raise ValueError("The batch has no labels, so there is no loss to train on.")
        if model.training:
            for name, loss in outputs.task_losses.items():
                self._task_losses[self._ids[name]] += torch.stack([loss.detach().mean(), self._one])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log the mean loss of each task since the log before: `loss_<task>`."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._task_losses.clone(), reduction="sum")
            for name, (total, count) in zip(self._ids, sums.tolist(), strict=True):
                if count:
                    logs[f"loss_{name}"] = total / count
            self._task_losses.zero_()
        super().log(logs, start_time)

    # ------------------------------------------------------------------ evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores of all tasks.

        Args:
            eval_dataset: task -> data set; None takes the trainer's own.
            ignore_keys: not used: the only outputs are logits.
            metric_key_prefix: begins the names of the metrics.

        Returns:
            `<prefix>_<task>_<metric>`, `<prefix>_<task>_loss` (the mean of the batches' means, so it hangs a little on
            the batch size; scores do not), `<prefix>_mean_score`, and times.
        """
        self._memory_tracker.start()
        start = time.time()
        _, scores, metrics, rows = self._answer(eval_dataset, metric_key_prefix)
        if not self.is_in_train and scores:
            config = self.accelerator.unwrap_model(self.model).config
            kept = {k: v for k, v in (config.card_data or {}).items() if k != "baselines"}
            config.card_data = kept | {"split": metric_key_prefix, "results": scores}
        batches = math.ceil(rows / (self.args.eval_batch_size * self.args.world_size))
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=rows, num_steps=batches))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions for rows that may be unlabelled.

        Args:
            test_dataset: task -> data set.
            ignore_keys: not used: the only outputs are logits.
            metric_key_prefix: begins the names of the metrics.

        Returns:
            `predictions`: task -> a prediction a row (as `Task.decode` gives); `label_ids`: task -> gold answers, for
            the labelled ones; `metrics`, for the labelled ones.
        """
        predictions, _, metrics, _ = self._answer(test_dataset, metric_key_prefix)
        gold: Any = {name: given for name, (_, given) in predictions.items() if given is not None}
        found: Any = {name: answers for name, (answers, _) in predictions.items()}
        return PredictionOutput(predictions=found, label_ids=gold, metrics=metrics)

    def baseline_scores(self, dataset: Any = None) -> Scores:
        """What always giving the commonest training answer would score: the least that a model must beat."""
        scores = {}
        for name, part in self._evaluated(dataset, "baseline").items():
            if part.labelled and self.train_dataset is not None and name in self.train_dataset.parts:
                task, rows = part.task, _rows(part)
                gold = task.references(_rows(self.train_dataset.parts[name]))
                scores[name] = task.score(task.baseline(gold, rows), task.references(rows))
        return scores

    def tune(self, eval_dataset: Any = None) -> dict[str, Task]:
        """Lets tasks choose on validation data what they choose there, thresholds say, and keeps it in the model.

        Args:
            eval_dataset: task -> data set; None takes the trainer's own.

        Returns:
            The tasks that have changed, by name.
        """
        self._check_tasks()
        changed: dict[str, Task] = {}
        for name, part in self._evaluated(eval_dataset, "eval").items():
            task = self._tasks[name]
            if type(task).tune is Task.tune or not part.labelled:
                continue
            tuned = task.tune(self._logits(name, part, "eval")[0], list(part.features), _rows(part))
            if tuned != task:
                changed[name] = tuned
        for name, task in changed.items():
            self.accelerator.unwrap_model(self.model).replace_task(task)
            self._tasks[name] = task
            for parts in (self.eval_dataset, self.train_dataset and self.train_dataset.parts):
                if parts and name in parts:
                    parts[name].task = task
        return changed

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        (logits,) = outputs.logits.values()
        loss = None if outputs.loss is None else next(iter(outputs.task_losses.values())).detach()
        return loss, None if prediction_loss_only else logits.detach().float(), None

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
        config = self.accelerator.unwrap_model(self.model).config
        known = {"language": language, "license": license, "tags": [tags] if isinstance(tags, str) else tags}
        data = (config.card_data or {}) | {k: v for k, v in known.items() if v}
        folder = str(self.args.output_dir)
        model_id = self.hub_model_id or self.args.hub_model_id or Path(folder).name
        write_card(folder, render_card(config, model_id=model_id, **data))

    def _evaluated(self, data: Any, split: str) -> dict[str, EncodedDataset]:
        if data is not None:
            with self.args.main_process_first(desc="encoding"):
                return self._encode(data, self.processing_class, split)
        if self.eval_dataset is None:
            raise ValueError("There is nothing to evaluate on: give eval_dataset, to the trainer or to evaluate().")
        return self.eval_dataset

    def _in_order(self, part: EncodedDataset) -> Any:
        """Batches of all items, one after the other, each process its share."""
        args = self.args
        loader = DataLoader(
            part,
            batch_size=args.eval_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def _logits(self, name: str, part: EncodedDataset, prefix: str) -> tuple[list[np.ndarray], float]:
        """The logits of the features in their order, without padding, and the mean loss where there are labels."""
        ordered, order = part.sorted_by_length()
        loop = self.evaluation_loop(
            self._in_order(ordered),
            description=f"Evaluating {name}",
            prediction_loss_only=False,
            metric_key_prefix=f"{prefix}_{name}",
        )
        found: Any = loop.predictions
        back = np.argsort(order).tolist()
        logits = [part.task.cut(found[k], feature) for k, feature in zip(back, part.features, strict=True)]
        return logits, (loop.metrics or {}).get(f"{prefix}_{name}_loss", math.nan)

    def _answer(self, data: Any, prefix: str) -> tuple[dict[str, tuple[list[Any], Any]], Scores, dict[str, float], int]:
        """All tasks' predictions and gold answers, their scores, these as flat metrics, and the number of features."""
        self._check_tasks()
        found: dict[str, tuple[list[Any], Any]] = {}
        scores: Scores = {}
        losses: dict[str, float] = {}
        count = 0
        for name, part in self._evaluated(data, prefix).items():
            logits, loss = self._logits(name, part, prefix)
            rows = _rows(part)
            predictions = self._tasks[name].decode(logits, list(part.features), rows)
            gold = None
            if part.labelled:
                gold = part.task.references(rows)
                scores[name] = part.task.score(predictions, gold)
                losses[f"{prefix}_{name}_loss"] = loss
            found[name] = (predictions, gold)
            count += len(part)
        metrics = flatten_scores(scores, prefix) | losses
        if scores:
            metrics[f"{prefix}_mean_score"] = mean_score(scores, {n: self._tasks[n].main_metric for n in scores})
        return found, scores, metrics, count


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch: when a run resumes inside one, accelerate's skipping loader hides it."""

    def __init__(self, trainer: MultiTaskTrainer):
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._sampler.set_epoch(int(state.epoch or 0))


def _rows(part: EncodedDataset) -> list[dict[str, Any]]:
    return named_rows(part.rows[:], part.rows.features)
