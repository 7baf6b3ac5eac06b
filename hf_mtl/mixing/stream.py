"""The endless row sequence of one task, cut in full batches."""

import zlib
from collections.abc import Sequence

import numpy as np

# What a task's batches in a pass are for each one that is sorted together, where nobody says how many, and the most of
# these. So a pass has four groups or more: a small data set sorted whole would give the same batches in every pass.
_FOR_EACH, _MOST = 4, 50


def batches_together(length_group: int | None, batches: int) -> int:
    """Batches that are sorted by length together, of a task that has so many in a pass; 1: it stays shuffled.

    Args:
        length_group: how many are wanted; None: one for each four that the task has, at most 50.
        batches: the task's batches in a pass.
    """
    if length_group is None:
        return max(1, min(_MOST, batches // _FOR_EACH))
    return max(1, min(length_group, batches))


class TaskStream:
    """Row ids of one task: pass after pass over its rows, each pass in a new order, cut in full batches.

    Batch `i` holds the stream positions `[i * batch_size, (i + 1) * batch_size)`. What a pass leaves over is
    carried on into the next one, so no row is skipped or repeated inside a pass and no batch is short. The
    order of a pass is a pure function of (seed, task, pass); it stays the same as long as numpy's generators
    do.

    With `lengths`, the rows of a batch come sorted by length, and the batches that lie wholly inside a pass hold rows
    of similar length: `group` batches at a time are sorted by length, cut, and shuffled as batches. Batches that reach
    over the end of a pass keep their rows, so the guarantee above holds for any size.

    Args:
        size: rows of the task.
        seed: seed of the run.
        task: name of the task; two tasks of one seed have independent orders.
        batch_size: rows of a batch; may exceed `size`.
        lengths: length of each row (tokens, or anything monotone in them); None leaves the rows as they fall.
        group: batches that are sorted together; 1 sorts inside batches only.
        parts: micro-batches that `draw` cuts a batch into, a divisor of `batch_size`.

    Raises:
        ValueError: for a size, batch size or group below 1, a negative seed, or lengths that do not fit.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        task: str,
        batch_size: int,
        lengths: Sequence[int] | np.ndarray | None = None,
        group: int = 1,
        parts: int = 1,
    ) -> None:
        for name, value in (("size", size), ("batch_size", batch_size), ("group", group), ("parts", parts)):
            if value < 1:
                raise ValueError(f"{name}={value} of task {task!r} must be at least 1.")
        if batch_size % parts:
            raise ValueError(f"parts={parts} of task {task!r} must divide batch_size={batch_size}.")
        if seed < 0:
            raise ValueError(f"seed={seed} must be 0 or above.")
        self.size = size
        self.seed = seed
        self.task = task
        self.batch_size = batch_size
        self.parts = parts
        self.rows_per_draw = float(batch_size)
        self.group = group
        self.lengths = None if lengths is None else compact_lengths(lengths, size, task)
        self._key = zlib.crc32(task.encode())  # `hash(str)` differs from process to process
        # Four bytes a row, as long as they are enough, halve the memory of a pass.
        self._row_type = np.int32 if size <= np.iinfo(np.int32).max else np.int64
        # Only caches: batches are read in order, so the pass and the group of the last one serve the next.
        self._pass: tuple[int, np.ndarray] | None = None
        self._grouped: tuple[tuple[int, int], np.ndarray] | None = None

    def draw(self, index: int) -> list[np.ndarray]:
        """Batch `index` as its micro-batches: rows come sorted by length, so each holds rows of similar length."""
        return np.split(self.batch(index), self.parts)

    def rows(self, first: int, number: int) -> int:
        """Rows, repeats counted, of the batches `[first, first + number)`."""
        return number * self.batch_size

    def batch(self, index: int) -> np.ndarray:
        """Row ids of batch `index` (from 0), shape [batch_size]; sorted by length where lengths are known."""
        start = index * self.batch_size
        first = start // self.size
        last = (start + self.batch_size - 1) // self.size
        if first == last and self.lengths is not None:
            return self._grouped_batch(first, index, self.lengths)
        rows = self.taken(start, self.batch_size)
        return rows if self.lengths is None else rows[np.argsort(self.lengths[rows], kind="stable")]

    def taken(self, start: int, number: int) -> np.ndarray:
        """Row ids of the stream positions `[start, start + number)` as they fall, whatever the batches."""
        pieces = []
        for turn in range(start // self.size, -(-(start + number) // self.size)):
            begin = turn * self.size
            pieces.append(self._order(turn)[max(start - begin, 0) : start + number - begin])
        return np.concatenate(pieces)

    def _order(self, number: int) -> np.ndarray:
        """The permutation of the rows in pass `number`, shape [size]."""
        if self._pass is None or self._pass[0] != number:
            rows = np.arange(self.size, dtype=self._row_type)
            self._generator(number).shuffle(rows)
            self._pass = (number, rows)
        return self._pass[1]

    def _grouped_batch(self, number: int, index: int, lengths: np.ndarray) -> np.ndarray:
        """Batch `index`, which lies inside pass `number`."""
        begin, end = number * self.size, (number + 1) * self.size
        # The batches that lie wholly inside the pass: first, last + 1.
        first, last = -(-begin // self.batch_size), end // self.batch_size
        group = (index - first) // self.group
        low = first + group * self.group
        if self._grouped is None or self._grouped[0] != (number, group):
            high = min(low + self.group, last)
            rows = self._order(number)[low * self.batch_size - begin : high * self.batch_size - begin]
            batches = rows[np.argsort(lengths[rows], kind="stable")].reshape(high - low, self.batch_size)
            self._generator(number, group).shuffle(batches)
            self._grouped = ((number, group), batches)
        return self._grouped[1][index - low].copy()

    def _generator(self, *key: int) -> np.random.Generator:
        # A spawn key, unlike a longer entropy list, keeps (pass,) and (pass, 0) apart.
        source = np.random.SeedSequence(self.seed, spawn_key=(self._key, *key))
        return np.random.Generator(np.random.PCG64(source))


def compact_lengths(lengths: Sequence[int] | np.ndarray, size: int, task: str) -> np.ndarray:
    """Lengths as an array of the smallest type that holds them; raises ValueError where they do not fit the rows."""
    array = np.asarray(lengths)
    if array.shape != (size,):
        raise ValueError(
            f"lengths of task {task!r} have shape {list(array.shape)}: give one for each of its {size} rows."
        )
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise ValueError(
            f"lengths of task {task!r} must be whole numbers of at least 0: got {array.dtype}, "
            f"the smallest {array.min()}."
        )
    return array.astype(np.min_scalar_type(array.max()), copy=False)  # two bytes a row, and numpy radix-sorts those
