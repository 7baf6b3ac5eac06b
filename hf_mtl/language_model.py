"""The backbone as a language model: which kind its tasks need, and its head on hidden states."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from .backbone import is_causal
from .tasks import Task

__all__ = ["EncoderHidden", "auto_class", "kind_needed", "predictor", "text_part"]

_CLASSES: dict[str | None, Any] = {
    None: AutoModel,
    "masked": AutoModelForMaskedLM,
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}
_WANTED = {
    "masked": "a masked language model (BERT, RoBERTa, ModernBERT, ...)",
    "causal": "a decoder (GPT-2, Llama, Qwen, ...)",
    "seq2seq": "an encoder-decoder (T5, BART, Marian, ...)",
}


def auto_class(kind: str | None) -> Any:
    """transformers' auto class of a backbone of this kind; None: hidden states alone, without a language model."""
    return _CLASSES[kind]


def kind_needed(tasks: Iterable[Task], config: Any) -> str | None:
    """The kind of language model that the tasks need of a backbone with this config: None, `masked`, ...

    Raises:
        ValueError: a backbone of this architecture is no such language model.
    """
    own = "seq2seq" if config.is_encoder_decoder else "causal" if is_causal(config) else "masked"
    needed = None
    for task in tasks:
        if task.language_model is None:
            continue
        if task.language_model != own:
            raise ValueError(
                f"Task {task.name!r} ({task.type}) needs {_WANTED[task.language_model]}, and the backbone "
                f"({config.model_type}) is {_WANTED[own].partition(' (')[0]}. Take another backbone or task type."
            )
        needed = own
    return needed


def text_part(backbone: PreTrainedModel, kind: str | None) -> PreTrainedModel:
    """The part that gives a text's hidden states: an encoder-decoder's encoder, a language model without its head."""
    if kind == "seq2seq":
        return backbone.get_encoder()
    part: Any = backbone if kind is None else backbone.base_model
    return part


class _Hidden(BaseModelOutputWithPastAndCrossAttentions):
    """A text part's output of which the hidden states are known: what else an architecture asks of its own is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)
        return


@dataclass
class EncoderHidden(BaseModelOutput):
    """An encoder's output; those of mixtures of experts have the routers' too."""

    router_logits: tuple[torch.Tensor, ...] | None = None


class _Given(nn.Module):
    """Stands where a language model has its text part, and says what that said before; in all else it is that part."""

    def __init__(self, hidden: torch.Tensor, part: nn.Module):
        super().__init__()
        self.hidden = hidden
        self.part = [part]  # in a list it is no module of this one

    @property
    def decoder(self) -> "_Given":  # OPT's language model asks its text part's decoder
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["part"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> _Hidden:
        return _Hidden(last_hidden_state=self.hidden)


def predictor(
    backbone: PreTrainedModel, kind: str, hidden: torch.Tensor, mask: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The backbone's own language-model head, as a function.

    Args:
        backbone: the language model.
        kind: what it is.
        hidden: `[batch, seq, width]` hidden states, which an encoder-decoder's decoder attends to.
        mask: `[batch, seq]` of them.

    Returns:
        For `masked` and `causal`: hidden states `[n, width]` -> logits `[n, vocabulary]`, whatever the architecture
        does on the way (a transformation, a scale, a cap). For `seq2seq`: labels `[batch, target]`, padded by -100 ->
        logits `[batch, target, vocabulary]`.
    """

    def of_hidden(states: torch.Tensor) -> torch.Tensor:
        shell = copy.copy(backbone)  # the same modules but for the text part; the backbone itself stays as it is
        shell._modules = dict(backbone._modules)
        shell._modules[backbone.base_model_prefix] = _Given(states.unsqueeze(0), backbone.base_model)
        for name in ("forward", "_hf_hook"):  # accelerate's, which lead back to the whole backbone
            shell.__dict__.pop(name, None)
        return shell(return_dict=True).logits.squeeze(0).to(states.device)

    def of_labels(labels: torch.Tensor) -> torch.Tensor:
        shift = getattr(backbone, "prepare_decoder_input_ids_from_labels", None)
        output = backbone(
            encoder_outputs=EncoderHidden(last_hidden_state=hidden),
            attention_mask=mask,
            # M2M100, NLLB and Blenderbot shift inside, and take a loss on the way that nobody asks for.
            **({"labels": labels} if shift is None else {"decoder_input_ids": shift(labels)}),
            use_cache=False,
            return_dict=True,
        )
        return output.logits

    return of_labels if kind == "seq2seq" else of_hidden
