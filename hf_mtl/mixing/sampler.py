"""The batch sampler that the Trainer uses: every process gets the same task in the same micro-step."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..nearest import nearest
from .mixture import Mixture
from .plan import MixturePlan
from .planned import PlannedBatchSampler
from .rules import capped_sizes
from .state import Evaluation
from .stream import TaskStream, batches_together
from .token_stream import TokenStream, token_stream


class MultiTaskBatchSampler(PlannedBatchSampler):
    """Micro-batches of one task each, for one process.

    Indices count through the concatenation of the tasks' rows in the order of `sizes`. An optimizer step
    takes M = `world_size * accumulation` micro-batches of `batch_size` rows, which are `tasks_per_step` draws
    of a task; the micro-batches of a draw go round the processes, so all of them work on one task at a time,
    and W processes with A accumulation steps take the very optimizer steps that one process with W * A takes.
    All micro-batches are full (under `max_tokens` as full as it allows) and all processes get the same number of them.
    An epoch is what `MixturePlan` says; rows that an epoch does not reach come first in the next one.

    Args:
        sizes: task -> rows.
        batch_size: rows of a micro-batch (`per_device_train_batch_size`).
        world_size: processes.
        rank: this process.
        accumulation: micro-batches of a process in an optimizer step (`gradient_accumulation_steps`).
        tasks_per_step: draws of a task in an optimizer step, a divisor of `accumulation`; None takes
            `accumulation`, the most there can be.
        mixture: the rule.
        seed: seed of the run.
        lengths: task -> length of each of its rows; tasks that are not named are not grouped by length.
        length_group: draws of a task whose rows are sorted by length together, so that batches have less padding; 1
            sorts inside a draw only, which changes no optimizer step's rows. None: by the task's size, see
            `batches_together`.
        epochs, max_steps: length of the training, for rules that look at the progress; steps come before epochs.
        batch_sizes: task -> rows of its micro-batches, where they are not `batch_size`.
        max_tokens: the most tokens of a micro-batch, padding counted; `batch_size` is then the most rows. It takes
            the lengths of all tasks. None: no limit.

    Raises:
        ValueError: for options that are out of range or do not fit together.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        tasks_per_step: int | None = None,
        mixture: Mixture | None = None,
        seed: int = 0,
        lengths: Mapping[str, Sequence[int] | np.ndarray] | None = None,
        epochs: float | None = None,
        max_steps: int | None = None,
        batch_sizes: Mapping[str, int] | None = None,
        max_tokens: int | None = None,
        length_group: int | None = None,
    ) -> None:
        capped_sizes(sizes, None)
        own = {f"batch_sizes[{task!r}]": number for task, number in (batch_sizes or {}).items()}
        counts = {"batch_size": batch_size, "world_size": world_size, "accumulation": accumulation, **own}
        limits = {"length_group": length_group, "max_tokens_per_batch": max_tokens}
        counts |= {name: value for name, value in limits.items() if value is not None}
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
        batch_sizes = dict.fromkeys(sizes, batch_size) | dict(batch_sizes or {})
        for name, given in (("lengths are", lengths), ("batch_sizes is", batch_sizes)):
            for task in given:
                if task not in sizes:
                    raise ValueError(f"{name} given for {task!r}, which is not a task. {nearest(str(task), sizes)}")
        if max_tokens is not None and (missing := [task for task in sizes if task not in lengths]):
            raise ValueError(f"max_tokens_per_batch={max_tokens} takes the lengths of all rows: {missing} have none.")
        self.batch_size = batch_size
        self.world_size = world_size
        self.rank = rank
        self.epoch = 0
        self._micro_batches = world_size * (accumulation // draws)  # of a draw, over all processes
        parts = self._micro_batches
        streams: dict[str, TaskStream | TokenStream] = {}
        for task, size in sizes.items():
            rows = batch_sizes[task]
            if max_tokens is None:
                together = batches_together(length_group, size // (rows * parts))
                streams[task] = TaskStream(size, seed, task, rows * parts, lengths.get(task), together, parts)
            else:
                streams[task] = token_stream(size, seed, task, rows, lengths[task], max_tokens, parts, length_group)
        self.plan = MixturePlan(
            sizes,
            rows_per_draw={task: stream.rows_per_draw for task, stream in streams.items()},
            draws_per_step=draws,
            mixture=mixture,
            seed=seed,
            epochs=epochs,
            max_steps=max_steps,
        )
        self.sizes = dict(sizes)
        self.streams = [streams[task] for task in self.plan.tasks]
        self._begun = 0  # draws that have been begun, counted from the start of the training
        offsets = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        self._offsets = [offsets[task] for task in self.plan.tasks]

    def rows_per_batch(self) -> dict[str, float]:
        """Task -> rows of its micro-batches: all of them have so many, or on average where `max_tokens` cuts them."""
        streams = zip(self.plan.tasks, self.streams, strict=True)
        return {task: stream.rows_per_draw / self._micro_batches for task, stream in streams}

    def rows_per_epoch(self) -> dict[str, int]:
        """Task -> rows drawn in the current epoch, over all processes, repeats counted."""
        starts, counts = self.plan.starts(self.epoch).tolist(), self.plan.counts(self.epoch).tolist()
        rows = [
            stream.rows(*draws) for stream, draws in zip(self.streams, zip(starts, counts, strict=True), strict=True)
        ]
        return self._by_task(rows)

    def rows_seen(self, step: int) -> dict[str, int]:
        """Task -> rows drawn in the first `step` optimizer steps of a training, over all processes, repeats counted."""
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        counts = self.plan.starts(epoch)
        if within:
            begun = self.plan.draws(epoch)[: within * (self.plan.draws_per_epoch // self.plan.steps_per_epoch)]
            counts = counts + np.bincount(begun, minlength=len(counts))
        rows = [stream.rows(0, number) for stream, number in zip(self.streams, counts.tolist(), strict=True)]
        return self._by_task(rows)

    def record(self, scores: Mapping[str, float], left: Sequence[str] = ()) -> Evaluation:
        per_step = self.plan.draws_per_epoch // self.plan.steps_per_epoch
        begun = max(self._begun, self.epoch * self.plan.draws_per_epoch)
        first = max([-(-begun // per_step), *(known.step for known in self.plan.history)])
        evaluation = Evaluation(step=first, scores=dict(scores), left=list(left))
        self.plan.record(evaluation)
        return evaluation

    def __len__(self) -> int:
        """Micro-batches of this process in an epoch; the same for every process and every epoch."""
        return self.plan.draws_per_epoch * (self._micro_batches // self.world_size)

    def micro_batch(self, number: int) -> list[int]:
        """Micro-batch `number` (from 0) of the current epoch, as iterating gave or will give it to this process."""
        place, part = divmod(number, self._micro_batches // self.world_size)
        draws = self.plan.draws(self.epoch)
        task = int(draws[place])
        position = int(self.plan.starts(self.epoch)[task]) + int((draws[:place] == task).sum())
        rows = self.streams[task].draw(position)[self.rank + part * self.world_size]
        return (rows.astype(np.int64) + self._offsets[task]).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        # Not a generator itself: the epoch is that of the call, however late the first batch is asked for.
        return self._iterate(self.epoch)

    def _iterate(self, epoch: int) -> Iterator[list[int]]:
        position = self.plan.starts(epoch).tolist()
        draws, known = self.plan.draws(epoch).tolist(), self.plan.history
        for number in range(len(draws)):
            if self.plan.history is not known:  # an evaluation was recorded: draws further on have changed
                draws, known = self.plan.draws(epoch).tolist(), self.plan.history
            self._begun = epoch * len(draws) + number + 1
            task = draws[number]
            micro_batches = self.streams[task].draw(position[task])
            position[task] += 1
            # Rows come sorted by length, so the processes of one micro-step get batches of similar length.
            for micro_batch in micro_batches[self.rank :: self.world_size]:
                yield (micro_batch.astype(np.int64) + self._offsets[task]).tolist()
