"""Learning rates of their own for backbone, layers, heads and adapters."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from .adapters import adapter_names, adapter_parameters
from .modeling import MultiTaskModel
from .nearest import nearest
from .training_args import MultiTaskTrainingArguments

__all__ = ["LearningRatesMixin"]

_LABEL = "rate_of"  # in a group of the optimizer: what it is called in the logs
_FROZEN = "frozen"

Layers = dict[nn.Parameter, int | None]


class LearningRatesMixin(Trainer):
    """The part of `MultiTaskTrainer` that gives parameters their rates, `args.learning_rates` and `args.layer_decay`.

    transformers makes the optimizer, whichever it is, with its groups (which weights decay, which are projected); each
    group is then cut by rate. A schedule scales every group's own rate.
    """

    args: MultiTaskTrainingArguments

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        given = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if not self.args.learning_rates and self.args.layer_decay is None:
            return optimizer
        groups: list[dict[str, Any]] = optimizer.param_groups
        if any(_LABEL in group for group in groups):  # of a training before
            return optimizer
        rates = _rates(self.model, self.args)
        if given or any(p.requires_grad and p not in rates for group in groups for p in group["params"]):
            raise ValueError(
                "learning_rates and layer_decay are for an optimizer that the trainer makes, of the model's own "
                f"parameters; {type(optimizer).__name__} was given, or is of a model cut in pieces (FSDP): set its "
                "groups yourself, or leave learning_rates and layer_decay out."
            )
        cut: list[dict[str, Any]] = []
        for group in groups:
            parts: dict[tuple[str, float], list[nn.Parameter]] = {}
            for p in group["params"]:
                # Some optimizers take along what is frozen, and never see a gradient of it.
                parts.setdefault(rates.get(p, (_FROZEN, self.args.learning_rate)), []).append(p)
            for (label, rate), parameters in parts.items():
                kept = group["lr"]  # torchao's optimizers want a tensor
                lr = torch.full_like(kept, rate) if isinstance(kept, torch.Tensor) else rate
                cut.append({**group, "params": parameters, "lr": lr, _LABEL: label})
        groups[:] = cut
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log the rate of each group in the next step: `learning_rate_<name>`."""
        if "loss" in logs and self.optimizer is not None:
            for group in self.optimizer.param_groups:
                if group.get(_LABEL, _FROZEN) != _FROZEN:
                    logs[f"learning_rate_{group[_LABEL]}"] = float(group["lr"])
        super().log(logs, start_time)


def _rates(model: Any, args: MultiTaskTrainingArguments) -> dict[nn.Parameter, tuple[str, float]]:
    """Trained parameter -> what its group is called, and its rate.

    Raises:
        ValueError: a rate has the name of nothing that is trained.
    """
    given: Any = args.learning_rates or {}
    decay = args.layer_decay
    by_layer = any(_is_layer(name) for name in given)
    layers: Layers = model.layers_of_parameters() if by_layer or decay is not None else {}
    top = model.config.text_config.num_hidden_layers - 1
    found: dict[nn.Parameter, tuple[str, float]] = {}
    known: dict[str, None] = {}
    for p, names in _names(model, layers):
        known |= dict.fromkeys(names)
        name = next((name for name in names if name in given), names[-1])
        rate = float(given.get(name, args.learning_rate))
        if decay is not None and p in layers and not _is_layer(name):
            layer = layers[p]
            name += "_embeddings" if layer is None else f"_layer_{layer}"
            rate *= decay ** (top - (-1 if layer is None else layer))
        found[p] = (name, rate)
    for name in given:
        if name not in known:
            raise ValueError(f"learning_rates has {name!r}, which is nothing that is trained. {nearest(name, known)}")
    return found


def _is_layer(name: str) -> bool:
    return name == "embeddings" or (name.startswith("layers.") and name.rpartition(".")[2].isdigit())


def _names(model: MultiTaskModel, layers: Layers) -> Iterator[tuple[nn.Parameter, list[str]]]:
    """Each trained parameter with the names that it may have a rate by, the most special first."""
    own: dict[nn.Parameter, list[str]] = {}
    for task in model.tasks:
        own |= {p: [f"{task}.head", "heads"] for p in model.heads[task].parameters()}
        own |= {p: [f"{task}.adapter", "adapters"] for p in adapter_parameters(model.backbone, task)}
    for name in adapter_names(model.config, ()):  # what tasks share of them
        own |= {p: ["adapters"] for p in adapter_parameters(model.backbone, name)}
    for p in model.parameters():
        if p.requires_grad:
            layer = layers.get(p)
            special = [] if p not in layers else ["embeddings" if layer is None else f"layers.{layer}"]
            yield p, own.get(p, [*special, "backbone"])
