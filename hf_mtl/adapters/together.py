"""Tasks whose adapters in a layer can be one product: what the layer looks up once of them, and not for each batch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    """

    def __init__(self, names: Sequence[str], held: Sequence[str]):
        self._first = held[0]
        self._pick, self._pick_held = _picking(names), _picking(held)

    def drops(self, dropouts: nn.Module) -> bool:
        """Whether dropout, as it is now in peft's `lora_dropout`, changes what the adapters are given."""
        dropout = dropouts._modules[self._first]
        return isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0

    def of(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The value of each task, of those that peft holds by name."""
        return self._pick_held(values)

    def weights(self, downs: nn.Module, ups: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A and B of each task, as they are now in peft's `lora_A` and `lora_B`."""
        return self._weights(downs._modules), self._weights(ups._modules)

    def _weights(self, modules: Mapping[str, Any]) -> list[torch.Tensor]:
        found = self._pick(modules)
        try:  # by the dicts: with many tasks the way over the attributes takes as long as the products of a few words
            return [module._parameters["weight"] for module in found]
        except KeyError:  # computed, as torch's parametrizations do
            return [module.weight for module in found]


def _picking(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the items of these names; `itemgetter` gives a single one bare."""
    return itemgetter(*names) if len(names) > 1 else partial(_one, names[0])


def _one(name: str, values: Mapping[str, Any]) -> tuple[Any]:
    return (values[name],)
