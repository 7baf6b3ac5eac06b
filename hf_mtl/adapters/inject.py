"""Adapters put into a backbone, one for each task: peft's configuration and layers, our forward."""

import copy
import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast, get_type_hints

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..nearest import nearest
from .composing import ALL, START, Composition
from .layers import MORE, RoutedLinear

__all__ = [
    "adapter_fields",
    "adapter_from_dict",
    "adapter_layers",
    "adapter_parameters",
    "adapter_to_dict",
    "delete_adapter",
    "inject_adapters",
    "reset_missing",
    "starts_from_base",
    "task_of_key",
]

# Initialisations that leave the base weights alone. The others (CorDA, LoftQ, ...) change them or need data, and the
# base weights are all tasks'. For those that take out of them what they put into the adapter see `FromStart`.
_INITS = (True, False, "gaussian", "orthogonal")
_FROM_BASE = ("olora", "pissa")

# Fields of a peft config that say what it is and where it was used, not how it should be.
_NOT_SETTINGS = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config",
)  # fmt: skip


def adapter_to_dict(config: PeftConfig | None) -> dict[str, Any] | None:
    """A peft config as JSON values: its `peft_type`, `r`, `lora_alpha`, and what differs from peft's defaults.

    Raises:
        ValueError: a kind of adapter, or a setting of it, that cannot be routed.
    """
    if config is None:
        return None
    if not isinstance(config, LoraConfig):
        raise ValueError(f"adapters must be a peft LoraConfig, or None for no adapters, got {type(config).__name__}.")
    if config.init_lora_weights not in _INITS and not starts_from_base(config.init_lora_weights):
        raise ValueError(
            f"init_lora_weights={config.init_lora_weights!r} changes the backbone's own weights, which all tasks "
            f"share, or needs data. Use one of {[*_INITS, *_FROM_BASE, 'pissa_niter_16']}."
        )
    if config.bias != "none":
        raise ValueError(f"bias={config.bias!r} trains the backbone's own biases, which all tasks share. Use 'none'.")
    for field in ("modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters"):
        if getattr(config, field):
            raise ValueError(
                f"{field}={getattr(config, field)!r} cannot be kept per task: leave it out of the adapters."
            )
    default = LoraConfig().to_dict()
    values = {k: _plain(v) for k, v in config.to_dict().items()}
    kept = {k: v for k, v in values.items() if k in ("peft_type", "r", "lora_alpha") or v != _plain(default[k])}
    return {k: v for k, v in kept.items() if k not in ("base_model_name_or_path", "inference_mode", "revision")}


def starts_from_base(init: Any) -> bool:
    """Whether this value of `init_lora_weights` takes an adapter's values out of the base weight."""
    return isinstance(init, str) and (init in _FROM_BASE or re.fullmatch(r"pissa_niter_\d+", init) is not None)


def adapter_from_dict(values: dict[str, Any] | None) -> LoraConfig | None:
    """The inverse of `adapter_to_dict`."""
    if values is None:
        return None
    return LoraConfig(**{k: v for k, v in values.items() if k != "peft_type"})


def adapter_fields() -> dict[str, Any]:
    """The settings of an adapter that a user may give, by peft's names: field -> its type."""
    hints = get_type_hints(LoraConfig)
    return {f.name: hints[f.name] for f in dataclasses.fields(LoraConfig) if f.name not in _NOT_SETTINGS}


def _plain(value: Any) -> Any:
    value = sorted(value) if isinstance(value, set) else value
    return getattr(value, "value", value)


def inject_adapters(
    backbone: nn.Module, config: LoraConfig, names: Sequence[str], composition: Composition | None = None
) -> None:
    """Wraps the target layers in place and gives each an adapter for every name.

    Args:
        backbone: or a part of it.
        config: of each adapter.
        names: of the adapters; those that are there already are left alone.
        composition: what tasks' adapters are made of; None: each is its own.

    Raises:
        ValueError: nothing matches the targets, or a target is no linear layer.
    """
    _check_targets(backbone, config.target_modules)
    known = {name for layer in adapter_layers(backbone) for name in layer.lora_A}
    names = [name for name in names if name not in known]
    tasks = [] if composition is None else [name for name in names if name not in composition.shared()]
    start, config = config.init_lora_weights, copy.deepcopy(config)
    if starts_from_base(start):
        config.init_lora_weights = True
    for name in names:
        if name in tasks and composition is not None and not composition.private():
            continue  # peft has no part in it
        own = copy.deepcopy(config)
        factories: Any = {nn.Linear: _linear, Conv1D: _conv1d}
        own._register_custom_module(factories)
        with warnings.catch_warnings():
            # peft warns of a second adapter in one model, which is what is wanted here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            inject_adapter_in_model(own, backbone, adapter_name=name)
    for path, module in backbone.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module, RoutedLinear):
            kind = type(module.get_base_layer()).__name__
            raise ValueError(
                f"target_modules={config.target_modules!r} takes in {path!r}, a {kind}: only linear layers can "
                "be routed. Name the linear layers, or use target_modules='all-linear'."
            )
    for name in names:
        for parameter in adapter_parameters(backbone, name):
            # peft gives them the base layer's dtype, in which small steps are lost: bfloat16 keeps 8 bits. First of
            # all, as what follows copies from one into the other.
            parameter.data = parameter.data.float()
    if composition is not None:
        for layer in adapter_layers(backbone):
            if START in names and not layer.lora_A[START].weight.is_meta:
                _take_start(layer, start)
            layer.compose(composition, tasks)
    for layer in adapter_layers(backbone):
        for name in layer.lora_A:
            if name in names and not layer.lora_A[name].weight.is_meta:
                _keep(layer, name)


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


def _check_targets(backbone: nn.Module, targets: str | Iterable[str] | None) -> None:
    """Raises ValueError where no module of the backbone has such a name, which peft says without the names."""
    if not targets or targets == "all-linear":
        return
    modules = dict(backbone.named_modules())
    if isinstance(targets, str):
        found = any(re.fullmatch(targets, path) for path in modules)
    else:
        found = any(path == target or path.endswith(f".{target}") for target in targets for path in modules)
    if not found:
        linear = {path.rpartition(".")[2] for path, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
        asked = targets if isinstance(targets, str) else sorted(targets)
        raise ValueError(
            f"target_modules={asked!r} fits no module of the backbone ({type(backbone).__name__}). Of its linear "
            f"layers: {nearest(asked if isinstance(asked, str) else asked[0], sorted(linear))}"
        )


def _linear(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> RoutedLinear:
    config.fan_in_fan_out = False
    return RoutedLinear(target, adapter_name, config=config, **kwargs)


def _conv1d(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> RoutedLinear:
    config.fan_in_fan_out = True  # Conv1D keeps its weight transposed
    return RoutedLinear(target, adapter_name, config=config, is_target_conv_1d_layer=True, **kwargs)


def _keep(layer: RoutedLinear, name: str) -> None:
    """Keeps transformers from drawing an adapter that has its values.

    It would initialise the two like any linear layer, and an adapter whose B is not zero changes the backbone's
    answers before it has learned anything.
    """
    for module in (layer.lora_A[name], layer.lora_B[name]):
        module.__dict__["_is_hf_initialized"] = True


def adapter_layers(backbone: nn.Module) -> Iterator[RoutedLinear]:
    """All routed layers."""
    return (module for module in backbone.modules() if isinstance(module, RoutedLinear))


def adapter_tensors(backbone: nn.Module, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that layers hold under an adapter's or a task's name, by their place in the backbone."""
    for path, layer in backbone.named_modules():
        for kind in layer.adapter_layer_names if isinstance(layer, RoutedLinear) else ():
            held = getattr(layer, kind)
            if name in held:
                item = held[name]
                own = item.named_parameters() if isinstance(item, nn.Module) else [("", item)]
                yield from ((f"{path}.{kind}.{leaf}".rstrip("."), parameter) for leaf, parameter in own)


def task_of_key(key: str) -> str | None:
    """Whose a model's parameter is, by its name: the name of a task, or of what tasks share; None: the backbone's."""
    pieces = key.split(".")
    if pieces[0] == "heads":
        return pieces[1]
    return next((name for kind, name in pairwise(pieces) if kind.startswith("lora_")), None)


def adapter_parameters(backbone: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters of one task's adapter."""
    return [parameter for _, parameter in adapter_tensors(backbone, name)]


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
        _reset_composed(layer)
        for name in layer.lora_A:
            down, up = layer.lora_A[name], layer.lora_B[name]
            loaded = all(getattr(p, "_is_hf_initialized", False) for p in (down.weight, up.weight))
            if not loaded and not getattr(down, "_is_hf_initialized", False):
                if name in layer.lora_variant:
                    raise ValueError(
                        f"The checkpoint has no adapter for task {name!r}, and a DoRA adapter cannot be made while "
                        "loading. Load the model with the tasks it has, then call model.add_task(...)."
                    )
                with torch.no_grad():
                    layer.reset_lora_parameters(name, True)
                    if layer.composition is not None and name not in layer.composition.shared():
                        layer.composition.reset(layer, name)
            _keep(layer, name)


def _reset_composed(layer: RoutedLinear) -> None:
    composition = layer.composition
    if composition is None:
        return
    for name in {name for kind in MORE for name in getattr(layer, kind)}:
        own = [getattr(layer, kind)[name] for kind in MORE if name in getattr(layer, kind)]
        if not all(getattr(parameter, "_is_hf_initialized", False) for parameter in own):
            with torch.no_grad():
                composition.reset(layer, None if name == ALL else name)
