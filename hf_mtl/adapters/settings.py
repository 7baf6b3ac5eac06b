"""The settings of adapters: peft's configs as JSON values, and which of them can be routed."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from peft import IA3Config, LoraConfig, PeftConfig

__all__ = ["ADAPTERS", "adapter_fields", "adapter_from_dict", "adapter_to_dict", "check_one_kind", "starts_from_base"]

# What a recipe calls them -> peft's configs.
ADAPTERS: dict[str, type[LoraConfig] | type[IA3Config]] = {"lora": LoraConfig, "ia3": IA3Config}

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
