"""The draws of an epoch: how many each task gets, and in which order."""

import math
from collections.abc import Mapping

import numpy as np

from .rules import MixingRule, capped_sizes, mixing_probabilities

# A rule that depends on the progress is read at so many points of the training, and at so many of an epoch.
_GRID = 256
_SEGMENTS = 64


class MixturePlan:
    """Which task each draw of an epoch is of; a draw is `rows_per_draw` rows of one task.

    With N the sum of the capped sizes and p the rule's probabilities, an epoch gives task t `ceil(p_t N / R)`
    draws, so that `proportional` without a cap passes over every row at least once; draws are then added
    where the share is furthest behind until optimizer steps are full. The draws of a task are spread over the
    epoch: one at a random point of each of its `count` equal parts (of equal probability, where the rule
    changes with the progress). Every epoch has the same number of draws, and everything is a pure function of
    (seed, epoch).

    Args:
        sizes: task -> rows.
        rows_per_draw: R.
        draws_per_step: draws of one optimizer step; an epoch has a multiple of it.
        strategy, temperature, cap: see `mixing_probabilities`.
        seed: seed of the run.
        epochs: length of the training, for rules that look at the progress; None keeps the progress at 0.

    Attributes:
        tasks: the names by number. They are sorted: the order in which tasks are given changes nothing.
        draws_per_epoch: draws of every epoch.

    Raises:
        ValueError: for options out of range, and as `mixing_probabilities` does.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        rows_per_draw: int,
        draws_per_step: int = 1,
        strategy: str | MixingRule = "temperature",
        temperature: float = 2.0,
        cap: int | None = None,
        seed: int = 0,
        epochs: float | None = None,
    ) -> None:
        for name, value in (("rows_per_draw", rows_per_draw), ("draws_per_step", draws_per_step)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if seed < 0:
            raise ValueError(f"seed={seed} must be 0 or above.")
        if epochs is not None and not (epochs > 0 and math.isfinite(epochs)):
            raise ValueError(f"epochs={epochs} must be above 0, or None where nobody knows how long the training is.")
        self.tasks = sorted(sizes)
        self.seed = seed
        self.epochs = epochs
        self._draws = sum(capped_sizes(sizes, cap).values()) / rows_per_draw
        points = [0.0] if epochs is None else [step / _GRID for step in range(_GRID + 1)]
        rows = [
            mixing_probabilities(strategy, sizes, temperature=temperature, cap=cap, progress=point) for point in points
        ]
        table = np.array([[row[task] for task in self.tasks] for row in rows])  # [points, tasks]
        self._table = table[:1] if (table == table[0]).all() else table
        # A rule that changes needs a length that fits every epoch: sum(ceil(x)) <= ceil(sum(x)) + tasks - 1.
        needed = int(_ceil(self._quota(0)).sum())
        if len(self._table) > 1:
            needed = math.ceil(self._draws) + len(self.tasks) - 1
        self.draws_per_epoch = -(-needed // draws_per_step) * draws_per_step
        self._counts: list[np.ndarray] = []
        self._starts: list[np.ndarray] = [np.zeros(len(self.tasks), dtype=np.int64)]

    def counts(self, epoch: int) -> np.ndarray:
        """Draws of each task in `epoch`, shape [tasks]."""
        self._extend(epoch)
        return self._counts[0 if len(self._table) == 1 else epoch].copy()

    def starts(self, epoch: int) -> np.ndarray:
        """Draws of each task before `epoch`, shape [tasks]."""
        self._extend(epoch)
        return self._counts[0] * epoch if len(self._table) == 1 else self._starts[epoch].copy()

    def draws(self, epoch: int) -> np.ndarray:
        """The task number of each draw of `epoch`, shape [draws_per_epoch]."""
        counts = self.counts(epoch)
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(epoch,))))
        numbers = np.repeat(np.arange(len(counts)), counts)
        begins = np.cumsum(counts) - counts
        nth = np.arange(len(numbers)) - np.repeat(begins, counts)
        times = (nth + random.random(len(numbers))) / np.repeat(counts, counts)
        weights = self._weights(epoch)
        if len(weights) > 1:
            edges = np.linspace(0, 1, len(weights) + 1)
            for task in np.flatnonzero(counts):
                own = slice(begins[task], begins[task] + counts[task])
                reached = np.concatenate([[0.0], np.cumsum(weights[:, task])])
                times[own] = np.interp(times[own], reached / reached[-1], edges)
        return numbers[np.argsort(times, kind="stable")]

    def _weights(self, epoch: int) -> np.ndarray:
        """Probabilities in the parts of an epoch, shape [segments, tasks]; one part if nothing changes."""
        if len(self._table) == 1 or self.epochs is None:
            return self._table
        progress = (epoch + (np.arange(_SEGMENTS) + 0.5) / _SEGMENTS) / self.epochs
        return self._table[np.rint(np.minimum(progress, 1.0) * _GRID).astype(np.int64)]

    def _quota(self, epoch: int) -> np.ndarray:
        return self._weights(epoch).mean(axis=0) * self._draws

    def _extend(self, epoch: int) -> None:
        """Count up to `epoch`; a rule that does not change needs its first epoch only."""
        last = 0 if len(self._table) == 1 else epoch
        while len(self._counts) <= last:
            quota = self._quota(len(self._counts))
            counts = _ceil(quota)
            share = quota * (self.draws_per_epoch / quota.sum())
            for _ in range(self.draws_per_epoch - int(counts.sum())):
                counts[np.argmax(share - counts)] += 1
            self._counts.append(counts)
            self._starts.append(self._starts[-1] + counts)


def _ceil(quota: np.ndarray) -> np.ndarray:
    # The margin takes rounding back (n / N * N / R); a positive quota keeps its one draw, however small.
    return np.ceil(quota * (1 - 1e-12)).astype(np.int64)
