"""One task as a plain model of transformers: its adapter folded into a copy of the backbone, its head in that class."""

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from .adapters import adapter_name, merge_adapter
from .config import MultiTaskConfig
from .disk import check_no_file
from .language_model import text_part
from .tasks import Task
from .tasks.plain import PlainHead

__all__ = ["ExportMixin"]

# The slope at which tanh is the identity to float32: tanh(x / S) * S is x (1 - x^2 / (3 S^2)). A power of two, by which
# weights are multiplied without rounding, and one that float16 still holds.
_SLOPE = 2.0**12
# Where GELU and ReLU are the identity to float32.
_LINEAR_FROM = 8.0


class ExportMixin(PreTrainedModel):
    """The part of a `MultiTaskModel` that makes plain models of its tasks."""

    config: MultiTaskConfig
    tokenizer: Any
    heads: nn.ModuleDict
    backbone: PreTrainedModel
    task: Callable[[str], Task]

    def merge_task(self, name: str) -> PreTrainedModel:
        """A copy of the backbone with a task's adapter folded in: a plain model, which gives the task's hidden states.

        Of a task that is answered by a language model it is that language model. This model stays as it is.

        Raises:
            ValueError: there is no such task.
        """
        task = self.task(name)
        kind = self.config.language_model
        merged = copy.deepcopy(self.backbone if task.language_model else text_part(self.backbone, kind))
        merge_adapter(merged, adapter_name(self.config, name))
        return merged.requires_grad_(True).eval()

    def export_task(self, name: str, folder: str | os.PathLike[str]) -> PreTrainedModel:
        """Writes a task as a plain checkpoint of transformers, which gives the same logits, with the tokenizer.

        It is looked after that it does: the class must compute on some random tokens what the task's head does.

        Args:
            name: the task's.
            folder: made where it is not there. `AutoModelForTokenClassification.from_pretrained(folder)`, or which
                class it is, loads it.

        Returns:
            The model that was written.

        Raises:
            ValueError: no class of transformers answers as the task does; says why, and what can be done instead.
            OSError: there is a file where the folder is to be.
        """
        check_no_file("folder", folder)
        task = self.task(name)
        plain = task.plain_head(self.heads[name])
        layers = self.config.text_config.num_hidden_layers  # type: ignore[union-attr]
        if task.layer not in (-1, layers):
            raise task.not_plain(f"it reads hidden state {task.layer}, and transformers' classes read the last")
        merged = self.merge_task(name)
        model = merged if plain.weight is None else _with_head(task, plain, merged, self.tokenizer)
        model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        return model


def _with_head(task: Task, plain: PlainHead, merged: PreTrainedModel, tokenizer: Any) -> PreTrainedModel:
    """A model of the plain class, made of the backbone itself and the head's weights."""
    auto: Any = getattr(transformers, plain.model)
    config: Any = _config(plain, merged, tokenizer)
    if type(config) not in auto._model_mapping:
        raise task.not_plain(f"transformers has no {plain.model} of a {config.model_type} backbone")
    if plain.reads == "last" and tokenizer is not None and tokenizer("a")["input_ids"][-1] == config.pad_token_id:
        raise task.not_plain(
            f"the tokenizer ends texts with its padding token {tokenizer.pad_token!r}, and {plain.model} looks for the "
            "last token that is no padding"
        )
    with torch.device("meta"):
        model: Any = auto.from_config(config, dtype=merged.dtype)
    places = [path for path, module in model.named_modules() if type(module) is type(merged)]
    if len(places) != 1:  # none, or an encoder's and a decoder's
        base = type(getattr(model, model.base_model_prefix, model)).__name__
        raise task.not_plain(f"{type(model).__name__} is on a {base}, and the task on a {type(merged).__name__}")
    base = model.get_submodule(places[0])
    if getattr(base, "pooler", None) is not None:
        merged.pooler = base.pooler  # a dense layer that the class has and the task has not
    model.set_submodule(places[0], merged)
    if model.get_input_embeddings() is not merged.get_input_embeddings():
        model.set_input_embeddings(merged.get_input_embeddings())  # T5's encoder is in a model that has the table too
    merged.config = model.config
    layers = _new_layers(task, model, merged)
    inputs, wanted = _sample(plain, merged)
    for between in _identities(layers[:-1], merged):
        _fill(plain, layers, between)
        with torch.no_grad():
            found = _outputs(model.eval()(**inputs))
        exact = 1e-4 if merged.dtype == torch.float32 else 3e-2
        if torch.allclose(found.float(), wanted, atol=exact * float(wanted.abs().max()), rtol=0):
            return model
    kind = "" if merged.dtype == torch.float32 else f" in {merged.dtype}, though it might in float32 (dtype=...)"
    raise task.not_plain(f"the head of {type(model).__name__} cannot compute what the task's does{kind}")


def _config(plain: PlainHead, merged: PreTrainedModel, tokenizer: Any) -> Any:
    config: Any = copy.deepcopy(merged.config)
    outputs = 1 if plain.weight is None else len(plain.weight)
    names = plain.labels or [f"LABEL_{k}" for k in range(outputs)]
    if plain.reads != "choices":
        config.id2label = dict(enumerate(names))
        config.label2id = {name: k for k, name in enumerate(names)}
    if plain.problem is not None:
        config.problem_type = plain.problem
    if tokenizer is not None:
        config.pad_token_id = tokenizer.pad_token_id  # by which a decoder's class finds the last token
    return config


def _new_layers(task: Task, model: Any, merged: nn.Module) -> list[nn.Linear]:
    """The layers that the class has beside the backbone, given memory: one or two linear ones, the last the head's."""
    layers: list[nn.Linear] = []
    for path, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.is_meta]
        if own and not isinstance(module, nn.Linear):
            raise task.not_plain(f"{type(model).__name__} has a {type(module).__name__} ({path}) before its last layer")
        if own and isinstance(module, nn.Linear):
            layers.append(module.to_empty(device=next(merged.parameters()).device))
    pooler = {id(module) for module in merged.modules()}  # it comes before the head, wherever the class names it
    layers.sort(key=lambda layer: id(layer) not in pooler)
    square = all(layer.in_features == layer.out_features for layer in layers[:-1])
    if not 1 <= len(layers) <= 2 or not square:
        raise task.not_plain(f"{type(model).__name__} has {len(layers)} layers of its own")
    return layers


Between = tuple[float, torch.Tensor]


def _identities(between: list[nn.Linear], merged: nn.Module) -> Iterator[Between]:
    """What may make the layer before the last one, and the activation behind it, the identity: a scale and a shift.

    tanh is the identity near 0, GELU and ReLU are far above it. Which of them the class has is found by trying.
    """
    width = between[0].in_features if between else 1
    some = next(merged.parameters())
    nothing = torch.zeros(width, device=some.device)
    if not between:
        yield 1.0, nothing
        return
    yield 1 / _SLOPE, nothing
    norms = [m for m in merged.modules() if isinstance(m, nn.LayerNorm) and tuple(m.normalized_shape) == (width,)]
    if norms:  # none of their outputs is larger than this
        most = torch.stack([m.weight.detach().float().abs() * width**0.5 + m.bias.detach().abs() for m in norms])
        yield 1.0, most.amax(0) + _LINEAR_FROM


@torch.no_grad()
def _fill(plain: PlainHead, layers: list[nn.Linear], between: Between) -> None:
    scale, shift = between
    weight, bias = _weights(plain)
    last = layers[-1]
    if layers[:-1]:
        dense = layers[0]
        dense.weight.copy_(torch.eye(dense.in_features) * scale)
        dense.bias.copy_(shift)
    last.weight.copy_(weight / scale)
    if last.bias is not None:
        last.bias.copy_(bias - weight @ shift if layers[:-1] else bias)


def _weights(plain: PlainHead) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the head in float32; a bias that it does not have is 0."""
    if plain.weight is None:
        raise ValueError("A language model's head has no weights of the task's own.")
    weight = plain.weight.detach().float()
    return weight, torch.zeros(len(weight), device=weight.device) if plain.bias is None else plain.bias.detach().float()


@torch.no_grad()
def _sample(plain: PlainHead, merged: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Two texts of random tokens, the second one padded, and the logits that the task gives for them."""
    config, device = merged.config, merged.device
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    usual = [k for k in range(min(config.vocab_size, 1000)) if k not in special]
    chosen = torch.randint(len(usual), (2, 6), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor(usual)[chosen]
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = config.pad_token_id or 0, 0
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    hidden = merged(**inputs, return_dict=True).last_hidden_state.float()
    if plain.reads == "last":
        hidden = hidden[torch.arange(2), mask.sum(1) - 1]
    elif plain.reads != "tokens":
        hidden = hidden[:, 0]
    weight, bias = _weights(plain)
    logits = hidden @ weight.T + bias
    if plain.reads == "choices":
        return {key: value[None] for key, value in inputs.items()}, logits.T
    return inputs, logits


def _outputs(output: Any) -> torch.Tensor:
    """The logits; a question answering model's as one tensor."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits
