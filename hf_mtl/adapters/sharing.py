"""Who shares an adapter with whom, as a model's config says it."""

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..nearest import nearest
from .composing import ALL, START, Composition, FromStart, MtlLora, Poly, SharedAndPrivate
from .routing import Route
from .settings import starts_from_base
from .trunk import stack_of

__all__ = [
    "SHARINGS",
    "adapter_name",
    "adapter_names",
    "check_has_own",
    "check_may_have_own",
    "composition_of",
    "from_layer",
    "known_sharing",
    "learning_names",
    "reads_alike",
    "route_of",
]

# What `sharing` may be -> how a task's adapter is composed; None: it is not, it is peft's own.
SHARINGS: dict[str, type[Composition] | None] = {
    "private": None,
    "shared": None,
    "shared+private": SharedAndPrivate,
    "mtl-lora": MtlLora,
    "poly": Poly,
}


def known_sharing(value: str, options: Mapping[str, Any] | None, adapters: Any) -> str:
    """The value itself, looked at together with its options and the adapters that are to be shared so.

    Raises:
        ValueError: `value` is none of `SHARINGS`, an option is not of it, or the adapters cannot be shared.
    """
    _composition(value, options)
    configs = adapters.values() if isinstance(adapters, Mapping) else [adapters]
    starts = [c.init_lora_weights for c in configs if starts_from_base(getattr(c, "init_lora_weights", None))]
    if starts and (value != "private" or isinstance(adapters, Mapping)):
        raise ValueError(
            f"init_lora_weights={starts[0]!r} goes with sharing='private' and one LoraConfig for all tasks, which all "
            "start from the same values."
        )
    if value == "private":
        return value
    if adapters is None:
        raise ValueError(f"sharing={value!r} is of adapters, and there are none. Give adapters=LoraConfig(...).")
    if isinstance(adapters, Mapping):
        raise ValueError(f"sharing={value!r} has one LoraConfig for all tasks, and adapters is a dict. Give one.")
    if SHARINGS[value] is not None and not isinstance(adapters, LoraConfig):
        raise ValueError(
            f"sharing={value!r} is of low-rank adapters (LoraConfig), got {type(adapters).__name__}: its vectors can "
            "be private or shared."
        )
    for field in ("use_dora", "lora_bias", "use_qalora"):
        if SHARINGS[value] is not None and getattr(adapters, field, False):
            raise ValueError(f"{field}=True goes with sharing='private' or 'shared', not with {value!r}.")
    return value


def _composition(value: str, options: Mapping[str, Any] | None, init: Any = None) -> Composition | None:
    if value not in SHARINGS:
        raise ValueError(f"sharing={value!r} is not known. {nearest(str(value), SHARINGS)}")
    kind = SHARINGS[value]
    if kind is None:
        if options:
            raise ValueError(f"sharing={value!r} has no options, got sharing_options={dict(options)}.")
        return FromStart() if starts_from_base(init) else None
    known = kind.options()
    for name in options or {}:
        if name not in known:
            raise ValueError(f"sharing={value!r} has no option {name!r}. {nearest(str(name), known)}")
    return kind(**(options or {}))


def composition_of(config: Any) -> Composition | None:
    """How a task's adapter is composed of what is shared and what is its own; None: of nothing but its own."""
    if config.adapters is None:
        return None
    found = _composition(config.sharing, config.sharing_options, config.adapters.get("init_lora_weights"))
    return None if found is None else dataclasses.replace(found, apart=frozenset(config.task_adapters or ()))


def from_layer(adapters: Any, first: int, part: nn.Module, layers: int, decoder: nn.Module | None = None) -> Any:
    """A peft config, or a dict of them, whose adapters start at a layer; itself where that is 0.

    The targets become one expression. peft's `layers_to_transform` would take any number in a module's path for that
    of its layer (T5's `block.0.layer.1`), or find none (Llama's `layers.1` without a name before it).

    Args:
        adapters: a peft config, or a dict of them.
        first: the lowest layer that gets adapters.
        part: the part of the backbone that reads texts.
        layers: how many it has.
        decoder: of an encoder-decoder that writes: it has adapters from that layer up too, by its own count.

    Raises:
        ValueError: there is no such layer, there are no adapters, or their config does not go with it.
    """
    if not isinstance(first, int):
        raise ValueError(f"first_layer must be a whole number, a layer from 0, and is {first!r}.")
    if not first:
        return adapters
    if isinstance(adapters, Mapping):
        return {name: v if v is None else from_layer(v, first, part, layers, decoder) for name, v in adapters.items()}
    if adapters is None:
        raise ValueError(f"first_layer={first} is of adapters, and there are none. Give adapters=LoraConfig(...).")
    if not 0 < first < layers:
        of = "backbone" if decoder is None else "encoder"
        raise ValueError(f"first_layer={first}, but the {of} has layers 0 to {layers - 1}.")
    if getattr(adapters, "layers_to_transform", None) is not None:
        raise ValueError("Give first_layer, or layers_to_transform in the adapters' config, not both.")
    targets, found = adapters.target_modules, stack_of(part, layers)
    if found is None:
        raise ValueError(f"first_layer={first}, but the backbone has no list of {layers} layers (ALBERT's are one).")
    path, stack = found
    leaf = path.rpartition(".")[2]
    stacks = [stack] if decoder is None else [stack, _stack_named(decoder, leaf)]
    if first >= len(stacks[-1]):
        raise ValueError(
            f"first_layer={first}, but the decoder has layers 0 to {len(stacks[-1]) - 1}, and none of them would have "
            "an adapter. Give a lower one, or name the layers that are to have adapters, as an expression in "
            "target_modules."
        )
    if targets == "all-linear":
        inside = [item for one in stacks for item in one.named_modules()]
        targets = {name.rpartition(".")[2] for name, m in inside if isinstance(m, nn.Linear | Conv1D)}
    if not targets or isinstance(targets, str):
        raise ValueError(f"With first_layer, target_modules must be 'all-linear' or a list of names, got {targets!r}.")
    adapters = copy.deepcopy(adapters)
    numbers = "|".join(map(str, range(first, max(map(len, stacks)))))
    names = "|".join(map(re.escape, sorted(targets)))
    adapters.target_modules = rf"(.*\.)?{re.escape(leaf)}\.({numbers})\.(.*\.)?({names})"
    return adapters


def _stack_named(decoder: nn.Module, leaf: str) -> nn.ModuleList:
    """The layers of a decoder, which are called as the encoder's."""
    named = decoder.named_modules()
    return next(m for path, m in named if isinstance(m, nn.ModuleList) and path.rpartition(".")[2] == leaf)


def adapter_names(config: Any, tasks: Iterable[str]) -> list[str]:
    """The names under which layers hold what these tasks go through; none without adapters."""
    if config.adapters is None:
        return []
    if config.sharing == "shared":
        return [ALL]
    composition = composition_of(config)
    return [*(() if composition is None else composition.shared()), *tasks]


def learning_names(config: Any, tasks: Iterable[str]) -> list[str]:
    """Those of `adapter_names` whose values learn."""
    return [name for name in adapter_names(config, tasks) if name != START]


def adapter_name(config: Any, task: str) -> str:
    """The name under which layers hold what a task goes through: its own, or that of all."""
    return ALL if config.sharing == "shared" else task


def check_may_have_own(config: Any, task: str, adapter: Any = True) -> None:
    """Raises ValueError where a task cannot be given an adapter of its own, or none (`adapter`): all go through one."""
    if config.adapters is not None and config.sharing == "shared":
        if adapter is None:
            raise ValueError(
                f"Task {task!r} cannot go without an adapter: all rows of this model go through one "
                "(sharing='shared'). Make a model with another sharing, where a task may have none."
            )
        raise ValueError(
            f"Task {task!r} cannot have an adapter of its own: the tasks of this model go through one "
            "(sharing='shared'). Make a model with another sharing, and load the tasks' packs into it: each holds what "
            "its task's adapter amounts to."
        )


def check_has_own(config: Any, task: str) -> None:
    """Raises ValueError where a task's adapter cannot be given values: it is made of what other tasks share."""
    check_may_have_own(config, task)
    composition = composition_of(config)
    if composition is not None and task not in composition.apart:
        shared = f"sharing={config.sharing!r}"
        if config.sharing == "private":
            shared = f"init_lora_weights={config.adapters['init_lora_weights']!r}"
        raise ValueError(
            f"Task {task!r} cannot be given other values: its adapter is made of what the tasks of this model share "
            f"({shared}). Add the task with an adapter of its own: add_task(task, adapter=LoraConfig(...))."
        )


def reads_alike(config: Any) -> bool:
    """Whether a text has the same hidden states for all tasks, so that it is read once."""
    return config.adapters is None or config.sharing == "shared"


def route_of(config: Any, tasks: Sequence[str], index: torch.Tensor | None = None) -> Route | None:
    """The way of a batch whose rows belong to these tasks; see `Route`. None without adapters."""
    if config.adapters is None:
        return None
    return Route([ALL]) if config.sharing == "shared" else Route(tasks, index)
