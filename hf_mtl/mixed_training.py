"""Training on batches of several tasks: their sampler, and what each task's loss counts in a batch."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer

from .data import MultiTaskDataset
from .data.present import examples_of_tasks
from .mixing import MixedBatchSampler
from .tasks import Task
from .training_args import MultiTaskTrainingArguments

__all__ = ["MixedTrainingMixin"]

logger = logging.getLogger(__name__)


class MixedTrainingMixin(Trainer):
    """What `MultiTaskTrainer` does where `args.batching` is `mixed`.

    The loss of a batch is the sum over its tasks of weight x part x mean loss. A task's part is its number of rows over
    that of a batch (its mean, under a token budget); where a loss is a mean over labels, the task's labels over those
    that a batch of its rows alone has on average. So each row, or label, weighs what it weighs in a batch of its task
    alone.
    """

    args: MultiTaskTrainingArguments
    _tasks: dict[str, Task]
    _ids: dict[str, int]
    _rows_per_batch: dict[str, float]
    _labels_per_batch: dict[str, float]
    _shares: dict[str, Any]
    _count_labels: Callable[[Any, Any], None]

    def _mixed_sampler(self, dataset: MultiTaskDataset, common: Mapping[str, Any]) -> MixedBatchSampler:
        shapes = {name: unit.shapes() for name, unit in dataset.parts.items()}
        inputs, lengths = ({name: shape[i] for name, shape in shapes.items()} for i in range(2))
        sizes = {name: len(part) for name, part in dataset.parts.items()}
        sampler = MixedBatchSampler(sizes, lengths=lengths, inputs=inputs, **common)
        rows = sampler.rows_per_epoch()
        for name in rows:
            met = sampler.rows_per_batch()[name] * rows[name] / sum(rows.values())
            if self._tasks[name].compares_rows:
                logger.warning(
                    "Task %r learns by comparing the rows of a batch with one another, and a mixed batch has about "
                    "%.1f of it. For full batches of it set batching='per_task'.",
                    name, met,
                )  # fmt: skip
        return sampler

    def _count_rows(self, outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sets `outputs.loss` and what each task counts by in it; gives the number of examples of each task."""
        present = examples_of_tasks(inputs, outputs.task_losses, self._ids)
        self._shares = {name: number / self._rows_per_batch[name] for name, number in present.items()}
        self._count_labels(outputs, inputs["labels"])
        return present
