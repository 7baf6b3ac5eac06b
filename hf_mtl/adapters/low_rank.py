"""The products of routed low-rank layers: `y = W x + b + s B(t) A(t) x`.

Groups of rows share a product: all rows, the rows of each task where each has as many, or single rows. On a processor
the rows of few tasks, sorted, are a product a task, which costs less than weights for each row.

The low-rank states are made transposed, `A x^T` in place of `x A^T`: a product with a wide result runs two to three
times faster than one with the few columns of a rank, and the second product takes its factor transposed for nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .native import Scale, add_low_rank_, gradients, linear_with_low_rank
from .routing import Route
from .stacking import weights_for

__all__ = ["LinearWithLowRank", "add_low_rank"]


def add_low_rank(
    result: torch.Tensor,
    x: torch.Tensor,
    route: Route,
    down: Sequence[torch.Tensor],
    up: Sequence[torch.Tensor],
    scale: Scale,
) -> torch.Tensor:
    """`result + s B(t) A(t) x`, for `x [batch, ..., in]`; without gradients in the memory of `result` where it can.

    Raises:
        RuntimeError: the adapters are not where `x` is.
    """
    _check_place(up[0], x)
    # Autocast casts for products out of place alone.
    out_of_place = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
    out_of_place = out_of_place or not result.dtype == x.dtype == up[0].dtype or not result.is_contiguous()
    if not out_of_place and add_low_rank_(result, x, route, down, up, scale):
        return result
    # Each division into blocks would be compiled anew.
    if not out_of_place and route.blocks is not None and not torch.compiler.is_compiling():
        for a, b, own, rows in _groups(route, route.blocks, x, down, up, scale):
            _add(result[rows], _states(a, x[rows]), b, own)
        return result
    a, b = weights_for(route, down), weights_for(route, up)
    low, own = _states(a, x), _of_groups(scale, route)
    if not out_of_place:
        _add(result, low, b, own)
        return result
    low, own = _scaled(low, own)
    base = result.reshape(len(a), -1, result.shape[-1]).to(low.dtype)
    return torch.baddbmm(base, low.transpose(1, 2), b.transpose(1, 2), alpha=own).reshape(result.shape)


class LinearWithLowRank(torch.autograd.Function):
    """`W x + b + s B(t) A(t) x`, and the low-rank states `A(t) x`, as one step of autograd.

    Written out, autograd would add the adapter's part to the output, and to the gradient of the input, in passes of
    their own over tensors as large as the layer's; here the second product of each pair adds to the first. The states
    are outputs so that the backward need not make them again, and still has derivatives through them.

    It takes tokens, `x [tokens, in]`: of more dimensions a product is a view, which backbones that change a layer's
    output in its own memory (Longformer's `query /= ...`) may not do where it comes from a step like this.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        route: Route,
        scale: Scale,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """`parameters`: A of each of the route's tasks, then B of each."""
        number = len(parameters) // 2
        _check_place(parameters[-1], x)
        down, up = parameters[:number], parameters[number:]
        done = linear_with_low_rank(x, weight, bias, route, down, up, scale)
        result, *states = done or [F.linear(x, weight, bias)]
        groups = [] if done else [*_groups(route, route.blocks, x, down, up, scale)]
        for a, b, own, rows in groups:
            states.append(_states(a, x[rows]))
            _add(result[rows], states[-1], b, own)
        ctx.save_for_backward(x, weight, *parameters, *states)
        ctx.set_materialize_grads(False)
        ctx.route, ctx.scale, ctx.number = route, scale, number
        ctx.native = done is not None
        # Weights of each row would be as large as the layer's output.
        ctx.groups = groups if groups and route.even else None
        return result, *states

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor | None, *of_states: torch.Tensor | None) -> Any:
        """Written in steps of autograd, by which there are second derivatives (`create_graph`); only there the states
        have a gradient, and the output may have none."""
        if gradient is None and all(of_low is None for of_low in of_states):
            # The loss does not hang on this layer, and DDP comes by all the same. Zeros would say that it does.
            return (None,) * (5 + 2 * ctx.number)
        saved = ctx.saved_tensors  # once: a checkpoint gives them no second time
        if gradient is None:
            gradient = saved[0].new_zeros(len(saved[0]), len(saved[1]))
        if not torch.is_autocast_enabled(gradient.device.type):
            return _gradients(ctx, saved, gradient, of_states)
        with torch.autocast(gradient.device.type, enabled=False):  # as it was in the forward
            return _gradients(ctx, saved, gradient, of_states)


def _check_place(weight: torch.Tensor, x: torch.Tensor) -> None:
    """Batched products of a processor's memory with none (`meta`) would give what lay there, without an error."""
    if weight.device != x.device:
        raise RuntimeError(
            f"The adapters are on {weight.device}, and what they are applied to is on {x.device}. Move the model to "
            "one device; adapters cannot be offloaded."
        )


def _gradients(
    ctx: Any, saved: Sequence[torch.Tensor], gradient: torch.Tensor, of_states: Sequence[torch.Tensor | None]
) -> tuple[Any, ...]:
    """Of all that `forward` was given."""
    x, weight, *rest = saved
    route, number, learns = ctx.route, ctx.number, ctx.needs_input_grad
    down, up = rest[:number], rest[number : 2 * number]
    states: Sequence[Any] = rest[2 * number :]
    # A batch of gradients (`is_grads_batched`, vmap) may not be added to a single one, and in place only one by one.
    many = any(of_low is not None for of_low in of_states) or torch.func.debug_unwrap(gradient) is not gradient
    d_weight = gradient.t() @ x if learns[1] else None
    d_bias = gradient.sum(0) if learns[2] else None
    if ctx.native and not many and not torch.is_grad_enabled():
        adapters_learn = any(learns[5 : 5 + number]), any(learns[5 + number :])
        above, learn = gradient.contiguous(), (learns[0], *adapters_learn)
        found = gradients(x, weight, above, states[0], route, down, up, ctx.scale, learn)
        if found is not None:
            of_tasks = ([None] * number if whole is None else whole.unbind() for whole in found[1:])
            return found[0], d_weight, d_bias, None, None, *next(of_tasks), *next(of_tasks)
    d_x = gradient @ weight if learns[0] else None
    groups: Any = ctx.groups
    if groups is None or torch.is_grad_enabled():  # what was stacked in the forward has no graph
        groups = [*_groups(route, route.blocks, x, down, up, ctx.scale)]
    if ctx.native:  # one tensor of all tokens
        states, of_states = _by_groups(states[0], groups), _by_groups(of_states[0], groups)
    parts, downs, ups = [], [], []
    for low, of_low, (a, b, own, rows) in zip(states, of_states, groups, strict=True):
        above = gradient[rows].reshape(len(b), -1, gradient.shape[-1])
        d_low = torch.bmm(b.transpose(1, 2), above.transpose(1, 2)) * own
        if of_low is not None:
            d_low = of_low + d_low
        if d_x is not None:
            part = d_x[rows].view(len(a), -1, d_x.shape[-1])
            parts.append((part.baddbmm if many else part.baddbmm_)(d_low.transpose(1, 2), a))
        if any(learns[5 : 5 + number]):
            downs.append(torch.bmm(d_low, x[rows].reshape(len(a), -1, x.shape[-1])))
        if any(learns[5 + number :]):
            # In one memory in order: else each task's would be copied when it becomes its parameter's.
            ups.append(torch.bmm(low * own, above).transpose(1, 2).contiguous())
    if d_x is not None and many:
        d_x = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    return d_x, d_weight, d_bias, None, None, *_of_tasks(downs, route), *_of_tasks(ups, route)


def _groups(
    route: Route,
    blocks: Sequence[slice] | None,
    x: torch.Tensor,
    down: Sequence[torch.Tensor],
    up: Sequence[torch.Tensor],
    scale: Scale,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, Scale, slice]]:
    """A, B and scale of groups of rows that are one product, and which part of `x` they are."""
    if blocks is None:
        a, b = weights_for(route, down, together=False), weights_for(route, up, together=False)  # they learn
        yield a, b, _of_groups(scale, route), slice(None)
        return
    each = len(x) // blocks[-1].stop  # a row is several where tokens are in one row
    for k, rows in enumerate(blocks):
        own = scale[k : k + 1] if isinstance(scale, torch.Tensor) else scale
        yield down[k].unsqueeze(0), up[k].unsqueeze(0), own, slice(rows.start * each, rows.stop * each)


def _states(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`A x^T` of each group of rows, `[groups, rank, tokens of a group]`."""
    return torch.bmm(a, x.reshape(len(a), -1, x.shape[-1]).transpose(1, 2))


def _of_groups(scale: Scale, route: Route) -> Scale:
    """The scales of the groups of rows that weights are stacked for."""
    if not isinstance(scale, torch.Tensor) or route.index is None or route.even:
        return scale
    return scale[route.index]


def _by_groups(states: torch.Tensor | None, groups: Sequence[Any]) -> list[torch.Tensor | None]:
    """States of all tokens, `[tokens, rank]`, as `_states` gives them for each group."""
    if states is None:
        return [None] * len(groups)
    return [states[rows].reshape(len(a), -1, states.shape[-1]).transpose(1, 2) for a, _, _, rows in groups]


def _scaled(low: torch.Tensor, scale: Scale) -> tuple[torch.Tensor, float]:
    """States and the one number that they are still to be multiplied by."""
    return (low * scale, 1.0) if isinstance(scale, torch.Tensor) else (low, scale)


def _add(result: torch.Tensor, low: torch.Tensor, b: torch.Tensor, scale: Scale) -> None:
    """Adds `s B low` to `result` in its own memory."""
    low, scale = _scaled(low, scale)
    result.view(len(b), -1, result.shape[-1]).baddbmm_(low.transpose(1, 2), b.transpose(1, 2), alpha=scale)


def _of_tasks(gradients: Sequence[torch.Tensor], route: Route) -> Sequence[torch.Tensor | None]:
    """The gradients of each task's weights, from those of the groups of rows; none where nothing learns."""
    if not gradients:
        return [None] * len(route.names)
    if len(gradients) > 1:
        return [gradient[0] for gradient in gradients]
    if route.index is None or route.even:
        return gradients[0].unbind()
    zeros = gradients[0].new_zeros((len(route.names), *gradients[0].shape[1:]))
    return zeros.index_add(0, route.index_in(range(len(route.names))), gradients[0]).unbind()
