"""The gradients of the tasks in an optimizer step: one row a task, over the shared parameters."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .averaging import average_gradients

__all__ = ["GradientRows"]

# Of a row at a time: on the CPU a block of all rows fits the cache, elsewhere few kernels are launched.
_CPU_BLOCK, _BLOCK = 2**16, 2**24

Row = list[Tensor | None]


class GradientRows:
    """One row of gradients for each task of the step.

    A row takes over the gradients that `backward` left in `.grad`, without a copy. A parameter is shared where two or
    more tasks of the step reach it; for the others that it is shared by, its gradient counts as zero. A parameter that
    one task alone reaches (its head, its adapter, a layer above all other heads) keeps that task's gradient as it is.

    Args:
        tasks: all task names; rows are in this order, whichever came first.
        parameters: what is trained, shared or not.
        owners: parameter -> the task whose head or adapter it is of. In a mixed batch all tasks' adapters are part of
            one product, and every loss gives each of them a gradient: zeros, which say nothing of sharing.
        weights: task -> what its loss was multiplied by; 1 where nothing is said.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        parameters: Sequence[nn.Parameter],
        owners: Mapping[nn.Parameter, str] | None = None,
        weights: Mapping[str, float] | None = None,
    ):
        self.parameters = list(parameters)
        self._owners = [(owners or {}).get(parameter) for parameter in self.parameters]
        self._weights = dict(weights or {})
        self._names = tuple(tasks)
        self._rows: dict[str, Row] = {}

    @property
    def tasks(self) -> list[str]:
        """The tasks of this step."""
        return [name for name in self._names if name in self._rows]

    @property
    def rows(self) -> list[Row]:
        return [self._rows[name] for name in self.tasks]

    def collect(self, task: str) -> None:
        """Moves the gradients into a task's row; adds them where the task has been in this step before."""
        found: Row = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        others = [(i, g) for i, g in enumerate(found) if g is not None and self._owners[i] not in (None, task)]
        if others:  # not all zeros where one task's head feeds another's
            lengths = torch.stack(torch._foreach_norm([g for _, g in others], math.inf))
            for (i, g), length in zip(others, lengths.tolist(), strict=True):
                found[i] = None if length == 0 else g
        self._rows[task] = _added(self._rows[task], found, 1.0) if task in self._rows else found

    def average(self) -> None:
        """The mean of each row over all processes."""
        rows = [self._rows.get(name, [None] * len(self.parameters)) for name in self._names]
        whole = average_gradients([g for row in rows for g in row], self.parameters * len(rows))
        size = len(self.parameters)
        averaged = {name: whole[i * size : (i + 1) * size] for i, name in enumerate(self._names)}
        self._rows = {name: row for name, row in averaged.items() if any(g is not None for g in row)}

    @property
    def share(self) -> bool:
        """Whether any parameter is shared."""
        return any(_shared(column) for column in zip(*self.rows, strict=True))

    @property
    def weights(self) -> list[float]:
        """What the loss of each task of this step was multiplied by."""
        return [self._weights.get(name, 1.0) for name in self.tasks]

    def gramian(self) -> Tensor:
        """`[tasks, tasks]` inner products of the rows over the shared parameters, float32, on the CPU."""
        size = len(self._rows)
        pairs = [(i, j) for i in range(size) for j in range(i, size)]
        dots = [torch.stack([block[i].dot(block[j]) for i, j in pairs]) for block in self._blocks()]
        # Added in double precision: there are hundreds of blocks, and near parallel rows leave little to err.
        upper = torch.stack(dots).cpu().double().sum(0) if dots else torch.zeros(len(pairs), dtype=torch.double)
        gramian = torch.zeros(size, size, dtype=torch.double)
        for (i, j), value in zip(pairs, upper, strict=True):
            gramian[i, j] = gramian[j, i] = value
        return gramian.float()

    def write_sum(self, weights: Sequence[float]) -> None:
        """Leaves the weighted sum of the rows in `.grad` of the shared parameters, and no rows."""
        columns = list(zip(*self.rows, strict=True))
        shared = [_shared(column) for column in columns]
        total: Row = [None] * len(self.parameters)
        for row, weight in zip(self.rows, weights, strict=True):
            total = _added(total, [g if both else None for g, both in zip(row, shared, strict=True)], weight)
        self._write([t if t is not None else _own(column) for t, column in zip(total, columns, strict=True)])

    def write_each(self, aggregate: Callable[[Tensor], Tensor]) -> None:
        """Leaves in `.grad` what a function of `[tasks, n]` makes of each shared parameter's gradients, and no rows."""
        total: Row = []
        for parameter, *grads in zip(self.parameters, *self.rows, strict=True):
            if _shared(grads):
                matrix = torch.stack([torch.zeros_like(parameter) if g is None else g for g in grads]).flatten(1)
                total.append(aggregate(matrix).view_as(parameter))
            else:
                total.append(_own(grads))
        self._write(total)

    def _write(self, total: Row) -> None:
        for parameter, gradient in zip(self.parameters, total, strict=True):
            parameter.grad = gradient
        self._rows = {}

    def _blocks(self) -> Iterator[list[Tensor]]:
        """All rows, a piece of each at a time, flat and in float32."""
        columns = [column for column in zip(*self.rows, strict=True) if _shared(column)]
        pending: list[list[Tensor]] = []
        held = 0
        for column in columns:
            like = next(g for g in column if g is not None)
            flat = [(torch.zeros_like(like) if g is None else g).reshape(-1) for g in column]
            if like.device.type == "cpu":
                for start in range(0, like.numel(), _CPU_BLOCK):
                    yield [g[start : start + _CPU_BLOCK].float() for g in flat]
                continue
            pending.append(flat)
            held += like.numel()
            if held >= _BLOCK:
                yield [torch.cat(parts).float() for parts in zip(*pending, strict=True)]
                pending, held = [], 0
        if pending:
            yield [torch.cat(parts).float() for parts in zip(*pending, strict=True)]


def _shared(gradients: Sequence[Tensor | None]) -> bool:
    """Of one parameter, the tasks' gradients: whether two or more have one."""
    return sum(g is not None for g in gradients) > 1


def _own(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """The gradient of the only task that has one."""
    return next((g for g in gradients if g is not None), None)


def _added(total: Row, row: Row, weight: float) -> Row:
    """total + weight * row; both are used up."""
    both = [(t, g) for t, g in zip(total, row, strict=True) if t is not None and g is not None]
    if both:
        torch._foreach_add_([t for t, _ in both], [g for _, g in both], alpha=weight)
    fresh = [g for t, g in zip(total, row, strict=True) if t is None and g is not None]
    if fresh and weight != 1.0:
        torch._foreach_mul_(fresh, weight)
    return [g if t is None else t for t, g in zip(total, row, strict=True)]
