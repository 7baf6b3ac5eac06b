"""The low-rank layer that sends each row through its own task's weights: y = W x + s B(t) A(t) x."""

from typing import Any, cast

import torch
from peft.tuners.lora import Linear

from .routing import Route, current_route

__all__ = ["RoutedLinear"]


class RoutedLinear(Linear):
    """peft's LoRA layer with another forward: parameters, initialisation and state-dict keys are peft's own.

    Outside a route it is the bare base layer. Rows of several tasks cost two batched products over gathered
    weights, whatever the number of tasks. Each task keeps parameters of its own, stacked only while its rows are in
    the batch: one stacked parameter would let AdamW move tasks that have no rows.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`x [batch, ..., in]` -> `[batch, ..., out]`."""
        result = self.base_layer(x, *args, **kwargs)
        route = current_route()
        if route is None or self.disable_adapters:
            return result
        dtype = result.dtype
        if route.index is None:
            result = self._through(route.names[0], x, result)
        elif self._alike(route.names):
            result = result + self._gathered(route, x)
        else:
            result = self._row_by_row(route, x, result)
        return result.to(dtype)

    def _through(self, name: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """All rows through one adapter; `result` is what the base layer gave for them."""
        if name not in self.lora_A:
            return result
        x = self._cast_input_dtype(x, self._down(name).dtype)
        if name in self.lora_variant:
            return self.lora_variant[name].forward(self, active_adapter=name, x=x, result=result)
        low = self.lora_A[name](self.lora_dropout[name](x))
        return result + self.lora_B[name](low) * self.scaling[name]

    def _down(self, name: str) -> torch.Tensor:
        return cast(torch.Tensor, self.lora_A[name].weight)

    def _alike(self, names: tuple[str, ...]) -> bool:
        """Whether the adapters can be stacked: all here, of one shape and dropout, plain LoRA without a bias."""
        if any(name not in self.lora_A or name in self.lora_variant or self.lora_bias[name] for name in names):
            return False
        shapes = {self._down(name).shape for name in names}
        dropouts = {getattr(self.lora_dropout[name], "p", 0.0) for name in names}
        return len(shapes) == 1 and len(dropouts) == 1

    def _gathered(self, route: Route, x: torch.Tensor) -> torch.Tensor:
        down = torch.stack([self._down(name) for name in route.names])
        up = torch.stack([self.lora_B[name].weight * self.scaling[name] for name in route.names])
        x = self.lora_dropout[route.names[0]](self._cast_input_dtype(x, down.dtype))
        index = route.index_of(x)
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        low = torch.bmm(rows, down[index].transpose(1, 2))
        return torch.bmm(low, up[index].transpose(1, 2)).reshape(*x.shape[:-1], up.shape[1])

    def _row_by_row(self, route: Route, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """One sub-batch an adapter, for adapters that cannot be stacked (DoRA, ranks that differ)."""
        whole = Route(route.names, route.index_of(x))
        parts = [whole.rows(i) for i in range(len(route.names))]
        done = [self._through(name, x[rows], result[rows]) for name, rows in zip(route.names, parts, strict=True)]
        return torch.cat(done)[torch.argsort(torch.cat(parts))]
