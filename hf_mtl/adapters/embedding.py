"""The table of tokens with low-rank weights, each row of a batch through its own task's: E[x] + s A(t)^T[x] B(t)^T."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.lora import Embedding

from .routed import RoutedLayer, redraw_lora
from .routing import Route, current_route
from .stacking import weights_for

__all__ = ["RoutedEmbedding"]


class RoutedEmbedding(Embedding, RoutedLayer):
    """peft's LoRA of an embedding with another forward: parameters, initialisation and keys are peft's own.

    Outside a route it is the bare table. A task's A has a column for each token; of it only the columns of the tokens
    in its own rows are read, so that nothing of the size of tasks x vocabulary is ever made.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`x [batch, seq]` token ids -> `[batch, seq, width]`."""
        result = cast(torch.Tensor, self.base_layer(x, *args, **kwargs))
        route = current_route()
        if route is None or self.disable_adapters:
            return result
        if route.index is None:
            return self._through(route.names[0], x, result).to(result.dtype)
        if len(x) != len(route.index):
            route = Route(route.names, route.index_of(x))
        if self._alike(route.names):
            return self._together(route, x, result).to(result.dtype)
        parts = [route.rows(i) for i in range(len(route.names))]
        done = [self._through(name, x[rows], result[rows]) for name, rows in zip(route.names, parts, strict=True)]
        return torch.cat(done)[torch.argsort(torch.cat(parts))].to(result.dtype)

    def has(self, name: str) -> bool:
        return name in self.lora_embedding_A

    def weights(self, names: Sequence[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A `[r, vocabulary]` and B `[width, r]` of each of these tasks."""
        return [self.lora_embedding_A[name] for name in names], [self.lora_embedding_B[name] for name in names]

    def scale_of(self, name: str) -> float:
        """What a task's low-rank products are multiplied by."""
        return float(self.scaling[name])

    def redraw(self, name: str) -> None:
        redraw_lora(self, name)

    def _through(self, name: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """All rows through one adapter; `result` is what the table gave for them."""
        if not self.has(name):
            return result
        if name in self.lora_variant:
            return self.lora_variant[name].forward(self, active_adapter=name, x=x, result=result)
        return result + self._columns(name, x) @ self.lora_embedding_B[name].T

    def _alike(self, names: Sequence[str]) -> bool:
        """Whether the adapters can be stacked: all here, of one rank, plain LoRA."""
        ranks = {self.r.get(name) for name in names}
        return len(ranks) == 1 and None not in ranks and not any(name in self.lora_variant for name in names)

    def _together(self, route: Route, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        if route.even:
            parts = x.chunk(len(route.names))
            low = torch.cat([self._columns(name, ids) for name, ids in zip(route.names, parts, strict=True)])
        else:
            rows = [route.rows(i) for i in range(len(route.names))]
            found = [self._columns(name, x[own]) for name, own in zip(route.names, rows, strict=True)]
            low = torch.cat(found)[torch.argsort(torch.cat(rows))]
        up = weights_for(route, self.weights(route.names)[1])
        return result + torch.bmm(low.reshape(len(up), -1, low.shape[-1]), up.transpose(1, 2)).view(result.shape)

    def _columns(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """`[..., r]`: the tokens' columns of A, times the scale and what the table itself is multiplied by."""
        low = self._embed(x, self.lora_embedding_A[name].T) * self.scaling[name]
        factor = self._get_embed_scale()
        return low if factor is None else low * factor.to(low.dtype)
