"""What every routed layer has, whatever its adapters are, so that the rest of the package need not know which."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .composing import Composition
from .stacking import lie_apart

__all__ = ["RoutedLayer", "of_adapter", "redraw_lora"]


class RoutedLayer(nn.Module, BaseTunerLayer):
    """A layer of peft that sends each row by the current route; see `use_route`."""

    composition: Composition | None = None
    base_layer: nn.Module
    fan_in_fan_out: bool

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether rows of this task go through an adapter here."""

    @abstractmethod
    def redraw(self, name: str) -> None:
        """Gives an adapter that no checkpoint has filled the values that training starts from, by peft's rule.

        Raises:
            ValueError: a DoRA adapter: its magnitudes come from the base weights, which are not at hand while loading.
        """

    def composed(self, name: str) -> bool:
        """Whether a task's weights are made of shared ones; not of shared ones alone, perhaps."""
        return self.composition is not None and name not in self.composition.apart

    def held(self) -> list[str]:
        """The names under which the layer holds something: tasks, and what they share."""
        found = dict.fromkeys(name for kind in self.adapter_layer_names for name in getattr(self, kind))
        return list(found)

    def parameters_of(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """What the layer holds under a name, by its place in the layer without that name: `lora_A.weight`."""
        found: list[tuple[str, nn.Parameter]] = []
        for kind in self.adapter_layer_names:
            held: Any = getattr(self, kind)
            if name in held:
                item = held[name]
                own = item.named_parameters() if isinstance(item, nn.Module) else [("", item)]
                found += [(f"{kind}.{leaf}".rstrip("."), parameter) for leaf, parameter in own]
        return found

    def keep(self, name: str) -> None:
        """Keeps an adapter that has its values from being drawn."""
        for _, parameter in self.parameters_of(name):
            parameter.__dict__["_is_hf_initialized"] = True

    def fill_missing(self) -> None:
        """Draws the adapters that a checkpoint did not fill."""
        for name in self.held():
            own = [parameter for _, parameter in self.parameters_of(name)]
            if not all(getattr(parameter, "_is_hf_initialized", False) for parameter in own):
                with torch.no_grad():
                    self.redraw(name)
            self.keep(name)

    def lay_apart(self) -> None:
        """Gives each adapter memory of its own, that begins where torch's own does."""
        lie_apart([parameter for name in self.held() for _, parameter in self.parameters_of(name)])

    def forget_alike(self) -> None:
        """To be called where a name stands for another adapter than before."""

    def compose_again(self, tasks: Iterable[str]) -> None:
        """Gives what these tasks have beside peft's own the values that training starts from, by what is shared now."""


def of_adapter(key: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return ".lora_" in key or ".ia3_" in key


def redraw_lora(layer: Any, name: str) -> None:
    """`redraw` of LoRA's layers."""
    if name in layer.lora_variant:
        raise ValueError(
            f"The checkpoint has no adapter for task {name!r}, and a DoRA adapter cannot be made while loading. "
            "Load the model with the tasks it has, then call model.add_task(...)."
        )
    layer.reset_lora_parameters(name, True)
