"""IA3, each row by its own task's vector: y = l(t) * (W x + b), or y = W (l(t) * x) + b.

Liu et al., 2022, arXiv:2205.05638.
"""

from typing import Any, cast

import torch
from peft import IA3Config
from peft.tuners.ia3 import IA3Model
from peft.tuners.ia3 import Linear as IA3Linear
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .routed import RoutedLayer
from .routing import Route, current_route
from .stacking import weights_for

__all__ = ["RoutedIA3", "RoutedScaling"]


class RoutedScaling(IA3Linear, RoutedLayer):
    """peft's IA3 layer with another forward: parameters, initialisation and state-dict keys are peft's own.

    Outside a route it is the bare base layer. Rows of several tasks cost one elementwise product, whatever the number
    of tasks: of the output, or of the input where the layer is among the config's `feedforward_modules`.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`x [batch, ..., in]` -> `[batch, ..., out]`."""
        route = current_route()
        if route is None or self.disable_adapters or not any(map(self.has, route.names)):
            return cast(torch.Tensor, self.base_layer(x, *args, **kwargs))
        if self.is_feedforward:
            return cast(torch.Tensor, self.base_layer(self._scaled(route, x), *args, **kwargs))
        return self._scaled(route, self.base_layer(x, *args, **kwargs))

    def has(self, name: str) -> bool:
        return name in self.ia3_l

    def redraw(self, name: str) -> None:
        self.reset_ia3_parameters(name)

    def combine(self, name: str, weights: dict[str, float]) -> None:
        """Gives a task's vector the weighted sum of others', as peft does it."""
        whole = sum(self.ia3_l[source].detach() * weight for source, weight in weights.items())
        self.ia3_l[name].data.copy_(whole)

    def _scaled(self, route: Route, x: torch.Tensor) -> torch.Tensor:
        held = self.ia3_l
        if route.index is None:
            return (x * held[route.names[0]].flatten()).to(x.dtype)
        route.check(x)
        first = next(held[name] for name in route.names if name in held)
        # A task without an adapter is left as it is.
        vectors = [held[name] if name in held else torch.ones_like(first) for name in route.names]
        by_group = weights_for(route, vectors).flatten(1).unsqueeze(1)
        return (x.reshape(len(by_group), -1, x.shape[-1]) * by_group).to(x.dtype).view(x.shape)


class RoutedIA3(IA3Model):
    """peft's injector of IA3, with routed layers."""

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Says what `all-linear` is: peft knows layers that have adapters already by their class's name, not these."""
        super()._prepare_model(peft_config, model)
        if peft_config.target_modules == "all-linear":
            output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
            kinds = (RoutedScaling, nn.Linear, Conv1D)
            found = ((path, m) for path, m in model.named_modules() if isinstance(m, kinds) and m is not output)
            peft_config.target_modules = {path for path, _ in found if not path.endswith(".base_layer")}

    @staticmethod
    def _create_new_module(ia3_config: IA3Config, adapter_name: str, target: nn.Module, **kwargs: Any) -> RoutedScaling:
        if not isinstance(target, nn.Linear | Conv1D):
            raise ValueError(
                f"target_modules takes in a {type(target).__name__}: IA3 scales linear layers. Name only those."
            )
        ia3_config.fan_in_fan_out = isinstance(target, Conv1D)  # Conv1D keeps its weight transposed
        return RoutedScaling(
            target,
            adapter_name,
            config=ia3_config,
            is_feedforward=kwargs.get("is_feedforward", False),
            is_target_conv_1d_layer=isinstance(target, Conv1D),
        )
