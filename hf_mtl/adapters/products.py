"""The batched products of routed low-rank layers, and where the weights of several tasks are found stacked.

The low-rank states are made transposed, `A x^T` in place of `x A^T`: a product with a wide result runs two to three
times faster than one with the few columns of a rank, and the second product takes its factor transposed for nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .routing import Route

__all__ = ["LinearWithLowRank", "add_low_rank", "lie_apart", "lie_together", "places_of"]

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


def weights_for(route: Route, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weights of each group of rows, `[groups, ...]`: tasks where their rows are even, rows otherwise."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        stacked = torch.stack(list(parameters))
        return stacked if route.even else stacked[route.index]
    # Held here: another thread may lay the parameters elsewhere meanwhile, and places are of one memory.
    first = parameters[0].detach()
    places = places_of([first, *parameters[1:]])
    if places is None:
        stacked = torch.stack([p.detach() for p in parameters])
        return stacked if route.even else stacked.index_select(0, route.index_in(range(len(parameters))))
    count = first.untyped_storage().nbytes() // (first.numel() * first.element_size())
    whole = first.as_strided((count, *first.shape), (first.numel(), *first.stride()), 0)
    if route.even and places == list(range(places[0], places[0] + len(places))):
        return whole.narrow(0, places[0], len(places))
    return whole.index_select(0, route.index_in(places))


def add_low_rank(
    result: torch.Tensor,
    x: torch.Tensor,
    route: Route,
    down: Sequence[torch.Tensor],
    up: Sequence[torch.Tensor],
    scale: float | torch.Tensor,
) -> torch.Tensor:
    """`result + s B(t) A(t) x`, for `x [batch, ..., in]`; without gradients in the memory of `result` where it can."""
    a, b = weights_for(route, down), weights_for(route, up)
    low = torch.bmm(a, x.reshape(len(a), -1, x.shape[-1]).transpose(1, 2))
    if isinstance(scale, torch.Tensor):
        low, scale = low * scale, 1.0
    # Autocast casts for products out of place alone.
    if torch.is_grad_enabled() or not result.dtype == low.dtype == b.dtype or not result.is_contiguous():
        base = result.reshape(len(a), -1, result.shape[-1]).to(low.dtype)
        return torch.baddbmm(base, low.transpose(1, 2), b.transpose(1, 2), alpha=scale).reshape(result.shape)
    result.view(len(a), -1, result.shape[-1]).baddbmm_(low.transpose(1, 2), b.transpose(1, 2), alpha=scale)
    return result


class LinearWithLowRank(torch.autograd.Function):
    """`W x + b + s B(t) A(t) x` as one step of autograd.

    Written out, autograd would add the adapter's part to the output, and to the gradient of the input, in passes of
    their own over tensors as large as the layer's; here the second product of each pair adds to the first.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        route: Route,
        scale: float | torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """`parameters`: A of each of the route's tasks, then B of each."""
        number = len(parameters) // 2
        ctx.save_for_backward(x, weight, *parameters)
        ctx.route, ctx.scale = route, scale
        return add_low_rank(F.linear(x, weight, bias), x, route, parameters[:number], parameters[number:], scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Out of place wherever a gradient may be one of a batch of gradients (`is_grads_batched`).

        Written in steps of autograd, by which there are second derivatives (`create_graph`).
        """
        x, weight, *parameters = ctx.saved_tensors
        route, scale, number = ctx.route, ctx.scale, len(parameters) // 2
        a, b = weights_for(route, parameters[:number]), weights_for(route, parameters[number:])
        rows = x.reshape(len(a), -1, x.shape[-1])
        above = gradient.reshape(len(a), -1, gradient.shape[-1])
        low = torch.bmm(a, rows.transpose(1, 2)) * scale
        # d loss / d low, transposed as low is.
        d_low = torch.bmm(b.transpose(1, 2), above.transpose(1, 2)) * scale
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = torch.baddbmm((gradient @ weight).reshape(rows.shape), d_low.transpose(1, 2), a).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            d_weight = gradient.reshape(-1, gradient.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
        if ctx.needs_input_grad[2]:
            d_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0)
        d_down, d_up = torch.bmm(d_low, rows), torch.bmm(low, above).transpose(1, 2)
        return d_x, d_weight, d_bias, None, None, *_of_tasks(d_down, route), *_of_tasks(d_up, route)


def _of_tasks(gradients: torch.Tensor, route: Route) -> tuple[torch.Tensor, ...]:
    if not route.even:
        zeros = gradients.new_zeros((len(route.names), *gradients.shape[1:]))
        gradients = zeros.index_add(0, route.index_in(range(len(route.names))), gradients)
    return gradients.unbind()
