"""A task's low-rank weights composed of what tasks share and of what is its own.

Whatever is shared, in the end a row of task t is given `B(t) A(t) x`: a composition says what A(t) and B(t) are. So all
of them cost the same two products a layer, and each can be written out as the plain adapter that it amounts to.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributions.relaxed_bernoulli import RelaxedBernoulli

__all__ = ["ALL", "START", "Composition", "FromStart", "MtlLora", "Poly", "SharedAndPrivate"]

# The names of what is all tasks': an adapter that learns, and one that they started from. No task can be called so.
ALL = "+all"
START = "+start"

Weights = tuple[list[torch.Tensor], list[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Of what a task's weights are made. Its fields are the options of `sharing`, but for the first.

    Args:
        apart: the tasks that have plain adapters of their own, and share nothing.
    """

    apart: frozenset[str] = frozenset()

    @classmethod
    def options(cls) -> list[str]:
        """The names of the options."""
        return [field.name for field in dataclasses.fields(cls) if field.name != "apart"]

    @abstractmethod
    def shared(self) -> list[str]:
        """peft's names of the adapters that are all tasks'."""

    @abstractmethod
    def private(self) -> bool:
        """Whether a task has an adapter of its own as well, under its name."""

    @abstractmethod
    def begin(self, layer: Any, task: str | None) -> None:
        """Makes in a layer the parameters that are no adapter's of peft: a task's; None: those of all tasks."""

    @abstractmethod
    def reset(self, layer: Any, task: str | None) -> None:
        """Gives what `begin` makes the values that training starts from."""

    @abstractmethod
    def weights(self, layer: Any, tasks: Sequence[str]) -> Weights:
        """`A(t) [r, in]` and `B(t) [out, r]` of each of these tasks."""


@dataclass(frozen=True, kw_only=True)
class SharedAndPrivate(Composition):
    """One adapter for all tasks and one for each, added up: `B A x + B(t) A(t) x`."""

    def shared(self) -> list[str]:
        return [ALL]

    def private(self) -> bool:
        return True

    def begin(self, layer: Any, task: str | None) -> None:
        """Nothing: both are peft's."""

    def reset(self, layer: Any, task: str | None) -> None:
        """Nothing, likewise."""

    def weights(self, layer: Any, tasks: Sequence[str]) -> Weights:
        down, up = layer.lora_A[ALL].weight, layer.lora_B[ALL].weight
        downs = [torch.cat([down, layer.lora_A[task].weight]) for task in tasks]
        return downs, [torch.cat([up, layer.lora_B[task].weight], dim=1) for task in tasks]


@dataclass(frozen=True, kw_only=True)
class FromStart(Composition):
    """An adapter for each task that starts from the base weight's own components: `B(t) A(t) x - B A x`.

    peft's PiSSA and OLoRA take what they put into an adapter out of the base weight, which here is all tasks'. So the
    base weight stays, and what all tasks started from, which does not learn, is taken off in the product.
    """

    def shared(self) -> list[str]:
        return [START]

    def private(self) -> bool:
        return True

    def begin(self, layer: Any, task: str | None) -> None:
        """Nothing: all of it is peft's."""

    def reset(self, layer: Any, task: str | None) -> None:
        """A task starts where all do."""
        if task is not None:
            with torch.no_grad():
                for held in (layer.lora_A, layer.lora_B):
                    held[task].weight.copy_(held[START].weight)

    def weights(self, layer: Any, tasks: Sequence[str]) -> Weights:
        down, up = layer.lora_A[START].weight, -layer.lora_B[START].weight
        downs = [torch.cat([layer.lora_A[task].weight, down]) for task in tasks]
        return downs, [torch.cat([layer.lora_B[task].weight, up], dim=1) for task in tasks]


@dataclass(frozen=True, kw_only=True)
class MtlLora(Composition):
    """MTL-LoRA (Yang et al., 2024, arXiv:2410.09437): `sum_i softmax(w(t) / temperature)_i B_i L(t) A x`.

    A is all tasks', L(t) is a task's square matrix, and a task weighs the B_i, which are all tasks', in its own way.

    Args:
        ups: how many B_i there are.
        temperature: of the weights; small ones let a task choose.
    """

    ups: int = 3
    temperature: float = 0.5

    def __post_init__(self) -> None:
        _at_least(self, "ups", 1)
        if not isinstance(self.temperature, int | float) or not self.temperature > 0:
            raise ValueError(f"sharing_options.temperature must be a number above 0, got {self.temperature!r}.")

    def shared(self) -> list[str]:
        return [ALL]

    def private(self) -> bool:
        return False

    def begin(self, layer: Any, task: str | None) -> None:
        rank, first = layer.r[ALL], layer.lora_B[ALL].weight
        if task is None:
            layer.lora_up[ALL] = nn.Parameter(first.new_empty(self.ups - 1, *first.shape))
        else:
            layer.lora_core[task] = nn.Parameter(first.new_empty(rank, rank))
            layer.lora_gate[task] = nn.Parameter(first.new_empty(self.ups))

    def reset(self, layer: Any, task: str | None) -> None:
        if task is None:
            nn.init.zeros_(layer.lora_up[ALL])
        else:
            nn.init.eye_(layer.lora_core[task])
            # Alike at first, but not the same: B_i of equal weights would get equal gradients, and stay one.
            nn.init.normal_(layer.lora_gate[task], std=self.temperature)

    def weights(self, layer: Any, tasks: Sequence[str]) -> Weights:
        cores = torch.stack([layer.lora_core[task] for task in tasks])
        shares = torch.stack([layer.lora_gate[task] for task in tasks]).div(self.temperature).softmax(dim=-1)
        ups = torch.cat([layer.lora_B[ALL].weight[None], layer.lora_up[ALL]])
        return _mixed(cores @ layer.lora_A[ALL].weight, shares, ups)


@dataclass(frozen=True, kw_only=True)
class Poly(Composition):
    """Polytropon (Ponti et al., 2022, arXiv:2202.13914): an inventory of skills, of which every task takes its own mix.

    `A(t) = sum_j z(t, j) A_j`, B(t) likewise. z is learned in each layer: in training each of a task's skills is drawn
    (relaxed Bernoulli), otherwise its probability counts; a task's shares add up to 1.

    Args:
        skills: how many there are.
    """

    skills: int = 8

    def __post_init__(self) -> None:
        _at_least(self, "skills", 2)

    def shared(self) -> list[str]:
        return [f"+{k}" for k in range(self.skills)]

    def private(self) -> bool:
        return False

    def begin(self, layer: Any, task: str | None) -> None:
        if task is not None:
            layer.lora_gate[task] = nn.Parameter(layer.lora_B["+0"].weight.new_empty(self.skills))

    def reset(self, layer: Any, task: str | None) -> None:
        if task is not None:
            nn.init.uniform_(layer.lora_gate[task], -1e-3, 1e-3)

    def weights(self, layer: Any, tasks: Sequence[str]) -> Weights:
        logits = torch.stack([layer.lora_gate[task] for task in tasks])
        if layer.training:
            # Its arguments are not looked at: that would wait for a device.
            found = RelaxedBernoulli(logits.new_ones(()), logits=logits, validate_args=False).rsample()
        else:
            found = logits.sigmoid()
        shares = found / found.sum(dim=-1, keepdim=True).clamp(min=1e-12)
        downs = torch.stack([layer.lora_A[name].weight for name in self.shared()])
        ups = torch.stack([layer.lora_B[name].weight for name in self.shared()])
        return _mixed((shares @ downs.flatten(1)).view(len(tasks), *downs.shape[1:]), shares, ups)


def _mixed(downs: torch.Tensor, shares: torch.Tensor, ups: torch.Tensor) -> Weights:
    """`downs [tasks, r, in]` as they are, and of `ups [parts, out, r]` the sums by `shares [tasks, parts]`."""
    return list(downs.unbind()), list((shares @ ups.flatten(1)).view(len(shares), *ups.shape[1:]).unbind())


def _at_least(options: Composition, name: str, least: int) -> None:
    value = getattr(options, name)
    if not isinstance(value, int) or value < least:
        raise ValueError(f"sharing_options.{name} must be a whole number of at least {least}, got {value!r}.")
