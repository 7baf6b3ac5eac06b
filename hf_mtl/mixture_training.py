"""Which rows a training takes: the sampler that the arguments ask for, and what is known of its batches."""

from collections.abc import Callable
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from transformers import Trainer

from .data import MultiTaskDataset
from .data.mixed import SharedRows
from .mixing import MixingRule, Mixture, MultiTaskBatchSampler, PlannedBatchSampler
from .tasks import Task
from .training_args import MultiTaskTrainingArguments

__all__ = ["MixtureMixin"]


class MixtureMixin(Trainer):
    """The part of `MultiTaskTrainer` that makes its sampler."""

    _sampler: PlannedBatchSampler
    _mixing_rule: MixingRule | None
    _labels_per_feature: dict[str, float]
    args: MultiTaskTrainingArguments
    _check_tasks: Callable[[], None]
    _mixed_sampler: Callable[..., PlannedBatchSampler]

    def _get_train_sampler(self, train_dataset: Any = None) -> PlannedBatchSampler:
        dataset: Any = train_dataset or self.train_dataset
        self._sampler = self._mixture(dataset)
        rows, known = self._sampler.rows_per_batch(), self._labels_per_feature
        self._rows_per_batch = rows
        self._labels_per_batch = {
            task.name: rows[unit] * known[task.name]
            for unit, tasks in _tasks_of_units(dataset).items()
            for task in tasks
            if task.name in known
        }
        return self._sampler

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        if isinstance(loader.batch_sampler, BatchSamplerShard):
            # With several processes accelerate would drop batches of another size than the first batch size it saw.
            loader.batch_sampler.batch_size = None
        return loader

    def _mixture(self, dataset: Any) -> PlannedBatchSampler:
        self._check_tasks()
        args = self.args
        rule = {} if self._mixing_rule is None else {"strategy": self._mixing_rule, "weights": None, "references": None}
        limits = args.batch_limits(self._train_batch_size)
        if limits["max_tokens"] is not None and self._train_batch_size < args.train_batch_size:
            # auto_find_batch_size goes down to one row a batch, and the longest must have its turn.
            longest = max(int(unit.lengths().max()) for unit in dataset.units.values())
            limits["max_tokens"] = max(limits["max_tokens"], longest)
        draws = args.tasks_per_step or args.gradient_accumulation_steps
        one_batch_a_draw = args.world_size * args.gradient_accumulation_steps == draws
        # Where rows stay as they fall nobody asks for their lengths.
        shuffled = args.length_group == 1 and one_batch_a_draw and limits.get("max_tokens") is None
        common: dict[str, Any] = {
            "batch_size": self._train_batch_size,
            "world_size": args.world_size,
            "rank": args.process_index,
            "accumulation": args.gradient_accumulation_steps,
            "mixture": Mixture(**(args.mixture_options() | rule)),
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "length_group": args.length_group,
            "epochs": args.num_train_epochs,
            "max_steps": args.max_steps if args.max_steps > 0 else None,
            "max_tokens": limits["max_tokens"],
        }
        if args.batching == "mixed":
            return self._mixed_sampler(dataset, common)
        sizes = {name: len(unit) for name, unit in dataset.units.items()}
        lengths = None if shuffled else {name: unit.lengths() for name, unit in dataset.units.items()}
        return MultiTaskBatchSampler(
            sizes, lengths=lengths, tasks_per_step=args.tasks_per_step, batch_sizes=limits["batch_sizes"], **common
        )

    def _units(self) -> dict[str, list[Task]]:
        dataset: Any = self.train_dataset
        return _tasks_of_units(dataset)

    def _metrics_of_units(self) -> dict[str, list[str]]:
        """Unit of the mixture -> names of its tasks' main metrics in what `evaluate` gives."""
        units = self._units()
        return {unit: [f"eval_{task.name}_{task.main_metric}" for task in tasks] for unit, tasks in units.items()}

    def rows_per_epoch(self) -> dict[str, int]:
        """Rows that the first epoch takes of each task, by the mixture; more than a task has means that they repeat.

        Tasks that share their rows (`share_rows`) have one entry, under all of their names.
        """
        return self._mixture(self.train_dataset).rows_per_epoch()


def _tasks_of_units(dataset: MultiTaskDataset) -> dict[str, list[Task]]:
    """Unit of the mixture -> the tasks that learn from its rows."""
    return {
        unit: [part.task for part in (rows.parts if isinstance(rows, SharedRows) else [rows])]
        for unit, rows in dataset.units.items()
    }
