"""Adapters put into a backbone, one for each task: peft's configuration and layers, our forward."""

import copy
import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast, get_type_hints

import torch
from peft import IA3Config, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from .composing import ALL, START, Composition
from .embedding import RoutedEmbedding
from .layers import MORE, RoutedLinear
from .routed import RoutedLayer
from .scaling import RoutedIA3
from .targets import check_embeddings, check_scaling, check_targets

__all__ = [
    "ADAPTERS",
    "KEPT_IN_32_BITS",
    "adapter_fields",
    "adapter_from_dict",
    "adapter_layers",
    "adapter_parameters",
    "adapter_to_dict",
    "check_adapters",
    "check_one_kind",
    "delete_adapter",
    "inject_adapters",
    "reset_missing",
    "starts_from_base",
    "task_of_key",
]

# What a recipe calls them -> peft's configs.
ADAPTERS: dict[str, type[LoraConfig] | type[IA3Config]] = {"lora": LoraConfig, "ia3": IA3Config}

# Initialisations that leave the base weights alone. The others (CorDA, LoftQ, ...) change them or need data, and the
# base weights are all tasks'. For those that take out of them what they put into the adapter see `FromStart`.
_INITS = (True, False, "gaussian", "orthogonal")
_FROM_BASE = ("olora", "pissa")

# What layers keep adapters in: in 16 bits small steps would be lost.
KEPT_IN_32_BITS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", *MORE, "ia3_l")

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
    if not isinstance(config, LoraConfig | IA3Config):
        raise ValueError(
            f"adapters must be a peft LoraConfig or IA3Config, or None for no adapters, got {type(config).__name__}."
        )
    if isinstance(config, LoraConfig):
        _check_lora(config)
    for field in ("modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters"):
        if getattr(config, field, None):
            raise ValueError(
                f"{field}={getattr(config, field)!r} cannot be kept per task: leave it out of the adapters."
            )
    default = type(config)().to_dict()
    values = {k: _plain(v) for k, v in config.to_dict().items()}
    kept = {k: v for k, v in values.items() if k in ("peft_type", "r", "lora_alpha") or v != _plain(default[k])}
    return {k: v for k, v in kept.items() if k not in ("base_model_name_or_path", "inference_mode", "revision")}


def check_one_kind(settings: Iterable[Mapping[str, Any] | None]) -> None:
    """Raises ValueError where the adapters of one model would be of several kinds: a layer is wrapped by one."""
    kinds = sorted({str(values["peft_type"]) for values in settings if values is not None})
    if len(kinds) > 1:
        raise ValueError(
            f"The adapters of a model are of one kind, and these are of several: {', '.join(kinds)}. Give all tasks a "
            "LoraConfig, or all an IA3Config."
        )


def _check_lora(config: LoraConfig) -> None:
    if config.init_lora_weights not in _INITS and not starts_from_base(config.init_lora_weights):
        raise ValueError(
            f"init_lora_weights={config.init_lora_weights!r} changes the backbone's own weights, which all tasks "
            f"share, or needs data. Use one of {[*_INITS, *_FROM_BASE, 'pissa_niter_16']}."
        )
    if config.bias != "none":
        raise ValueError(f"bias={config.bias!r} trains the backbone's own biases, which all tasks share. Use 'none'.")


def starts_from_base(init: Any) -> bool:
    """Whether this value of `init_lora_weights` takes an adapter's values out of the base weight."""
    return isinstance(init, str) and (init in _FROM_BASE or re.fullmatch(r"pissa_niter_\d+", init) is not None)


def adapter_from_dict(values: dict[str, Any] | None, *, loading: bool = False) -> LoraConfig | IA3Config | None:
    """The inverse of `adapter_to_dict`.

    `loading`: the adapters' values come later; initialisations that read the base weights would have nothing to read.
    """
    if values is None:
        return None
    config = ADAPTERS[str(values.get("peft_type", "LORA")).lower()](
        **{k: v for k, v in values.items() if k != "peft_type"}
    )
    if loading and isinstance(config, LoraConfig):
        config.init_lora_weights = True
    return config


def adapter_fields(kind: str = "lora") -> dict[str, Any]:
    """The settings of an adapter of a kind that a user may give, by peft's names: field -> its type."""
    config = ADAPTERS[kind]
    hints = get_type_hints(config)
    return {f.name: hints[f.name] for f in dataclasses.fields(config) if f.name not in _NOT_SETTINGS}


def _plain(value: Any) -> Any:
    value = sorted(value) if isinstance(value, set) else value
    return getattr(value, "value", value)


def check_adapters(
    backbone: nn.Module,
    config: LoraConfig | IA3Config,
    composition: Composition | None = None,
    whole: nn.Module | None = None,
) -> None:
    """Looks at where adapters would be put, before anything is changed; as for `inject_adapters`."""
    check_targets(backbone, config.target_modules)
    check_embeddings(backbone if whole is None else whole, backbone, config, composition)
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
    tasks = [] if composition is None else [name for name in names if name not in composition.shared()]
    start, config = getattr(config, "init_lora_weights", True), copy.deepcopy(config)
    if isinstance(config, LoraConfig) and starts_from_base(start):
        config.init_lora_weights = True
    for name in names:
        if name in tasks and composition is not None and not composition.private():
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
    for path, module in backbone.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module, RoutedLayer):
            kind = type(module.get_base_layer()).__name__
            raise ValueError(
                f"target_modules={config.target_modules!r} takes in {path!r}, a {kind}: only linear layers and the "
                "table of tokens can be routed. Name those, or use target_modules='all-linear'."
            )
    for name in names:
        for parameter in adapter_parameters(backbone, name):
            # peft gives them the base layer's dtype, in which small steps are lost: bfloat16 keeps 8 bits. First of
            # all, as what follows copies from one into the other.
            parameter.data = parameter.data.float()
    if composition is not None:
        for layer in adapter_layers(backbone):
            if not isinstance(layer, RoutedLinear):
                continue  # check_embeddings has refused them
            if START in names and not layer.lora_A[START].weight.is_meta:
                _take_start(layer, start)
            layer.compose(composition, tasks)
    for layer in adapter_layers(backbone):
        for name in names:
            if not any(parameter.is_meta for _, parameter in layer.parameters_of(name)):
                layer.keep(name)


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
        if not isinstance(layer, RoutedLinear):
            layer.fill_missing()
            continue
        _reset_composed(layer)
        for name in layer.lora_A:
            down, up = layer.lora_A[name], layer.lora_B[name]
            loaded = all(getattr(p, "_is_hf_initialized", False) for p in (down.weight, up.weight))
            if not loaded and not getattr(down, "_is_hf_initialized", False):
                with torch.no_grad():
                    layer.redraw(name)
            layer.keep(name)


def _reset_composed(layer: RoutedLinear) -> None:
    composition = layer.composition
    if composition is None:
        return
    for name in {name for kind in MORE for name in getattr(layer, kind)}:
        own = [getattr(layer, kind)[name] for kind in MORE if name in getattr(layer, kind)]
        if not all(getattr(parameter, "_is_hf_initialized", False) for parameter in own):
            with torch.no_grad():
                composition.reset(layer, None if name == ALL else name)
