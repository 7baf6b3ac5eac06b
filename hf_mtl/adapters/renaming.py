"""An adapter under another name: the same parameters, so that an optimizer that holds them goes on."""

from collections.abc import MutableMapping
from typing import Any

from torch import nn

from .inject import adapter_layers

__all__ = ["rename_adapter", "rename_key"]


def rename_adapter(backbone: nn.Module, old: str, new: str) -> None:
    """Renames one task's adapter in every layer, and in what peft keeps of it. The order of the adapters stays."""
    for layer in adapter_layers(backbone):
        # Settings of each adapter lie in dicts (r, scaling, ...), its parts in containers (lora_A, lora_dropout, ...).
        for value in [*vars(layer).values(), *layer.children()]:
            if value is layer._modules or value is vars(layer).get("_caches"):  # their keys are no names of adapters
                continue
            if isinstance(value, dict | nn.ModuleDict | nn.ParameterDict):
                rename_key(value, old, new)
        active = [new if name == old else name for name in layer.active_adapters]
        layer._active_adapter = active if isinstance(layer._active_adapter, list) else active[0]
        layer.forget_alike()
    for module in backbone.modules():  # an encoder-decoder's encoder may have tasks of its own
        rename_key(vars(module).get("peft_config", {}), old, new)


def rename_key(values: MutableMapping[str, Any] | nn.ModuleDict | nn.ParameterDict, old: str, new: str) -> None:
    """Renames a key in place; the order of the keys stays. Does nothing where there is no such key."""
    if old not in values:
        return
    items = [(new if key == old else key, value) for key, value in values.items()]
    values.clear()
    for key, value in items:
        values[key] = value
