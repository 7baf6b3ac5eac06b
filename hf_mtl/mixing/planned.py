"""What every batch sampler of a mixture has: a plan, an epoch, and numbers of rows."""

from collections.abc import Mapping, Sequence

import numpy as np
from transformers.trainer_pt_utils import BatchRebalanceSampler

from .plan import MixturePlan
from .state import Evaluation

__all__ = ["PlannedBatchSampler"]


class PlannedBatchSampler(BatchRebalanceSampler):
    """Micro-batches of one process, as a plan says.

    It subclasses transformers' `BatchRebalanceSampler` for one reason: `Trainer` then takes it as the batch
    sampler as it is, and does not cut it up by process a second time. Nothing else of that class is used.

    Attributes:
        plan: which task comes when.
        sizes: task -> rows.
        epoch: the epoch that the next iteration goes through.
    """

    # What accelerate reads of a batch sampler. Nothing is ever dropped: every batch is full.
    drop_last = True

    plan: MixturePlan
    sizes: dict[str, int]
    epoch: int = 0

    @property
    def sampler(self) -> "PlannedBatchSampler":
        """Itself: accelerate sets the epoch of a loader that skips batches on the attribute `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def micro_batch(self, number: int) -> list[int]:
        """Micro-batch `number` (from 0) of the current epoch, as iterating gave or will give it to this process."""
        raise NotImplementedError

    def rows_per_batch(self) -> dict[str, float]:
        """Task -> rows of the micro-batches that have rows of it, a mean where they differ."""
        raise NotImplementedError

    def rows_per_epoch(self) -> dict[str, int]:
        """Task -> rows drawn in the current epoch, over all processes, repeats counted."""
        raise NotImplementedError

    def rows_seen(self, step: int) -> dict[str, int]:
        """Task -> rows drawn in the first `step` optimizer steps of a training, over all processes, repeats counted."""
        raise NotImplementedError

    def record(self, scores: Mapping[str, float], left: Sequence[str] = ()) -> Evaluation:
        """Takes what an evaluation found into the mixture, from the first step on of which nothing is handed out.

        Every process calls it with the same scores after the same step.

        Args:
            scores: task -> main metric; a task may be missing.
            left: tasks that leave the mixture.

        Returns:
            What `restore` needs to have a resumed run draw the same.
        """
        raise NotImplementedError

    def restore(self, history: Sequence[Evaluation]) -> None:
        """Takes in the evaluations of a run that goes on, before its first batch is drawn."""
        self.plan.record(*history)

    def _by_task(self, rows: Sequence[int] | np.ndarray) -> dict[str, int]:
        """Numbers in the plan's order of tasks -> task -> its number, in the order of `sizes`."""
        by_task = dict(zip(self.plan.tasks, map(int, rows), strict=True))
        return {task: by_task[task] for task in self.sizes}
