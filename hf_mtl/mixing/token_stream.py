"""The endless row sequence of one task, cut in batches of limited padded length."""

import zlib
from collections.abc import Sequence

import numpy as np

from .stream import TaskStream, batches_together, compact_lengths

__all__ = ["TokenStream", "token_stream"]


class TokenStream:
    """Row ids of one task: pass after pass over its rows, cut in draws of `parts` micro-batches of similar rows.

    A micro-batch holds at most `batch_size` rows, and at most `max_tokens` tokens once it is padded to its longest.
    Every pass has the same number of draws and shows each row once; no draw reaches over the end of a pass. How the
    ranks by length are cut is the same in every pass; which rows they hold is not: rows of equal length fall anew
    in each pass, and every row's rank is moved by up to a window (as many rows as make the batches as mixed as
    `TaskStream`'s), which the cut allows for. Everything is a pure function of (seed, task, pass).

    Made by `token_stream`.

    Args:
        seed: seed of the run.
        task: name of the task.
        lengths: tokens of each row.
        bounds: where the draws are cut, ranks by length: shape [draws + 1].
        window: ranks that a row may move.
        parts: micro-batches of a draw.
    """

    def __init__(self, seed: int, task: str, lengths: np.ndarray, bounds: np.ndarray, window: int, parts: int) -> None:
        self.size = len(lengths)
        self.seed = seed
        self.task = task
        self.lengths = lengths
        self.parts = parts
        self.window = window
        self.draws_per_pass = len(bounds) - 1
        self.rows_per_draw = self.size / self.draws_per_pass
        self._bounds = bounds
        self._sizes = np.diff(bounds)
        self._key = zlib.crc32(task.encode())
        self._pass: tuple[int, np.ndarray, np.ndarray] | None = None

    def draw(self, index: int) -> list[np.ndarray]:
        """Row ids of draw `index` (from 0) as its micro-batches, whose sizes differ by one at most."""
        number, place = divmod(index, self.draws_per_pass)
        order, rows = self._in_pass(number)
        block = order[place]
        own = rows[self._bounds[block] : self._bounds[block + 1]]
        return np.array_split(own[np.argsort(self.lengths[own], kind="stable")], self.parts)

    def rows(self, first: int, number: int) -> int:
        """Rows, repeats counted, of the draws `[first, first + number)`."""
        return self._rows_before(first + number) - self._rows_before(first)

    def _rows_before(self, index: int) -> int:
        number, place = divmod(index, self.draws_per_pass)
        return number * self.size + (int(self._sizes[self._in_pass(number)[0][:place]].sum()) if place else 0)

    def _in_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the draws of pass `number`, shape [draws], and its rows by rank, shape [size]."""
        if self._pass is None or self._pass[0] != number:
            source = np.random.SeedSequence(self.seed, spawn_key=(self._key, number))
            random = np.random.Generator(np.random.PCG64(source))
            order = random.permutation(self.draws_per_pass)
            rows = random.permutation(self.size).astype(np.int32 if self.size < 2**31 else np.int64)
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            if self.window:
                rows = rows[np.argsort(np.arange(self.size) + self.window * random.random(self.size))]
            self._pass = (number, order, rows)
        return self._pass[1:]


def token_stream(
    size: int,
    seed: int,
    task: str,
    batch_size: int,
    lengths: Sequence[int] | np.ndarray,
    max_tokens: int,
    parts: int = 1,
    length_group: int | None = None,
) -> TokenStream | TaskStream:
    """The stream of a task whose micro-batches are limited in rows and in padded tokens.

    Where one row fills a micro-batch, or there are fewer rows than micro-batches in a draw, it is a `TaskStream` of one
    row a micro-batch.

    Args:
        size, seed, task, lengths: as for `TaskStream`.
        batch_size: the most rows of a micro-batch.
        max_tokens: the most tokens of a micro-batch, padding counted.
        parts: micro-batches of a draw.
        length_group: how similar the rows of a draw are: as if so many draws were sorted by length together, see
            `batches_together`.

    Raises:
        ValueError: a row alone is longer than `max_tokens`, and as `TaskStream` does.
    """
    single = TaskStream(size, seed, task, parts, lengths, parts=parts)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} of task {task!r} must be at least 1.")
    known = compact_lengths(lengths, size, task)
    if max_tokens < known.max():
        raise ValueError(
            f"max_tokens_per_batch={max_tokens}, but row {int(known.argmax())} of task {task!r} has {known.max()} "
            f"tokens: allow {known.max()} or more, or cut its texts (max_length)."
        )
    by_rank = np.sort(known).astype(np.int64)
    draws = len(_cut(by_rank, batch_size, max_tokens, parts, 0)) - 1
    # A row moved by up to w ranks shares its draw with those of a stretch of about size / draws + 2 w ranks; cut out of
    # a sorted group, a draw covers a stretch of size / (draws of a group).
    together = batches_together(length_group, draws)
    window = int(size / 2 * max(0.0, 1 / together - 1 / draws))
    bounds = _cut(by_rank, batch_size, max_tokens, parts, window)
    return single if np.diff(bounds).min() < parts else TokenStream(seed, task, known, bounds, window, parts)


def _cut(by_rank: np.ndarray, batch_size: int, max_tokens: int, parts: int, window: int) -> np.ndarray:
    """Ranks where draws begin and end, shape [draws + 1]: as many rows in each as fit, the longest rows first."""
    size = len(by_rank)
    bounds = [size]
    while bounds[-1]:
        # The row at a rank has moved there from at most `window` ranks further on.
        longest = max(1, int(by_rank[min(bounds[-1] - 1 + window, size - 1)]))
        bounds.append(max(0, bounds[-1] - parts * min(batch_size, max_tokens // longest)))
    if len(bounds) > 2 and bounds[-2] < bounds[-3] - bounds[-2]:
        # What the shortest rows leave over is shared with the draw beside it, which gets fewer rows by it.
        bounds[-2] = bounds[-3] // 2
    return np.array(bounds[::-1])
