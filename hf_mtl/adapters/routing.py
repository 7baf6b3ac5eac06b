"""Which rows of a batch go through which adapter: a context around the forward, not flags on the layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch

__all__ = ["Route", "current_route", "replaying", "use_route"]

# Measured in training steps of MiniLM with 256 and 2,048 tokens: 2 and 4 blocks take .91 to .96 of the time that
# weights for each row take, 8 and 15 take 1.06 to 1.09.
_MOST_BLOCKS = 4


class Route:
    """The adapters of the rows of one batch.

    Args:
        names: the adapters that are present, each once.
        index: `[batch]` which of `names` each row goes through; None: all rows go through the only one. Sorted costs
            less, and with as many rows of each least.

    Attributes:
        even: whether the rows are sorted, as many of each.
        blocks: where the rows of each of `names` are, if they are sorted, there are more of some than of others, and
            the names are few: products for each of many take longer than weights for each row.

    Raises:
        ValueError: several names without an index.
    """

    def __init__(self, names: Sequence[str], index: torch.Tensor | None = None):
        if index is None and len(names) != 1:
            raise ValueError(f"A route through {list(names)} needs an index that says which row takes which.")
        self.names = tuple(names)
        self.index = index if len(names) > 1 else None
        self.blocks = None if self.index is None else _blocks(self.index, len(names))
        self.even = self.blocks is not None and len({rows.stop - rows.start for rows in self.blocks}) == 1
        if self.even or len(names) > _MOST_BLOCKS:
            self.blocks = None
        self._indices: dict[tuple[int, ...], torch.Tensor] = {}

    @cached_property
    def runs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Neighbouring rows of one adapter: of each run the row after its last, and which of `names` it goes through.

        All rows of one adapter are one run, which ends after the first row: it is one for all tokens.
        """
        if self.index is None:
            return (1,), (0,)
        adapters, lengths = torch.unique_consecutive(self.index, return_counts=True)
        return tuple(lengths.cumsum(0).tolist()), tuple(adapters.tolist())

    def rows(self, adapter: int) -> torch.Tensor:
        """Row numbers that go through `names[adapter]`, in order."""
        if self.index is None:
            raise ValueError("A route through one adapter takes every row: it has no row numbers.")
        return torch.nonzero(self.index == adapter).squeeze(1)

    def check(self, x: torch.Tensor) -> None:
        """Raises ValueError for an input of a layer whose rows cannot be told; see `index_of`."""
        if self.index is not None and len(x) != len(self.index) and (x.dim() != 2 or len(x) % len(self.index)):
            self.index_of(x)

    def index_in(self, places: Sequence[int]) -> torch.Tensor:
        """Where the weights of each group of rows are, when those of `names` are at these places.

        A group is a task where the rows are even, else a row. Worked out once for all layers.
        """
        if self.index is None:
            raise ValueError("A route through one adapter takes every row: it has no groups.")
        key = tuple(places)
        if key not in self._indices:
            found = torch.tensor(key, device=self.index.device)
            self._indices[key] = found if self.even else found[self.index]
        return self._indices[key]

    def index_of(self, x: torch.Tensor) -> torch.Tensor | None:
        """The index for what a layer sees: `[batch, ...]`, or the batch's tokens in one row, `[batch * seq, width]`.

        Raises:
            ValueError: `x` is of another shape, and cannot be told whose rows it holds.
        """
        if self.index is None or len(x) == len(self.index):
            return self.index
        if x.dim() != 2 or len(x) % len(self.index):
            raise ValueError(
                f"A layer got an input of shape {tuple(x.shape)} for a batch of {len(self.index)} rows: adapters "
                "cannot tell whose rows they are. Give this backbone the rows of one task at a time."
            )
        return self.index.repeat_interleave(len(x) // len(self.index))


def _blocks(index: torch.Tensor, number: int) -> list[slice] | None:
    """The rows of each adapter, where they are sorted: those of each are one block then.

    On an accelerator it is not looked at: the answer would have to wait for all that is queued.
    """
    if index.device.type != "cpu" or torch.compiler.is_compiling() or bool((index[1:] < index[:-1]).any()):
        return None
    ends = torch.searchsorted(index.contiguous(), torch.arange(number), right=True).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


_ROUTE: ContextVar[Route | None] = ContextVar("hf_mtl_route", default=None)


def current_route() -> Route | None:
    """The route of the forward that is running; None: no adapter, the bare backbone."""
    return _ROUTE.get()


@contextmanager
def use_route(route: Route | None) -> Iterator[None]:
    """Sends the rows of every forward inside by this route, and leaves no trace when one fails."""
    token = _ROUTE.set(route)
    try:
        yield
    finally:
        _ROUTE.reset(token)


def replaying(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """A checkpoint function whose recomputed forwards take the route of the first one.

    The recomputation runs during the backward, long after the context has ended; without its route it would take the
    bare backbone, or another batch's adapters, and the gradients would be silently wrong.
    """

    def checkpoint_with_route(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        route = current_route()

        def routed(*inner: Any, **inner_kwargs: Any) -> Any:
            with use_route(route):
                return function(*inner, **inner_kwargs)

        return checkpoint(routed, *args, **kwargs)

    return checkpoint_with_route
