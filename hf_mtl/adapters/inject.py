"""Adapters put into a backbone, one for each task: peft's configuration and layers, our forward."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from .composing import START, Composition
from .embedding import RoutedEmbedding
from .layers import MORE, RoutedLinear
from .neighbours import lie_close
from .routed import RoutedLayer
from .scaling import RoutedIA3
from .settings import starts_from_base
from .targets import check_embeddings, check_scaling, check_targets, check_tied

__all__ = [
    "KEPT_IN_32_BITS",
    "adapter_layers",
    "adapter_parameters",
    "check_adapters",
    "delete_adapter",
    "inject_adapters",
    "order_adapters",
    "parameters_by_adapter",
    "recompose",
    "reset_missing",
    "task_of_key",
]

# What layers keep adapters in: in 16 bits small steps would be lost.
KEPT_IN_32_BITS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", *MORE, "ia3_l")


def check_adapters(
    backbone: nn.Module,
    config: LoraConfig | IA3Config,
    composition: Composition | None = None,
    whole: nn.Module | None = None,
) -> None:
    """Looks at where adapters would be put, before anything is changed; as for `inject_adapters`."""
    check_targets(backbone, config.target_modules)
    check_embeddings(backbone if whole is None else whole, backbone, config, composition)
    check_tied(backbone if whole is None else whole, backbone, config)
    if isinstance(config, IA3Config):
        check_scaling(backbone, config)


def inject_adapters(
    backbone: nn.Module,
    config: LoraConfig | IA3Config,
    names: Sequence[str],
    composition: Composition | None = None,
    whole: nn.Module | None = None,
) -> None:
    """Wraps the target layers in place and gives each an adapter for every name.

    Args:
        backbone: or a part of it.
        config: of each adapter.
        names: of the adapters; those that are there already are left alone.
        composition: what tasks' adapters are made of; None: each is its own.
        whole: what the backbone is a part of, if it is one: weights may be tied to those outside it.

    Raises:
        ValueError: nothing matches the targets, or a target cannot be routed.
    """
    check_adapters(backbone, config, composition, whole)
    known = {name for layer in adapter_layers(backbone) for name in layer.held()}
    names = [name for name in names if name not in known]
    composed = [] if composition is None else [n for n in names if n not in (*composition.shared(), *composition.apart)]
    start, config = getattr(config, "init_lora_weights", True), copy.deepcopy(config)
    if isinstance(config, LoraConfig) and starts_from_base(start):
        config.init_lora_weights = True
    with _one_at_a_time(backbone) as hide:
        for name in names:
            if name in composed and composition is not None and not composition.private():
                continue  # peft has no part in it
            own = copy.deepcopy(config)
            with warnings.catch_warnings():
                # peft warns of a second adapter in one model, which is what is wanted here.
                warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
                if isinstance(own, IA3Config):
                    RoutedIA3(backbone, own, adapter_name=name)
                else:
                    own._register_custom_module(_FACTORIES)
                    inject_adapter_in_model(own, backbone, adapter_name=name)
            hide()
    for path, module in backbone.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module, RoutedLayer):
            kind = type(module.get_base_layer()).__name__
            raise ValueError(
                f"target_modules={config.target_modules!r} takes in {path!r}, a {kind}: only linear layers and the "
                "table of tokens can be routed. Name those, or use target_modules='all-linear'."
            )
    for own_parameters in parameters_by_adapter(backbone, names).values():
        for parameter in own_parameters:
            # peft gives them the base layer's dtype, in which small steps are lost: bfloat16 keeps 8 bits. First of
            # all, as what follows copies from one into the other.
            parameter.data = parameter.data.float()
    if composition is not None:
        for layer in adapter_layers(backbone):
            if not isinstance(layer, RoutedLinear):
                continue  # check_embeddings has refused them
            if START in names and not layer.lora_A[START].weight.is_meta:
                _take_start(layer, start)
            layer.compose(composition, composed)
    for layer in adapter_layers(backbone):
        for name in names:
            if not any(parameter.is_meta for _, parameter in layer.parameters_of(name)):
                layer.keep(name)
    lie_close(adapter_layers(backbone), names)


@contextmanager
def _one_at_a_time(backbone: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, peft does not see the modules of the adapters that are there, nor of those that were there at the last
    call of what this gives: it goes through all modules several times for each adapter."""
    hidden: dict[nn.ModuleDict, dict[str, nn.Module]] = {}

    def hide() -> None:
        for layer in adapter_layers(backbone):
            for held in layer.children():
                if type(held) is nn.ModuleDict:
                    hidden.setdefault(held, {}).update(cast(Any, held._modules))
                    held._modules.clear()

    hide()
    try:
        yield hide
    finally:
        for held, modules in hidden.items():
            later = dict(held._modules)
            held._modules.clear()
            held._modules.update(modules | later)


def recompose(backbone: nn.Module, composition: Composition | None) -> None:
    """Says anew which tasks are composed, under other names than before."""
    for layer in adapter_layers(backbone):
        if layer.composition is not None:
            layer.composition = composition


def order_adapters(backbone: nn.Module, names: Sequence[str]) -> None:
    """Puts the adapters of each layer into this order, others behind them.

    A checkpoint knows an optimizer's state by the places of the parameters alone: they must be the same in a model
    whose tasks came one after the other, and in one that is loaded with all of them.
    """
    places = {name: place for place, name in enumerate(names)}
    for layer in adapter_layers(backbone):
        for kind in layer.adapter_layer_names:
            held: Any = getattr(layer, kind)
            items = sorted(held.items(), key=lambda item: places.get(item[0], len(places)))
            if [name for name, _ in items] != list(held):
                held.clear()
                for name, item in items:
                    held[name] = item


def _take_start(layer: RoutedLinear, init: Any) -> None:
    """Gives what all tasks start from its values by peft's rule, and the base weight back what that took out of it."""
    weight = cast(torch.Tensor, layer.get_base_layer().weight)
    if (rank := layer.r[START]) > min(weight.shape):
        raise ValueError(
            f"init_lora_weights={init!r} with r={rank}: a target layer of shape {tuple(weight.shape)} has no more than "
            f"{min(weight.shape)} components to start from. Give a smaller r, or one for such layers in rank_pattern."
        )
    before = weight.data
    weight.data = before.clone()  # some of peft's rules change it in place
    if init == "olora":
        if layer.fan_in_fan_out:  # of which this rule does not know
            weight.data = weight.data.T
        layer.olora_init(START)
    elif starts_from_base(init):
        layer.pissa_init(START, init)
    weight.data = before


def _linear(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> RoutedLinear:
    config.fan_in_fan_out = False
    return RoutedLinear(target, adapter_name, config=config, **kwargs)


def _conv1d(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> RoutedLinear:
    config.fan_in_fan_out = True  # Conv1D keeps its weight transposed
    return RoutedLinear(target, adapter_name, config=config, is_target_conv_1d_layer=True, **kwargs)


def _embedding(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> RoutedEmbedding:
    config.fan_in_fan_out = False
    return RoutedEmbedding(target, adapter_name, config=config, **kwargs)


_FACTORIES: Any = {nn.Linear: _linear, Conv1D: _conv1d, nn.Embedding: _embedding}


def adapter_layers(backbone: nn.Module) -> Iterator[RoutedLayer]:
    """All routed layers."""
    return (module for module in backbone.modules() if isinstance(module, RoutedLayer))


def adapter_tensors(backbone: nn.Module, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that layers hold under an adapter's or a task's name, by their place in the backbone."""
    for path, layer in backbone.named_modules():
        if isinstance(layer, RoutedLayer):
            yield from ((f"{path}.{place}", parameter) for place, parameter in layer.parameters_of(name))


def task_of_key(key: str) -> str | None:
    """Whose a model's parameter is, by its name: the name of a task, or of what tasks share; None: the backbone's."""
    pieces = key.split(".")
    if pieces[0] == "heads":
        return pieces[1]
    return next((name for kind, name in pairwise(pieces) if kind.startswith(("lora_", "ia3_"))), None)


def adapter_parameters(backbone: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters of one task's adapter."""
    return parameters_by_adapter(backbone, [name])[name]


def parameters_by_adapter(backbone: nn.Module, names: Iterable[str]) -> dict[str, list[nn.Parameter]]:
    """The parameters of several tasks' adapters, in one way through the layers."""
    found: dict[str, list[nn.Parameter]] = {name: [] for name in names}
    for layer in adapter_layers(backbone):
        for name, own in found.items():
            own += [parameter for _, parameter in layer.parameters_of(name)]
    return found


def delete_adapter(backbone: nn.Module, name: str) -> None:
    """Takes one task's adapter out of every layer."""
    with warnings.catch_warnings():
        # peft says which adapter is active next; here none is ever active.
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        for layer in adapter_layers(backbone):
            layer.delete_adapter(name)
    for module in backbone.modules():  # an encoder-decoder's encoder may have tasks of its own
        vars(module).get("peft_config", {}).pop(name, None)


def reset_missing(backbone: nn.Module) -> None:
    """Draws the adapters that a checkpoint did not fill (those of tasks it does not know).

    Raises:
        ValueError: a DoRA adapter is missing: its magnitudes come from the base weights, which are not at hand here.
    """
    for layer in adapter_layers(backbone):
        layer.fill_missing()
