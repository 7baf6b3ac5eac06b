"""Parameters whose objects are neighbours in memory, so that torch's loops over thousands of them are quick.

A parameter made together with its values has them between its object and the next one's: of 9,000 each is on a page of
its own, and the first look at them all in each step takes three times as long.
"""

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from .routed import RoutedLayer

__all__ = ["lie_close"]


def lie_close(layers: Iterable[RoutedLayer], names: Collection[str] | None = None) -> None:
    """Makes the parameters of adapters anew, one after the other, over the values that they have.

    They are other objects afterwards: to be called before anybody but these layers may hold them, an optimizer above
    all.

    Args:
        layers: all of them at once, else one's go where another's were.
        names: of the adapters; None: all.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    places, names = [], None if names is None else frozenset(names)
    for layer in layers:
        for module, key in _places(layer, names):
            parameter = module._parameters[key]
            if parameter is None or not _can_be_another(parameter):
                continue
            if parameter not in made:
                made[parameter] = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
                vars(made[parameter]).update(vars(parameter))
            places.append((module, key, made[parameter]))
    for module, key, parameter in places:
        module._parameters[key] = parameter


def _places(layer: RoutedLayer, names: Collection[str] | None) -> list[tuple[nn.Module, str]]:
    """Where a layer holds parameters of these adapters."""
    found: list[tuple[nn.Module, str]] = []
    for kind in layer.adapter_layer_names:
        held: Any = getattr(layer, kind)
        for name in held if names is None else [name for name in held if name in names]:
            item = held[name]
            if isinstance(item, nn.Module):
                found += [(module, key) for module in item.modules() for key in module._parameters]
            else:
                found.append((held, name))
    return found


def _can_be_another(parameter: nn.Parameter) -> bool:
    """Whether it is no more than values; DeepSpeed writes into a parameter what holds that very object."""
    hooked = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    more = type(parameter) is not nn.Parameter or vars(parameter).keys() - {"_is_hf_initialized"}
    return not (more or parameter.is_meta or parameter.grad is not None or hooked)
