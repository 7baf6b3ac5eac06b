"""The trunk: the layers below the first adapter, computed once for all tasks that read the same texts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile
from threading import RLock
from typing import Any

from torch import nn

from .routed import RoutedLayer

__all__ = ["computed_once", "layer_above", "stack_of", "trunk_layers"]

_KEPT: ContextVar[dict[int, Any] | None] = ContextVar("hf_mtl_trunk", default=None)
_PATCHING = RLock()


def trunk_layers(part: nn.Module, count: int) -> list[nn.Module]:
    """The first of the `count` layers of a text part that have no adapter; none where something else has one.

    What stands outside the layers runs for every task: an adapter in there, before them, would make the layers differ.
    """
    return list(takewhile(lambda layer: not _has_adapters(layer), _layers_of_adapters(part, count)))


def layer_above(part: nn.Module, count: int) -> nn.Module | None:
    """The layer that begins where the trunk ends, and has the same input for all tasks; None as for `trunk_layers`."""
    return next(filter(_has_adapters, _layers_of_adapters(part, count)), None)


def _has_adapters(layer: nn.Module) -> bool:
    return any(isinstance(m, RoutedLayer) for m in _outside_adapters(layer))


def _outside_adapters(part: nn.Module) -> Iterator[nn.Module]:
    """The modules, but for what layers with adapters hold: of many tasks those are thousands."""
    yield part
    if not isinstance(part, RoutedLayer):
        for child in part.children():
            yield from _outside_adapters(child)


def _layers_of_adapters(part: nn.Module, count: int) -> Sequence[nn.Module]:
    """The layers, where all adapters are in them."""
    found = stack_of(part, count)
    if found is None:
        return []
    inside = {id(m) for m in _outside_adapters(found[1])}
    if any(isinstance(m, RoutedLayer) and id(m) not in inside for m in _outside_adapters(part)):
        return []
    return list(found[1])


def stack_of(part: nn.Module, count: int) -> tuple[str, nn.ModuleList] | None:
    """The list of `count` layers and its path; None where there is none (ALBERT's layers are one)."""
    stacks = ((n, m) for n, m in part.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return next(stacks, None)


@contextmanager
def computed_once(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, the layers give in every forward what they gave in the first: for forwards of the same texts.

    What a layer gives is kept as it is, whatever it is, so that this holds for every architecture. Another thread's
    forward through the same layers is left alone.
    """
    if not layers:
        yield
        return
    with _PATCHING:
        before = [vars(layer).get("forward") for layer in layers]
        token = _KEPT.set({})
        try:
            for layer in layers:
                vars(layer)["forward"] = _once(layer.forward, id(layer))
            yield
        finally:
            _KEPT.reset(token)
            for layer, forward in zip(layers, before, strict=True):
                del vars(layer)["forward"]
                if forward is not None:
                    vars(layer)["forward"] = forward


def _once(forward: Callable[..., Any], key: int) -> Callable[..., Any]:
    def kept_or_computed(*args: Any, **kwargs: Any) -> Any:
        kept = _KEPT.get()
        if kept is None:
            return forward(*args, **kwargs)
        if key not in kept:
            kept[key] = forward(*args, **kwargs)
        return kept[key]

    return kept_or_computed
