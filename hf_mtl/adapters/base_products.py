"""The input that the first layer with adapters has in common for all tasks: its products with base weights are one.

Queries, keys and values read the very tensor that their layer was given, where it does not normalize first. Where
several tasks answer the same texts and nothing learns, `W x` is computed for the first task and kept for the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

__all__ = ["base_product", "common_input", "has_common", "is_plain"]

# "input" -> what the layer was given first, and `_state` of it then; base layer -> its product with that.
_KEPT: ContextVar[dict[Any, Any] | None] = ContextVar("hf_mtl_common_input", default=None)


@contextmanager
def common_input(layer: nn.Module | None) -> Iterator[None]:
    """Inside, the layer is given the tensor that it was given in the first forward, in every one that has its values.

    Without a layer, or with gradients, nothing is changed. Another thread's forward is left alone.
    """
    if layer is None or torch.is_grad_enabled():
        yield
        return
    token, hook = _KEPT.set({}), layer.register_forward_pre_hook(_given_first)
    try:
        yield
    finally:
        hook.remove()
        _KEPT.reset(token)


def _given_first(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return args
    kept, x = _KEPT.get(), args[0] if args else None
    if kept is None or not isinstance(x, torch.Tensor) or torch.func.debug_unwrap(x) is not x:
        return args
    if x.device.type != "cpu" and (x.is_inference() or "input" in kept):
        return args  # an accelerator would have to wait for the values
    if "input" not in kept:
        kept["input"] = x, _state(x)
    first = kept["input"][0]
    same = first.dtype == x.dtype and _unchanged(*kept["input"]) and torch.equal(first, x)
    return (first, *args[1:]) if same else args


def _state(x: torch.Tensor) -> int | torch.Tensor:
    """What tells whether a tensor has been written to since: its version, or its values where it has none."""
    return x.clone() if x.is_inference() else x._version


def _unchanged(x: torch.Tensor, state: int | torch.Tensor) -> bool:
    return torch.equal(x, state) if isinstance(state, torch.Tensor) else x._version == state


def has_common(x: torch.Tensor) -> bool:
    """Whether this is the input that all tasks have in common, as it was given."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    first, state = (_KEPT.get() or {}).get("input", (None, 0))
    return first is x and _unchanged(x, state)


def base_product(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`layer(x)`, in memory that may be written to."""
    if not has_common(x) or layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return layer(x)  # what hangs on a layer is called for each task
    kept = _KEPT.get() or {}
    if layer not in kept:
        kept[layer] = layer(x)
    return kept[layer].clone()


def is_plain(base: nn.Linear, x: torch.Tensor) -> bool:
    """Whether a linear layer is nothing but its product, and torch's own steps may be left out."""
    weight: Any = base._parameters.get("weight")
    return (
        type(weight) in (nn.Parameter, torch.Tensor)  # quantised ones may know no other products
        and weight.dtype == x.dtype
        and not (base._forward_hooks or base._forward_pre_hooks or "forward" in base.__dict__)
        and not (base._backward_hooks or base._backward_pre_hooks)
        and not torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # torch.func.grad and the like: by autograd's own steps
    )
