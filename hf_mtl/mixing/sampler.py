"""The batch sampler that the Trainer uses: every process gets the same task in the same micro-step."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from transformers.trainer_pt_utils import BatchRebalanceSampler

from ..nearest import nearest
from .plan import MixturePlan
from .rules import MixingRule
from .stream import TaskStream


class MultiTaskBatchSampler(BatchRebalanceSampler):
    """Micro-batches of one task each, for one process.

    Indices count through the concatenation of the tasks' rows in the order of `sizes`. An optimizer step
    takes M = `world_size * accumulation` micro-batches of `batch_size` rows, which are `tasks_per_step` draws
    of a task; the micro-batches of a draw go round the processes, so all of them work on one task at a time,
    and W processes with A accumulation steps take the very optimizer steps that one process with W * A takes.
    All micro-batches are full and all processes get the same number of them. An epoch is what `MixturePlan`
    says; rows that an epoch does not reach come first in the next one.

    It subclasses transformers' `BatchRebalanceSampler` for one reason: `Trainer` then takes it as the batch
    sampler as it is, and does not cut it up by process a second time. Nothing else of that class is used.

    Args:
        sizes: task -> rows.
        batch_size: rows of a micro-batch (`per_device_train_batch_size`).
        world_size: processes.
        rank: this process.
        accumulation: micro-batches of a process in an optimizer step (`gradient_accumulation_steps`).
        tasks_per_step: draws of a task in an optimizer step, a divisor of `accumulation`; None takes
            `accumulation`, the most there can be.
        strategy, temperature, cap: see `mixing_probabilities`.
        seed: seed of the run.
        lengths: task -> length of each of its rows; tasks that are not named are not grouped by length.
        epochs: length of the training, for rules that look at the progress.

    Raises:
        ValueError: for options that are out of range or do not fit together.
    """

    # What accelerate reads of a batch sampler. Nothing is ever dropped: every batch is full.
    drop_last = True

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        tasks_per_step: int | None = None,
        strategy: str | MixingRule = "temperature",
        temperature: float = 2.0,
        cap: int | None = None,
        seed: int = 0,
        lengths: Mapping[str, Sequence[int] | np.ndarray] | None = None,
        epochs: float | None = None,
    ) -> None:
        counts = {"batch_size": batch_size, "world_size": world_size, "accumulation": accumulation}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must be 0 to {world_size - 1} with world_size={world_size}.")
        draws = accumulation if tasks_per_step is None else tasks_per_step
        if draws < 1 or accumulation % draws:
            divisors = [number for number in range(1, accumulation + 1) if accumulation % number == 0]
            raise ValueError(
                f"tasks_per_step={draws} must divide accumulation={accumulation}, so that all processes "
                f"work on the same task: take one of {divisors}, or accumulate a multiple of {draws} steps."
            )
        lengths = lengths or {}
        for task in lengths:
            if task not in sizes:
                raise ValueError(f"lengths are given for {task!r}, which is not a task. {nearest(task, sizes)}")
        self.batch_size = batch_size
        self.world_size = world_size
        self.rank = rank
        self.epoch = 0
        self._micro_batches = world_size * (accumulation // draws)  # of a draw, over all processes
        rows = batch_size * self._micro_batches
        self.plan = MixturePlan(
            sizes,
            rows_per_draw=rows,
            draws_per_step=draws,
            strategy=strategy,
            temperature=temperature,
            cap=cap,
            seed=seed,
            epochs=epochs,
        )
        self.sizes = dict(sizes)
        self.streams = [TaskStream(sizes[task], seed, task, rows, lengths.get(task)) for task in self.plan.tasks]
        offsets = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        self._offsets = [offsets[task] for task in self.plan.tasks]

    @property
    def sampler(self) -> "MultiTaskBatchSampler":
        """Itself: accelerate sets the epoch of a loader that skips batches on the attribute `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def rows_per_epoch(self) -> dict[str, int]:
        """Task -> rows drawn in the current epoch, over all processes, repeats counted."""
        rows = self.plan.counts(self.epoch) * self.batch_size * self._micro_batches
        by_task = dict(zip(self.plan.tasks, rows.tolist(), strict=True))
        return {task: by_task[task] for task in self.sizes}

    def __len__(self) -> int:
        """Micro-batches of this process in an epoch; the same for every process and every epoch."""
        return self.plan.draws_per_epoch * (self._micro_batches // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        # Not a generator itself: the epoch is that of the call, however late the first batch is asked for.
        return self._iterate(self.epoch)

    def _iterate(self, epoch: int) -> Iterator[list[int]]:
        position = self.plan.starts(epoch).tolist()
        for task in self.plan.draws(epoch).tolist():
            rows = self.streams[task].batch(position[task]).reshape(self._micro_batches, self.batch_size)
            position[task] += 1
            # Rows come sorted by length, so the processes of one micro-step get batches of similar length.
            for micro_batch in rows[self.rank :: self.world_size]:
                yield (micro_batch.astype(np.int64) + self._offsets[task]).tolist()
