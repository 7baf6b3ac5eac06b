"""What adapters may be put into: linear layers, and a table of tokens whose weight is no other module's."""

import copy
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from peft import IA3Config, LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..nearest import nearest
from .composing import Composition
from .scaling import RoutedIA3, RoutedScaling

__all__ = ["check_embeddings", "check_scaling", "check_targets", "check_tied"]

logger = logging.getLogger(__name__)


def check_targets(backbone: nn.Module, targets: str | Iterable[str] | None) -> None:
    """Raises ValueError where no module of the backbone has such a name, which peft says without the names.

    Where some have, what is named in vain is told: it may be misspelt, or outside of what gets adapters.
    """
    if not targets or targets == "all-linear":
        return
    modules = dict(backbone.named_modules())
    if isinstance(targets, str):
        found, in_vain = any(re.fullmatch(targets, path) for path in modules), []
    else:
        ends = {path[place:] for path in modules for place in _beginnings(path)}
        in_vain = sorted(target for target in targets if target not in ends)
        found = len(in_vain) < len(set(targets))
    if found and in_vain:
        logger.warning(
            "target_modules: %s fits no module of what gets adapters (%s), and has none.",
            in_vain, type(backbone).__name__,
        )  # fmt: skip
    if not found:
        linear = {path.rpartition(".")[2] for path, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
        asked = targets if isinstance(targets, str) else sorted(targets)
        raise ValueError(
            f"target_modules={asked!r} fits no module of the backbone ({type(backbone).__name__}). Of its linear "
            f"layers: {nearest(asked if isinstance(asked, str) else asked[0], sorted(linear))}"
        )


def _beginnings(path: str) -> list[int]:
    """Where a module's path, or the end of it, may be said to begin."""
    return [0, *(place + 1 for place, letter in enumerate(path) if letter == ".")]


def check_embeddings(
    whole: nn.Module, part: nn.Module, config: LoraConfig | IA3Config, composition: Composition | None
) -> None:
    """Looks at the embeddings among the targets, before anything is changed.

    Args:
        whole: the backbone, with the output layer of a language model where it is one.
        part: the part of it that gets the adapters.
        config: theirs.
        composition: what tasks' adapters are made of, if not of their own.

    Raises:
        ValueError: an embedding cannot have adapters: says why, and what would do.
    """
    tables = _tables_of_tokens(part)
    for path, weight in _embeddings(part, config):
        told = f"target_modules={_shown(config.target_modules)} takes in the embedding {path!r}"
        if isinstance(config, IA3Config):
            raise ValueError(f"{told}: IA3 scales linear layers. Name only those, or use a LoraConfig.")
        if composition is not None:
            raise ValueError(
                f"{told}: adapters that are made of shared parts, or that start from the base weights, go into linear "
                "layers. Name only those, or use sharing='private' or 'shared' with init_lora_weights=True."
            )
        if tables and id(weight) not in tables:
            raise ValueError(
                f"{told}, which is no table of tokens: positions and the like are looked up for all rows at a time, so "
                "that no row can go through its own task's. Of the embeddings only that of tokens can have adapters."
            )
        places = [name for name, value in whole.named_parameters(remove_duplicate=False) if value is weight]
        if len(places) > 1:
            raise ValueError(
                f"{told}, whose weight is tied, one in {len(places)} places ({', '.join(places)}): the adapter would "
                "be on one of them only, and could not be merged. Name other layers (target_modules='all-linear'), or "
                "use a backbone that was saved with tie_word_embeddings=False and a weight of its own in each place."
            )


def check_tied(whole: nn.Module, part: nn.Module, config: LoraConfig | IA3Config) -> None:
    """Raises ValueError where a target is a language model's output layer whose weight is the table of tokens too.

    peft's `all-linear` leaves it out by itself.
    """
    if not config.target_modules or config.target_modules == "all-linear":
        return
    places = [(f"{path}.{name}", p) for path, m in whole.named_modules() for name, p in m.named_parameters("", False)]
    times = Counter(id(parameter) for _, parameter in places)
    for path, module in part.named_modules():
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if not isinstance(base, nn.Linear | Conv1D) or times[id(base.weight)] < 2 or path.endswith(".base_layer"):
            continue
        if check_target_module_exists(config, path):
            tied = ", ".join(name for name, parameter in places if parameter is base.weight)
            raise ValueError(
                f"target_modules={_shown(config.target_modules)} takes in {path!r}, whose weight is tied ({tied}): an "
                "adapter that is merged into it would change the other places too. Leave it out, or use a backbone "
                "that was saved with tie_word_embeddings=False and a weight of its own in each place."
            )


def check_scaling(part: nn.Module, config: IA3Config) -> None:
    """Raises ValueError where a layer scales its output for some tasks, and would scale its input for another."""
    model: Any = part
    settings = model.config.to_dict() if isinstance(part, PreTrainedModel) else {"model_type": "custom"}
    wanted = RoutedIA3._prepare_adapter_config(copy.deepcopy(config), settings)
    for path, layer in part.named_modules():
        taken = wanted.target_modules == "all-linear" or check_target_module_exists(wanted, path)
        if isinstance(layer, RoutedScaling) and taken:
            inputs = RoutedIA3._check_target_module_feedforward(wanted, path)
            if inputs != layer.is_feedforward:
                raise ValueError(
                    f"feedforward_modules={_shown(wanted.feedforward_modules)} "
                    f"{'has' if inputs else 'lacks'} {path!r}, "
                    "and the adapters that are there have it the other way: a layer scales its input for all tasks, "
                    "or its output. Give the same feedforward_modules as for the other tasks."
                )


def _embeddings(part: nn.Module, config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Path and weight of each embedding among the targets."""
    if not config.target_modules or config.target_modules == "all-linear":
        return
    for path, module in part.named_modules():
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        inside = path.endswith(".base_layer")  # of a layer that was seen before
        if isinstance(base, nn.Embedding) and not inside and check_target_module_exists(config, path):
            yield path, base.weight


def _tables_of_tokens(part: nn.Module) -> set[int]:
    """The ids of the weights that tokens are looked up in; none in a module that is no model of transformers."""
    models = [module for module in part.modules() if isinstance(module, PreTrainedModel)]
    return {id(cast(Any, model.get_input_embeddings()).weight) for model in models}


def _shown(targets: Any) -> str:
    return repr(targets if isinstance(targets, str) else sorted(targets))
