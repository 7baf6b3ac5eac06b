"""Tasks whose adapters in a layer can be one product: what the layer looks up once of them, and not for each batch."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import nn

__all__ = ["Together"]


class Together:
    """The adapters of these tasks in a layer of peft's, all of one shape and dropout.

    Args:
        names: the tasks.
        held: under which of peft's names the rank, scale and dropout of each are.
        dropouts: peft's, of the layer.
    """

    def __init__(self, names: Sequence[str], held: Sequence[str], dropouts: nn.ModuleDict):
        dropout = dropouts[held[0]]
        self._dropout = dropout if isinstance(dropout, nn.Dropout) else None
        self._pick = itemgetter(*names) if len(names) > 1 else _one(names[0])
        self._pick_held = itemgetter(*held) if len(held) > 1 else _one(held[0])
        self._found: list[tuple[Any, list[dict[str, Any]]]] = [((), []), ((), [])]

    def drops(self) -> bool:
        """Whether dropout changes what the adapters are given."""
        return self._dropout is not None and self._dropout.training and self._dropout.p > 0

    def of(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The value of each task, of those that peft holds by name."""
        return self._pick_held(values)

    def weights(self, downs: nn.Module, ups: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A and B of each task, as they are now in peft's `lora_A` and `lora_B`.

        With many tasks the way to the parameters, over modules and their dicts, takes as long as the products of a few
        words. Where the modules are those of the last time, so are their dicts.
        """
        return self._weights(0, downs._modules), self._weights(1, ups._modules)

    def _weights(self, kind: int, modules: Any) -> list[torch.Tensor]:
        found, (known, places) = self._pick(modules), self._found[kind]
        if found != known:
            places = [module._parameters for module in found]
            self._found[kind] = found, places
        return [parameters["weight"] for parameters in places]


def _one(name: str) -> Callable[[Any], tuple[Any]]:
    """`itemgetter` of a single item gives it bare."""
    return lambda values: (values[name],)
