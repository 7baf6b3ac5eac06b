"""One task's adapter folded into the base weights."""

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
        if name in layer.lora_A:
            layer.merge(safe_merge=True, adapter_names=[name])
        parent, _, leaf = path.rpartition(".")
        setattr(part.get_submodule(parent), leaf, layer.base_layer)
    for module in part.modules():
        vars(module).pop("peft_config", None)
