"""One task's adapter folded into the base weights."""

from typing import cast

import torch
from torch import nn

from .layers import RoutedLinear
from .routed import RoutedLayer

__all__ = ["merge_adapter"]


def merge_adapter(part: nn.Module, name: str) -> None:
    """Folds one task's adapter into the base weights, in place, and takes out everything that is any adapter's.

    What is left gives, without a route, the hidden states that it gave by the task's adapter, up to the rounding of the
    base weights' dtype.
    """
    layers = [(path, module) for path, module in part.named_modules() if isinstance(module, RoutedLayer)]
    for path, layer in layers:
        if isinstance(layer, RoutedLinear) and layer.composed(name):
            if layer.has(name):
                _fold(layer, name)
        elif layer.has(name):
            layer.merge(safe_merge=True, adapter_names=[name])
        parent, _, leaf = path.rpartition(".")
        setattr(part.get_submodule(parent), leaf, layer.base_layer)
    for module in part.modules():
        vars(module).pop("peft_config", None)


def _fold(layer: RoutedLinear, name: str) -> None:
    down, up = layer.effective(name)
    weight = cast(torch.Tensor, layer.get_base_layer().weight)
    change = (up @ down).T if layer.fan_in_fan_out else up @ down
    with torch.no_grad():
        weight.copy_((weight.float() + change.float()).to(weight.dtype))
