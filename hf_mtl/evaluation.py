"""Scores, predictions and tuned thresholds of all tasks: the half of the trainer that does not train."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import PredictionOutput, speed_metrics

from .data import EncodedDataset, encode_dataset, named_rows
from .many_parameters import ManyParametersMixin
from .metrics import flatten_scores, mean_score
from .nearest import nearest
from .tasks import Task
from .training_args import MultiTaskTrainingArguments

__all__ = ["EvaluationMixin", "baseline_score"]

Scores = dict[str, dict[str, float]]


class EvaluationMixin(ManyParametersMixin):
    """What `MultiTaskTrainer` does with a model that it does not train."""

    args: MultiTaskTrainingArguments
    train_dataset: Any
    eval_dataset: Any
    _tasks: dict[str, Task]
    _ids: dict[str, int]

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
            config: Any = self._own_model().config
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
        scores: Scores = {}
        for name, part in self._evaluated(dataset, "baseline").items():
            if part.labelled and self.train_dataset is not None and name in self.train_dataset.parts:
                found = baseline_score(part.task, self.train_dataset.parts[name].rows, part.rows)
                scores |= {} if found is None else {name: found}
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
        fixed = {name for name, task in self._tasks.items() if type(task).tune is Task.tune}
        if isinstance(eval_dataset, Mapping) and eval_dataset.keys() & fixed:
            eval_dataset = {name: rows for name, rows in eval_dataset.items() if name not in fixed}
            if not eval_dataset:
                return {}
        for name, part in self._evaluated(eval_dataset, "eval").items():
            task = self._tasks[name]
            if name in fixed or not part.labelled:
                continue
            tuned = task.tune(self._logits(name, part, "eval")[0], list(part.features), _rows(part))
            if tuned != task:
                changed[name] = tuned
        for name, task in changed.items():
            self._own_model().replace_task(task)
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
            ((name, logits),) = outputs.logits.items()
            if self._tasks[name].scored_by_writing and not prediction_loss_only and "labels" in inputs:
                logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[name]
        loss = None if outputs.loss is None else next(iter(outputs.task_losses.values())).detach()
        logits = logits.detach()
        # Written tokens are [batch, sequences, tokens], and transformers joins batches along the second dimension.
        logits = logits.float() if logits.is_floating_point() else logits.transpose(1, 2).contiguous()
        return loss, None if prediction_loss_only else logits, None

    def _check_tasks(self) -> None:
        before, now = list(self._ids), list(self._own_model().tasks)
        if before != now:
            raise ValueError(
                f"The model's tasks have changed since this trainer was made: they were {before}, and are {now}. Make "
                "a new trainer. In a training they cannot change, for the optimizer has the parameters of all: a task "
                "leaves it by task_patience, or by mixing='weights' with an expression that comes to 0."
            )

    def _encode(self, data: Mapping[str, Any], tokenizer: Any, split: str) -> dict[str, EncodedDataset]:
        if not isinstance(data, Mapping):
            raise ValueError(f"The {split} data must be a dict task -> data set, got {type(data).__name__}.")
        if not data:
            raise ValueError(f"The {split} data is an empty dict: give at least one task's.")
        for name in data:
            if name not in self._tasks:
                raise ValueError(
                    f"The {split} data has {name!r}, which is none of the model's tasks. "
                    f"{nearest(str(name), self._tasks)}"
                )
        encoded = {
            name: encode_dataset(self._tasks[name], self._ids[name], rows, tokenizer, split)
            for name, rows in data.items()
        }
        for name, part in encoded.items():
            if part.labelled and split != "train":
                self._tasks[name].require_scorers()
        return encoded

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

    def _logits(self, name: str, part: EncodedDataset, prefix: str) -> tuple[list[Any], float]:
        """The logits of the features in their order, without padding, and the mean loss where there are labels."""
        ordered, order = part.sorted_by_length()
        # A batch joined to those before it is a copy of them all, padded to the longest row: quadratic in the rows.
        joined, self.args.eval_do_concat_batches = self.args.eval_do_concat_batches, False
        try:
            loop = self.evaluation_loop(
                self._in_order(ordered),
                description=f"Evaluating {name}",
                prediction_loss_only=False,
                metric_key_prefix=f"{prefix}_{name}",
            )
        finally:
            self.args.eval_do_concat_batches = joined
        batches: Any = loop.predictions
        found = [row if np.issubdtype(row.dtype, np.floating) else row.T for batch in batches for row in batch]
        back = np.argsort(order).tolist()
        logits = [part.task.cut(found[k], feature) for k, feature in zip(back, part.features, strict=True)]
        logits = part.task.detokenize(logits, self.processing_class)
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


def baseline_score(task: Task, train: Any, dataset: Any) -> dict[str, float] | None:
    """What always giving the commonest answer of `train` scores on `dataset`; None: there is no such answer."""
    rows = named_rows(dataset[:], dataset.features)
    answers = task.baseline(task.references(named_rows(train[:], train.features)), rows)
    return None if answers is None else task.score(answers, task.references(rows))


def _rows(part: EncodedDataset) -> list[dict[str, Any]]:
    return named_rows(part.rows[:], part.rows.features)
