"""Adapters in peft's own files: `adapter_config.json` and `adapter_model.safetensors`."""

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import IA3Config, LoraConfig, PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from .layers import RoutedLinear
from .routed import RoutedLayer
from .scaling import RoutedScaling
from .settings import adapter_to_dict, starts_from_base

__all__ = ["ADAPTER_FILES", "fill_adapter", "read_adapter", "read_values", "save_adapter", "written_settings"]

logger = logging.getLogger(__name__)

ADAPTER_FILES = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
_PREFIX = "base_model.model."
_IA3 = ".ia3_l"


def written_settings(part: nn.Module, name: str, settings: LoraConfig | IA3Config) -> LoraConfig | IA3Config:
    """The config of the plain adapter that a task's amounts to: its own, but where it is composed of shared ones."""
    ranks = {
        path: len(layer.effective(name)[0])
        for path, layer in _layers(part, name)
        if isinstance(layer, RoutedLinear) and layer.composed(name)
    }
    if not ranks:
        return settings
    config: Any = copy.deepcopy(settings)
    config.r = config.lora_alpha = max(ranks.values())  # the scale is in the values, so that it is 1 here
    config.rank_pattern = {path: rank for path, rank in ranks.items() if rank != config.r}
    config.alpha_pattern = dict(config.rank_pattern)
    config.use_rslora, config.init_lora_weights = False, True
    return cast(LoraConfig, config)


def save_adapter(
    part: nn.Module,
    name: str,
    settings: LoraConfig | IA3Config,
    folder: str | os.PathLike[str],
    base: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes one task's adapter so that `PeftModel.from_pretrained(AutoModel..., folder)` reads it.

    Args:
        part: the part of the backbone that has the adapter; the names in the file are relative to it.
        name: the task's.
        settings: what `written_settings` says.
        folder: made where it is not there.
        base: the backbone's name, for the file.
        dtype: of the values in the file; None: as they are.
    """
    found = dict(_tensors_of(part, name))
    config: Any = copy.deepcopy(settings)
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.task_type = None  # by it peft would open it as a class with a head, which no backbone alone is
    # The layers by their full names: "all-linear", or "dense", would take in a pooler, which has no adapter here.
    config.target_modules = {path for path, layer in _layers(part, name)}
    config.exclude_modules = None
    if isinstance(config, IA3Config):
        config.feedforward_modules = [path for path, layer in _layers(part, name) if _scales_input(layer)]
    else:
        config.layers_to_transform = config.layers_pattern = None
    # GPT-2's Conv1D keeps its weight transposed.
    config.fan_in_fan_out = any(layer.fan_in_fan_out for _, layer in _layers(part, name))
    Path(folder).mkdir(parents=True, exist_ok=True)
    config.save_pretrained(os.fspath(folder))
    values = {key: value.detach().to("cpu", dtype or value.dtype).contiguous() for key, value in found.items()}
    save_file(values, Path(folder, SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})


def _tensors_of(part: nn.Module, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of one task's adapter by their names in peft's files, which do not hold the task's."""
    for path, layer in _layers(part, name):
        if isinstance(layer, RoutedLinear) and layer.composed(name):
            down, up = layer.effective(name)
            yield f"{_PREFIX}{path}.lora_A.weight", down
            yield f"{_PREFIX}{path}.lora_B.weight", up
            continue
        for place, parameter in layer.parameters_of(name):
            # DoRA's magnitudes are a module's here and were none when the format was made.
            yield f"{_PREFIX}{path}.{place.partition('.')[0] if 'magnitude' in place else place}", parameter


def _layers(part: nn.Module, name: str) -> Iterator[tuple[str, RoutedLayer]]:
    for path, module in part.named_modules():
        if isinstance(module, RoutedLayer) and module.has(name):
            yield path, module


def _scales_input(layer: RoutedLayer) -> bool:
    return isinstance(layer, RoutedScaling) and bool(layer.is_feedforward)


def fill_adapter(part: nn.Module, name: str, values: Mapping[str, torch.Tensor]) -> None:
    """Gives a task's adapter the values of a file.

    Raises:
        ValueError: the file lacks values, has others, or they have other shapes.
    """
    own = dict(_tensors_of(part, name))
    if odd := sorted(own.keys() ^ values.keys()):
        side = "lacks" if odd[0] in own else "has"
        raise ValueError(
            f"The adapter for task {name!r} does not fit: the file {side} {odd[0]!r} ({len(odd)} such differences). "
            "It was made for other layers, or is damaged."
        )
    for key, parameter in own.items():
        if parameter.shape != values[key].shape:
            raise ValueError(
                f"The adapter for task {name!r} does not fit: {key!r} has shape {tuple(values[key].shape)}, and the "
                f"backbone's layer wants {tuple(parameter.shape)}. It was made for another backbone."
            )
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(values[key])


def read_adapter(
    folder: str | os.PathLike[str], part: Any, inside: str = ""
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An adapter that plain peft made: its settings for this part of a backbone, and its values by our names.

    The layers are those that the file has values for. What it has for a classifier or a pooler is left out, with a
    warning: no head here reads them.

    Args:
        folder: with peft's two files.
        part: the part of the backbone that gets the adapter.
        inside: how the names of its layers begin in the whole model, of which the file may be: `encoder.`.

    Raises:
        OSError: the file of weights is damaged.
        ValueError: a kind of adapter that cannot be routed, or one for another backbone.
    """
    config = PeftConfig.from_pretrained(os.fspath(folder))
    if not isinstance(config, LoraConfig | IA3Config):
        raise ValueError(f"The adapter in {str(folder)!r} is {config.peft_type}: only LoRA and IA3 can be routed.")
    if isinstance(config, LoraConfig) and starts_from_base(config.init_lora_weights):
        raise ValueError(
            f"The adapter in {str(folder)!r} has init_lora_weights={config.init_lora_weights!r}, which took a part out "
            "of the base weights, and here they are whole. Let peft write it as plain LoRA: save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)."
        )
    known = {path: module for path, module in part.named_modules() if isinstance(module, nn.Module)}
    raw = read_values(Path(folder, SAFETENSORS_WEIGHTS_NAME))
    values: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}  # layer here -> layer as the file names it
    left: list[str] = []
    for key, value in raw.items():
        path, kind, rest = _split(key)
        prefix = f"{part.base_model_prefix}."
        bare = path.removeprefix(prefix)
        here = next((p for p in (path, bare, bare.removeprefix(inside), prefix + path) if p in known), bare)
        if key.endswith(".base_layer.weight"):
            _check_table(folder, key, part, value)
        elif kind and here in known:
            values[f"{_PREFIX}{here}{kind}{rest}"] = value
            places[here] = path
        elif kind and here.partition(".")[0] in known and not here.startswith("pooler"):
            raise ValueError(f"The adapter in {str(folder)!r} is for another backbone: this one has no {here!r}.")
        else:
            left.append(key.removeprefix(_PREFIX))
    if not values:
        raise ValueError(f"The adapter in {str(folder)!r} is for another backbone: no layer here is one of {left[:3]}.")
    for key, value in values.items():
        path, kind, rest = _split(key)
        layer = known[path]
        base = layer.get_base_layer() if isinstance(layer, RoutedLayer) else layer
        wanted = _width(base, "A" if kind == _IA3 and len(value) == 1 else rest)
        fits = wanted in value.shape if kind == _IA3 else value.shape[-1 if _takes_input(rest) else 0] == wanted
        if not fits:
            raise ValueError(
                f"The adapter in {str(folder)!r} is for another backbone: {key.removeprefix(_PREFIX)!r} has shape "
                f"{tuple(value.shape)}, and the layer here is {base}."
            )
    if left:
        logger.warning("Left out of the adapter in %s, as no head here reads it: %s.", folder, ", ".join(left))
    return adapter_to_dict(_for_layers(config, places, values)) or {}, values


def read_values(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises OSError where it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(f"{path} is cut short or damaged ({error}). Copy or download it again.") from error


def _split(key: str) -> tuple[str, str, str]:
    """A key of a file as the layer's path, what adapter it is of (with its dot), and the rest; all path: none."""
    key = key.removeprefix(_PREFIX)
    return key.partition(_IA3 if _IA3 in key else ".lora_")


def _width(layer: nn.Module, rest: str) -> int | None:
    """How wide the values of a layer's adapter must be: as its input (A), or as its output; None: no such layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features if _takes_input(rest) else layer.out_features
    if isinstance(layer, Conv1D):
        return int(layer.nx if _takes_input(rest) else layer.nf)
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings if _takes_input(rest) else layer.embedding_dim
    return None


def _takes_input(rest: str) -> bool:
    return rest.startswith(("A", "embedding_A"))


def _check_table(folder: Any, key: str, part: Any, value: torch.Tensor) -> None:
    """peft may put the backbone's own table of tokens into the file of an adapter that is on it."""
    table: Any = part.get_input_embeddings()
    table = table.get_base_layer() if isinstance(table, RoutedLayer) else table
    own = table.weight.detach().cpu()
    if own.shape != value.shape or not torch.equal(own, value.to(own.dtype)):
        raise ValueError(
            f"The adapter in {str(folder)!r} is for another backbone: it has a table of its own ({key!r}), and that of "
            "the backbone is all tasks'. Make the model on the backbone that has this table."
        )


def _for_layers(config: Any, places: Mapping[str, str], values: Mapping[str, torch.Tensor]) -> LoraConfig | IA3Config:
    """The config with each layer by its full name here, and each layer's rank and alpha, or what it scales."""
    config.target_modules = set(places)
    config.exclude_modules = config.modules_to_save = config.task_type = config.auto_mapping = None
    if isinstance(config, IA3Config):
        config.feedforward_modules = [here for here in places if len(values[f"{_PREFIX}{here}{_IA3}"]) == 1]
        return config
    keys = {here: f"{_PREFIX}{here}." for here in places}
    ranks = {
        here: len(values.get(f"{key}lora_embedding_A", values.get(f"{key}lora_A.weight", ())))
        for here, key in keys.items()
    }
    alphas = {
        here: config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), path), config.lora_alpha)
        for here, path in places.items()
    }
    config.rank_pattern = {here: rank for here, rank in ranks.items() if rank != config.r}
    config.alpha_pattern = {here: alpha for here, alpha in alphas.items() if alpha != config.lora_alpha}
    config.layers_to_transform = config.layers_pattern = None
    return config
