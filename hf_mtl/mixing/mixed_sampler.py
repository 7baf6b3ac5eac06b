"""The batch sampler of mixed batches: rows of several tasks in each, alike in length."""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .length_cut import cut_by_length, most_rows
from .mixture import Mixture
from .plan import MixturePlan
from .planned import PlannedBatchSampler
from .rules import capped_sizes
from .state import Evaluation
from .stream import TaskStream, batches_together, compact_lengths

__all__ = ["MixedBatchSampler"]

_SHUFFLING = zlib.crc32(b"micro-batches of a length group")
# Rows are drawn one by one, or, of more than this, a few of a task at a time: an epoch is planned in one go.
_DRAWS = 2**20
_PROBED = 32  # steps at least, from whose rows the mean under a token budget is taken


class MixedBatchSampler(PlannedBatchSampler):
    """Micro-batches of rows of several tasks, for one process.

    The plan draws row by row: each place of an optimizer step is of the task that the mixture gives it, and takes this
    task's next row. (Of more than a million rows it draws a few of a task at a time.) The rows of `length_group` steps
    at a time are sorted by length whatever their task, cut in micro-batches, and these are shuffled among the steps. So
    each row comes once in a pass of its task, and tasks have their shares in every group of steps, to the row.

    Indices count through the concatenation of the tasks' rows in the order of `sizes`. An optimizer step takes M =
    `world_size * accumulation` micro-batches, the longest first, which go round the processes: W processes with A
    accumulation steps take the very steps that one process with W * A takes.

    Without a token budget an epoch holds the rows that `MixturePlan` says. With one, a group holds as many rows as fit;
    an epoch is as many steps as its rows take on average, and the next one goes on with the row where it ended.

    Everything is a pure function of the seed, the epoch and the recorded evaluations, which count from the end of the
    group that is being handed out.

    Args:
        sizes: task -> rows.
        lengths: task -> tokens of the longest input of each of its rows.
        inputs: task -> inputs of each of its rows; tasks that are not named have one.
        batch_size: rows of a micro-batch; under a token budget the most rows.
        world_size: processes.
        rank: this process.
        accumulation: micro-batches of a process in an optimizer step.
        mixture: the rule.
        seed: seed of the run.
        length_group: optimizer steps whose rows are sorted together; 1 sorts inside a step only. None: a quarter of the
            steps in which the task that is gone through first is gone through, at most 50, so that a row hardly meets
            itself.
        epochs, max_steps: length of the training, for rules that look at the progress; steps come before epochs.
        max_tokens: the most tokens of a micro-batch, padding counted. None: no limit.

    Raises:
        ValueError: for options that are out of range or do not fit together.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        inputs: Mapping[str, Sequence[int] | np.ndarray] | None = None,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        mixture: Mixture | None = None,
        seed: int = 0,
        length_group: int | None = None,
        epochs: float | None = None,
        max_steps: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        capped_sizes(sizes, None)
        counts = {"batch_size": batch_size, "world_size": world_size, "accumulation": accumulation}
        limits = {"length_group": length_group, "max_tokens_per_batch": max_tokens}
        for name, value in (counts | {k: v for k, v in limits.items() if v is not None}).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must be 0 to {world_size - 1} with world_size={world_size}.")
        if missing := [task for task in sizes if task not in lengths]:
            raise ValueError(f"Mixed batches are cut by length, and {missing} have no lengths.")
        self.sizes = dict(sizes)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.max_tokens = max_tokens
        self._micro_batches = world_size * accumulation  # of a step
        self._ends = np.cumsum(list(sizes.values()))
        self._lengths = np.concatenate([compact_lengths(lengths[task], size, task) for task, size in sizes.items()])
        given = inputs or {}
        self._inputs = np.concatenate(
            [compact_lengths(given.get(task, np.ones(n, dtype=int)), n, task) for task, n in sizes.items()]
        )
        self._check_budget()
        offsets = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        self._streams = [(TaskStream(sizes[task], seed, task, 1), offsets[task]) for task in sorted(sizes)]
        self._draws: dict[int, np.ndarray] = {}  # of the last epochs that were asked for
        self._known: tuple[Evaluation, ...] = ()  # the evaluations by which they were drawn
        self._firsts = [0]  # under a token budget: the place in the plan where each epoch begins
        self._begun = 0  # the place up to which rows have been handed out, or are being so

        # A power of two that divides the rows of a step, and of which a step has many.
        per_step, self._rows_per_draw = batch_size * self._micro_batches, 1
        while self._ends[-1] > _DRAWS * self._rows_per_draw and per_step % (16 * self._rows_per_draw) == 0:
            self._rows_per_draw *= 2

        def plan(rows_per_step: int) -> MixturePlan:
            draws = max(1, rows_per_step // self._rows_per_draw)
            return MixturePlan(
                sizes, rows_per_draw=self._rows_per_draw, draws_per_step=draws, mixture=mixture, seed=seed,
                epochs=epochs, max_steps=max_steps,
            )  # fmt: skip

        self.plan = plan(per_step)
        self.length_group = self._group(length_group)
        for _ in range(0 if max_tokens is None else 2):  # a longer group has less padding, and so more rows in a step
            self.plan, self._draws = plan(self._fitting()), {}
            self.length_group = self._group(length_group)
        self._rows_per_step = self._rows_per_epoch // self.plan.steps_per_epoch

    def micro_batch(self, number: int) -> list[int]:
        step, part = divmod(number, self._micro_batches // self.world_size)
        groups = itertools.islice(self._groups(self.epoch), step // self.length_group, None)
        _, steps = next(groups)
        batch: list[int] = steps[step % self.length_group][self.rank + part * self.world_size].tolist()
        return batch

    def rows_per_batch(self) -> dict[str, float]:
        """Task -> rows of the micro-batches, of whichever task; all of them have so many, or on average."""
        return dict.fromkeys(self.sizes, self._rows_per_step / self._micro_batches)

    def rows_per_epoch(self) -> dict[str, int]:
        """Task -> rows planned for the current epoch, over all processes, repeats counted."""
        return self._by_task(self.plan.counts(self.epoch) * self._rows_per_draw)

    def rows_seen(self, step: int) -> dict[str, int]:
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        counts = self._position(self._begin(epoch))
        for _, steps in itertools.islice(self._groups(epoch), -(-within // self.length_group)):
            rows = np.concatenate([batch for batches in steps[:within] for batch in batches])
            counts = counts + self._counts(rows)
            within -= len(steps)
        return self._by_task(counts)

    def record(self, scores: Mapping[str, float], left: Sequence[str] = ()) -> Evaluation:
        """Takes what an evaluation found into the mixture, from the end of the group on that is being handed out."""
        begun = max(self._begun, self._begin(self.epoch))
        if self.max_tokens is not None:
            begun += 1  # the row that did not fit has been looked at
        first = max([-(-begun // self._rows_per_step), *(known.step for known in self.plan.history)])
        evaluation = Evaluation(step=first, scores=dict(scores), left=list(left))
        self.plan.record(evaluation)
        del self._firsts[self.epoch + 1 :]
        return evaluation

    def restore(self, history: Sequence[Evaluation]) -> None:
        super().restore(history)
        del self._firsts[1:]

    def __len__(self) -> int:
        """Micro-batches of this process in an epoch; the same for every process and every epoch."""
        return self.plan.steps_per_epoch * (self._micro_batches // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        # Not a generator itself: the epoch is that of the call, however late the first batch is asked for.
        return self._iterate(self.epoch)

    def _iterate(self, epoch: int) -> Iterator[list[int]]:
        for end, steps in self._groups(epoch):
            self._begun = end
            for batches in steps:
                for batch in batches[self.rank :: self.world_size]:
                    yield batch.tolist()

    def _groups(self, epoch: int) -> Iterator[tuple[int, list[list[np.ndarray]]]]:
        """The length groups of an epoch: where in the plan each ends, and the micro-batches of its steps."""
        place, total, per_step = self._begin(epoch), self.plan.steps_per_epoch, self._micro_batches
        position = self._position(place)
        for number, first in enumerate(range(0, total, self.length_group)):
            steps = min(self.length_group, total - first)
            rows, batches = self._cut(place, position, steps * per_step)
            place, position = place + len(rows), position + self._counts(rows)
            source = np.random.SeedSequence(self.seed, spawn_key=(_SHUFFLING, epoch, number))
            order = np.random.Generator(np.random.PCG64(source)).permutation(len(batches)).reshape(steps, per_step)
            # Inside a step the longest come first, so the processes of a micro-step get batches of similar length.
            yield place, [[batches[k] for k in np.sort(of_step)] for of_step in order]

    def _cut(self, place: int, position: np.ndarray, batches: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The rows from a place in the plan on, and so many micro-batches of them, the longest first."""
        tasks = self._tasks(place, batches * self.batch_size)
        rows = np.empty(len(tasks), dtype=np.int64)
        for task in np.unique(tasks):
            places = np.flatnonzero(tasks == task)
            stream, offset = self._streams[task]
            rows[places] = stream.taken(int(position[task]), len(places)) + offset
        if self.max_tokens is not None:
            lengths, inputs = self._lengths[rows], self._inputs[rows]
            rows = rows[: most_rows(lengths, inputs, batches, self.batch_size, self.max_tokens)]
        found = cut_by_length(self._lengths[rows], self._inputs[rows], batches, self.batch_size, self.max_tokens)
        return rows, [rows[places] for places in found]

    def _fitting(self) -> int:
        """Rows that fit into an optimizer step under the token budget, on average: seen by cutting some."""
        place, steps = 0, 0
        while steps < _PROBED:
            place += len(self._cut(place, self._position(place), self.length_group * self._micro_batches)[0])
            steps += self.length_group
        return place // steps

    def _tasks(self, place: int, number: int) -> np.ndarray:
        """The task numbers of so many places of the plan, epoch after epoch."""
        pieces: list[np.ndarray] = []
        while number:
            epoch, within = divmod(place, self._rows_per_epoch)
            pieces.append(self._draws_of(epoch)[within : within + number])
            place, number = place + len(pieces[-1]), number - len(pieces[-1])
        return np.concatenate(pieces)

    @property
    def _rows_per_epoch(self) -> int:
        return self.plan.draws_per_epoch * self._rows_per_draw

    def _draws_of(self, epoch: int) -> np.ndarray:
        if self.plan.history is not self._known:
            self._known, self._draws = self.plan.history, {}
        if epoch not in self._draws:
            self._draws = {k: v for k, v in self._draws.items() if abs(k - epoch) == 1}
            draws = self.plan.draws(epoch).astype(np.min_scalar_type(len(self.sizes)))
            self._draws[epoch] = draws.repeat(self._rows_per_draw)
        return self._draws[epoch]

    def _position(self, place: int) -> np.ndarray:
        """How many rows of each task come before a place in the plan, shape [tasks]."""
        epoch, within = divmod(place, self._rows_per_epoch)
        starts = self.plan.starts(epoch) * self._rows_per_draw
        return starts + np.bincount(self._draws_of(epoch)[:within], minlength=len(starts)) if within else starts

    def _begin(self, epoch: int) -> int:
        """The place in the plan where an epoch begins."""
        if self.max_tokens is None:
            return epoch * self._rows_per_epoch
        while len(self._firsts) <= epoch:
            *_, (end, _) = self._groups(len(self._firsts) - 1)
            self._firsts.append(end)
        return self._firsts[epoch]

    def _counts(self, rows: np.ndarray) -> np.ndarray:
        """How many of these rows are of each task, shape [tasks], in the plan's order."""
        counts = np.bincount(np.searchsorted(self._ends, rows, side="right"), minlength=len(self.sizes))
        by_task = dict(zip(self.sizes, counts.tolist(), strict=True))
        return np.array([by_task[task] for task in self.plan.tasks])

    def _group(self, wanted: int | None) -> int:
        """Steps of a length group."""
        steps = self.plan.steps_per_epoch
        if wanted is not None:
            return min(wanted, steps)
        counts = self._by_task(self.plan.counts(0) * self._rows_per_draw)
        return batches_together(None, int(min(steps * self.sizes[task] / n for task, n in counts.items() if n)))

    def _check_budget(self) -> None:
        if self.max_tokens is None:
            return
        tokens = self._lengths.astype(np.int64) * self._inputs
        row = int(tokens.argmax())
        if self.max_tokens < tokens[row]:
            number = int(np.searchsorted(self._ends, row, side="right"))
            task = list(self.sizes)[number]
            place = row - int(self._ends[number]) + self.sizes[task]
            raise ValueError(
                f"max_tokens_per_batch={self.max_tokens}, but row {place} of task {task!r} has {tokens[row]} "
                f"tokens: allow {tokens[row]} or more, or cut its texts (max_length)."
            )
