"""Where the weights of several tasks are found stacked, and what lays them so that they need not be copied."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .routing import Route

__all__ = ["lie_apart", "lie_together", "places_of", "weights_for"]

# Where torch's own memory begins: at multiples of so many bytes.
_ALIGNED = 64


def lie_together(parameters: Sequence[nn.Parameter]) -> None:
    """Moves the values of parameters of one shape side by side in one memory; they stay parameters of their own."""
    with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode can never learn
        whole = torch.stack([p.detach() for p in parameters])
        for parameter, values in zip(parameters, whole.unbind(), strict=True):
            parameter.data = values


def lie_apart(parameters: Iterable[nn.Parameter]) -> None:
    """Gives each parameter memory that is its alone, and begins where torch's own does, where it has not."""
    with torch.inference_mode(False), torch.no_grad():
        for parameter in parameters:
            size = parameter.numel() * parameter.element_size()
            if parameter.is_meta or (
                parameter.untyped_storage().nbytes() == size and parameter.data_ptr() % _ALIGNED == 0
            ):
                continue
            parameter.data = parameter.detach().clone()


def places_of(parameters: Sequence[torch.Tensor]) -> list[int] | None:
    """Which item of their common memory, cut into items of their size, each is; None: they have no memory in common."""
    first = parameters[0]
    memory, size = first.untyped_storage(), first.numel() * first.element_size()
    start, end = memory.data_ptr(), memory.data_ptr() + memory.nbytes()
    if memory.nbytes() % size:
        return None
    offsets = [p.data_ptr() - start if p.is_contiguous() else -1 for p in parameters]
    if any(offset % size or not 0 <= offset < end - start for offset in offsets):
        return None
    return [offset // size for offset in offsets]


def weights_for(route: Route, parameters: Sequence[torch.Tensor], together: bool = True) -> torch.Tensor:
    """The weights of each group of rows, `[groups, ...]`: all rows of one task, tasks whose rows are even, or rows.

    Args:
        route: the tasks and whose each row is.
        parameters: of each of the route's tasks.
        together: whether they may lie side by side; False saves looking.
    """
    if route.index is None:
        return parameters[0].unsqueeze(0)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        stacked = torch.stack(list(parameters))
        return stacked if route.even else stacked[route.index]
    # Held here: another thread may lay the parameters elsewhere meanwhile, and places are of one memory.
    first = parameters[0].detach() if together else None
    places = None if first is None else places_of([first, *parameters[1:]])
    if first is None or places is None:
        stacked = torch.stack(list(parameters))
        return stacked if route.even else stacked.index_select(0, route.index_in(range(len(parameters))))
    count = first.untyped_storage().nbytes() // (first.numel() * first.element_size())
    whole = first.as_strided((count, *first.shape), (first.numel(), *first.stride()), 0)
    if route.even and places == list(range(places[0], places[0] + len(places))):
        return whole.narrow(0, places[0], len(places))
    return whole.index_select(0, route.index_in(places))
