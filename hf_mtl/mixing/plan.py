"""The draws of an epoch: how many each task gets, and in which order."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .mixture import Mixture
from .rules import capped_sizes, mixing_probabilities
from .spreading import at_least_one, carried_on, largest_remainders, rounded_up, spread
from .state import Evaluation, MixingState

# A rule that changes is read at so many points of an epoch, fewer where there are many epochs.
_STRETCHES, _POINTS = 64, 2048


class MixturePlan:
    """Which task each draw of an epoch is of; a draw is about `rows_per_draw` rows of one task.

    With N the sum of the capped sizes, p the rule's probabilities and R_t the rows of a draw of task t, an epoch gives
    it `ceil(p_t N / R_t)` draws, so that `proportional` without a cap passes over every row at least once; draws are
    then added where the share is furthest behind until optimizer steps are full. Under a rule that changes an epoch has
    as many draws as one pass over all (capped) rows takes, and p says how they are divided. The draws of a task are
    spread over the epoch: one at a random point of each of its `count` equal parts (of equal probability, where the
    rule changes). With `round_robin` tasks take strict turns instead, and an epoch has the rounds that reach N rows.
    With `unimax`, which bounds repeats over the whole training, draws are rounded over the epochs together: at the end
    of each a task is less than one draw above its share.

    Every epoch has the same number of draws. Everything is a pure function of (seed, epoch) and of the evaluations that
    are recorded, where the rule learns from them: one that counts from the middle of an epoch has the rest of that
    epoch planned anew. So does one by which tasks leave, under every rule: their draws go to the others, by the shares
    that these have among themselves. `unimax` then no longer bounds repeats, which it has planned for all tasks.

    Args:
        sizes: task -> rows.
        rows_per_draw: R, or task -> R_t (a mean, where draws differ).
        draws_per_step: draws of one optimizer step; an epoch has a multiple of it.
        mixture: the rule.
        seed: seed of the run.
        epochs: length of the training, for rules that look at the progress; None keeps the progress at 0.
        max_steps: the same in optimizer steps; it comes before `epochs`.

    Attributes:
        tasks: the names by number. They are sorted: the order in which tasks are given changes nothing.
        draws_per_epoch: draws of every epoch.
        history: the evaluations that are recorded.

    Raises:
        ValueError: for options out of range, and as `mixing_probabilities` does.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        rows_per_draw: float | Mapping[str, float],
        draws_per_step: int = 1,
        mixture: Mixture | None = None,
        seed: int = 0,
        epochs: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.mixture = Mixture() if mixture is None else mixture
        capped = capped_sizes(sizes, self.mixture.cap)
        self.tasks = sorted(sizes)
        rows = rows_per_draw if isinstance(rows_per_draw, Mapping) else dict.fromkeys(sizes, rows_per_draw)
        for task, value in rows.items():
            if value < 1:
                raise ValueError(f"rows_per_draw={value} of task {task!r} must be at least 1.")
        if draws_per_step < 1:
            raise ValueError(f"draws_per_step={draws_per_step} must be at least 1.")
        if seed < 0:
            raise ValueError(f"seed={seed} must be 0 or above.")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps={max_steps} must be at least 1, or None.")
        self.seed = seed
        self.history: tuple[Evaluation, ...] = ()
        self._sizes = dict(sizes)
        self._draws_per_step = draws_per_step
        self._rows = np.array([rows[task] for task in self.tasks], dtype=float)
        total, one_pass = sum(capped.values()), sum(capped[task] / rows[task] for task in self.tasks)
        # A length that fits every epoch of a rule that changes: sum(ceil(x)) <= ceil(sum(x)) + tasks - 1.
        self._pass_draws = one_pass
        self._set_length(math.ceil(one_pass * (1 - 1e-12)) + len(sizes) - 1)
        self.epochs = epochs if max_steps is None else max_steps * draws_per_step / self.draws_per_epoch
        MixingState(epochs=self.epochs)  # refuses a length that is none
        self._turns = self.mixture.strategy == "round_robin"
        self._constant: np.ndarray | None = None
        self._quota: np.ndarray | None = None  # draws of an epoch as fractions, where they are rounded over epochs
        if self.mixture.strategy == "unimax":
            self._quota = self._bounded(total, max_steps)
        elif self._turns:
            self._set_length(len(sizes) * math.ceil(total / self._rows.sum() * (1 - 1e-12)))
        elif not self.mixture.changes:
            quota = self._weights(0, 0.0) * total  # [1, tasks]
            self._set_length(int(rounded_up(quota[0]).sum()))
            self._constant = rounded_up(quota[0], self.draws_per_epoch)
        elif self.epochs is not None:  # what the rule cannot do is said now, not in the middle of the training
            for point in np.linspace(0, 1, _STRETCHES + 1).tolist():
                self._probabilities(point * self.epochs, ())
        else:
            self._probabilities(0.0, ())
        if max_steps is not None:
            self.epochs = max_steps * draws_per_step / self.draws_per_epoch
        # Parts of the last epoch that was asked for, by place and number of evaluations known: all they hang on.
        self._parts: tuple[int, dict[tuple[int, int], np.ndarray]] = (-1, {})
        self._counts: list[np.ndarray] = []
        self._starts: list[np.ndarray] = [np.zeros(len(self.tasks), dtype=np.int64)]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of every epoch."""
        return self.draws_per_epoch // self._draws_per_step

    def record(self, *evaluations: Evaluation) -> None:
        """Adds evaluations, which count from their own steps on.

        Raises:
            ValueError: one counts from an earlier step than one before it, is of other tasks, or leaves none.
        """
        for evaluation in evaluations:
            last = self.history[-1].step if self.history else 0
            if evaluation.step < last:
                raise ValueError(f"An evaluation counts from step={evaluation.step}, one before it from step {last}.")
            if unknown := [task for task in evaluation.scores if task not in self._sizes]:
                raise ValueError(f"An evaluation has scores of {unknown}, which are not tasks. Known: {self.tasks}.")
            if unknown := [task for task in evaluation.left if task not in self._sizes]:
                raise ValueError(f"An evaluation has {unknown} leave, which are not tasks. Known: {self.tasks}.")
            if not self._sizes.keys() - _left((*self.history, evaluation)):
                raise ValueError(f"With {list(evaluation.left)} all tasks have left: end the training.")
            self.history += (evaluation,)
            first = evaluation.step // self.steps_per_epoch  # epochs before it stay as they are
            del self._counts[first:], self._starts[first + 1 :]

    def counts(self, epoch: int) -> np.ndarray:
        """Draws of each task in `epoch`, shape [tasks]."""
        if not self._leave_by(epoch):
            if self._turns:
                return self.starts(epoch + 1) - self.starts(epoch)
            if self._constant is not None:
                return self._constant.copy()
        self._count(epoch)
        return self._counts[epoch].copy()

    def starts(self, epoch: int) -> np.ndarray:
        """Draws of each task before `epoch`, shape [tasks]."""
        if not self._leave_by(epoch - 1):
            if self._turns:
                number = len(self.tasks)
                return (epoch * self.draws_per_epoch + number - 1 - np.arange(number)) // number
            if self._constant is not None:
                return self._constant * epoch
        self._count(epoch - 1)
        return self._starts[epoch].copy()

    def draws(self, epoch: int) -> np.ndarray:
        """The task number of each draw of `epoch`, shape [draws_per_epoch]."""
        begin = epoch * self.steps_per_epoch
        fixed = self._turns or self._constant is not None or self._quota is not None
        unchanged = fixed and not _left(self._known(begin))
        draws = self._fixed(epoch) if unchanged else self._part(epoch, 0).copy()
        events = [evaluation for evaluation in self.history if evaluation.left or not fixed]
        for step in sorted({evaluation.step - begin for evaluation in events}):
            if 0 < step < self.steps_per_epoch:
                place = step * self._draws_per_step
                draws = np.concatenate([draws[:place], self._part(epoch, place)])
        return draws

    def _fixed(self, epoch: int) -> np.ndarray:
        """The draws of an epoch of a rule that does not change, as long as no task has left."""
        if self._turns:
            return (epoch * self.draws_per_epoch + np.arange(self.draws_per_epoch)) % len(self.tasks)
        counts: Any = self._constant
        if self._quota is not None:
            counts = carried_on(self._quota, epoch + 1, self.starts(epoch))
        return spread(counts, np.ones((1, 1)), self._random(epoch))

    def _known(self, step: int) -> tuple[Evaluation, ...]:
        return tuple(evaluation for evaluation in self.history if evaluation.step <= step)

    def _leave_by(self, epoch: int) -> bool:
        """Whether a task leaves before the end of the epoch."""
        return any(e.left and e.step < (epoch + 1) * self.steps_per_epoch for e in self.history)

    def _bounded(self, total: int, max_steps: int | None) -> np.ndarray:
        """Draws of an epoch for `unimax`, shape [tasks]: its shares hang on all rows of the training, these on them."""
        passes = self.epochs or 1.0
        for _ in range(20):  # once is enough where all draws have as many rows
            state = MixingState(epochs=passes)
            shares = mixing_probabilities(self.mixture, self._sizes, state)
            quota = np.array([shares[task] for task in self.tasks]) * total / self._rows
            self._set_length(math.ceil(quota.sum() * (1 - 1e-12)))
            steps = (self.epochs or 1.0) * self.steps_per_epoch if max_steps is None else max_steps
            passes = steps * self._draws_per_step / float(quota.sum())
        return quota * (self.draws_per_epoch / quota.sum())

    def _part(self, epoch: int, place: int) -> np.ndarray:
        """The draws from `place` to the end of `epoch`, by what was known before the first of them."""
        step = epoch * self.steps_per_epoch + place // self._draws_per_step
        known = self._known(step)
        left = _left(known)
        if self._turns:
            draws = epoch * self.draws_per_epoch + np.arange(place, self.draws_per_epoch)
            return self._turns_of_those_left(draws, known)
        if self._parts[0] != epoch:
            self._parts = (epoch, {})
        parts, key = self._parts[1], (place, len(known))
        if key not in parts:
            weights = self._weights(epoch, place / self.draws_per_epoch, known)
            mean = weights.mean(axis=0)
            if place:
                counts = largest_remainders(mean, self.draws_per_epoch - place)
            elif left:
                counts = at_least_one(mean, self.draws_per_epoch)
            else:
                counts = rounded_up(mean / mean.sum() * self._pass_draws, self.draws_per_epoch)
            parts[key] = spread(counts, weights, self._random(epoch, *([place] if place else [])))
        return parts[key]

    def _turns_of_those_left(self, draws: np.ndarray, known: tuple[Evaluation, ...]) -> np.ndarray:
        """The task numbers of draws, counted through all epochs: after a task has left, the one goes on whose turn it
        was, so that turns stay strict there and from epoch to epoch."""
        stay, begun, first = np.arange(len(self.tasks)), 0, 0
        for step in sorted({evaluation.step for evaluation in known if evaluation.left}):
            draw = step * self._draws_per_step
            last = stay[(first + draw - 1 - begun) % len(stay)] if draw else -1
            left = _left(tuple(evaluation for evaluation in known if evaluation.step <= step))
            stay = np.array([number for number, task in enumerate(self.tasks) if task not in left])
            begun, first = draw, int(np.searchsorted(stay, last, side="right"))
        return stay[(first + draws - begun) % len(stay)]

    def _weights(self, epoch: int, begin: float, known: tuple[Evaluation, ...] = ()) -> np.ndarray:
        """Draws per row of the mixture in stretches from `begin` (a part of the epoch) on, shape [stretches, tasks]."""
        number = 1
        if self.mixture.changes:
            number = max(4, min(_STRETCHES, int(_POINTS / (self.epochs or 1))))
        times = epoch + begin + (1 - begin) * (np.arange(number) + 0.5) / number
        return np.array([self._probabilities(time, known) for time in times.tolist()]) / self._rows

    def _probabilities(self, time: float, known: tuple[Evaluation, ...]) -> list[float]:
        """The rule's at a time in epochs, shape [tasks]."""
        state = MixingState(
            progress=0.0 if self.epochs is None else min(time / self.epochs, 1.0),
            step=time * self.steps_per_epoch,
            epoch=time,
            epochs=self.epochs,
            history=known,
        )
        found = mixing_probabilities(self.mixture, self._sizes, state)
        if left := _left(known):
            total = math.fsum(share for task, share in found.items() if task not in left)
            # Where the rule gives all that stay the weight 0, they share evenly.
            found = {
                task: 0.0 if task in left else share / total if total else 1 / (len(found) - len(left))
                for task, share in found.items()
            }
        return [found[task] for task in self.tasks]

    def _set_length(self, needed: int) -> None:
        self.draws_per_epoch = -(-needed // self._draws_per_step) * self._draws_per_step

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))

    def _count(self, epoch: int) -> None:
        while len(self._counts) <= epoch:
            last = len(self._counts)
            if self._quota is not None and not self._leave_by(last):
                counts = carried_on(self._quota, last + 1, self._starts[-1])
            else:
                counts = np.bincount(self.draws(last), minlength=len(self.tasks))
            self._counts.append(counts)
            self._starts.append(self._starts[-1] + counts)


def _left(known: tuple[Evaluation, ...]) -> set[str]:
    """The tasks that have left by these evaluations."""
    return {task for evaluation in known for task in evaluation.left}
