"""One task's adapter folded into the base weights."""

from typing import cast

import torch
from torch import nn

from .layers import RoutedLinear

__all__ = ["merge_adapter"]


def merge_adapter(part: nn.Module, name: str) -> None:
    """Folds one task's adapter into the base weights, in place, and takes out everything that is any adapter's.

    What is left gives, without a route, the hidden states that it gave by the task's adapter, up to the rounding of the
    base weights' dtype.
    """
    layers = [(path, module) for path, module in part.named_modules() if isinstance(module, RoutedLinear)]
    for path, layer in layers:
        if layer.composition is None and name in layer.lora_A:
            layer.merge(safe_merge=True, adapter_names=[name])
        elif layer.composition is not None and layer.has(name):
            _fold(layer, name)
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
