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

__all__ = ["base_product", "common_input", "has_common"]

# "input" -> what the layer was given first; base layer -> its product with that.
_KEPT: ContextVar[dict[Any, torch.Tensor] | None] = ContextVar("hf_mtl_common_input", default=None)


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
    kept = _KEPT.get()
    if kept is None or not args or not isinstance(args[0], torch.Tensor):
        return args
    first = kept.setdefault("input", args[0])
    # An accelerator would have to wait for the values.
    same = first is args[0] or (first.device.type == "cpu" and torch.equal(first, args[0]))
    return (first, *args[1:]) if same else args


def has_common(x: torch.Tensor) -> bool:
    """Whether this is the input that all tasks have in common."""
    kept = _KEPT.get()
    return kept is not None and kept.get("input") is x


def base_product(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`layer(x)`, in memory that may be written to."""
    kept = _KEPT.get()
    if kept is None or not has_common(x):
        return layer(x)
    if layer not in kept:
        kept[layer] = layer(x)
    return kept[layer].clone()
