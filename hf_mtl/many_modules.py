"""Ways through all modules that each training step takes: with many tasks' adapters they are thousands.

torch's own `train()` and `zero_grad()` take 40 and 30 ms with 128 tasks, a quarter as long as a step of 16 short texts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import Self

__all__ = ["ManyModulesMixin"]


@dataclass
class _Known:
    """What is known of a model whose modules stay what they are."""

    parameters: list[nn.Parameter] | None = None
    mode: bool | None = None  # that all modules were set to last


# Not in the model: a copy of it is a model of its own.
_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


class ManyModulesMixin(PreTrainedModel):
    """What `nn.Module` does, in less time."""

    @contextmanager
    def keeping_modules(self) -> Iterator[None]:
        """Inside, the model's modules and parameters stay the objects that they are; their values may change.

        So they need not be looked for in each step: `every_parameter()` and `zero_grad()` go through a list, and
        `train()` leaves alone what is inside of adapters that are in that mode already. Tasks may come and go.
        """
        if self in _known:
            yield
            return
        _known[self] = _Known()
        try:
            yield
        finally:
            del _known[self]

    def _forget_modules(self) -> None:
        """To be called where there are other modules or parameters than before."""
        if self in _known:
            _known[self] = _Known()

    def every_parameter(self) -> list[nn.Parameter]:
        """All parameters, each once; see `keeping_modules`."""
        known = _known.get(self)
        if known is None:
            return [*self.parameters()]
        if known.parameters is None:
            known.parameters = [*self.parameters()]
        return known.parameters

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes the gradients of all parameters away, or fills them with zeros."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        if self in _known:
            for parameter in self.every_parameter():
                if parameter.grad is not None:
                    parameter.grad = None
            return
        modules: list[Any] = [self]
        seen = set()
        for module in modules:  # which grows meanwhile
            held = vars(module)
            if "_modules" not in held:  # a compiled one
                module.zero_grad()
                continue
            for parameter in held["_parameters"].values():
                if parameter is not None:
                    parameter.grad = None
            children = held["_modules"]
            if children and id(module) not in seen:
                seen.add(id(module))
                modules.extend([child for child in children.values() if child is not None])

    def train(self, mode: bool = True) -> Self:
        """Sets all modules to training, or to evaluation."""
        if not isinstance(mode, bool) or self.use_kernels:
            return super().train(mode)  # torch's error; transformers chooses kernels anew
        known = _known.get(self)
        alike = known is not None and known.mode is mode
        if known is not None:
            known.mode = mode
        self.training = mode
        modules: list[Any] = [*self._modules.values()]
        for module in modules:
            if module is None:
                continue
            held, kind = vars(module), cast(Any, type(module))
            if "train" in held or not _is_plain(kind) or held.get("_use_kernels"):
                module.train(mode)
                continue
            held["training"] = mode
            children = held["_modules"].values()
            if alike and _holds_adapters(kind):
                children = [child for child in children if not _is_done(child, mode)]
            modules.extend(children)
        return self


def _is_done(child: Any, mode: bool) -> bool:
    """Whether it holds adapters by their tasks' names, and was set to the mode before, so they were too."""
    return type(child) is nn.ModuleDict and child.training is mode


@cache
def _holds_adapters(kind: Any) -> bool:
    return hasattr(kind, "adapter_layer_names")  # of peft's layers


@cache
def _is_plain(kind: Any) -> bool:
    """Whether modules of this class have torch's own `train`, and what it sets is an attribute like others."""
    own = kind.train not in (nn.Module.train, PreTrainedModel.train) or hasattr(kind, "training")
    return not own and not issubclass(kind, torch.jit.ScriptModule)
