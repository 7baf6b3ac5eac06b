"""The backbone as a language model: which kind its tasks need, its head on hidden states, and its generation."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from .backbone import is_causal
from .tasks import Task

__all__ = ["auto_class", "generate", "kind_needed", "predictor", "text_part"]

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


class _Given(nn.Module):
    """Stands where a language model has its text part, and says what that said before."""

    def __init__(self, hidden: torch.Tensor):
        super().__init__()
        self.hidden = hidden

    @property
    def decoder(self) -> "_Given":  # OPT's language model asks its text part's decoder
        return self

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)


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
        shell._modules[backbone.base_model_prefix] = _Given(states.unsqueeze(0))
        return shell(return_dict=True).logits.squeeze(0)

    def of_labels(labels: torch.Tensor) -> torch.Tensor:
        start: Any = backbone
        output = backbone(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=mask,
            decoder_input_ids=start.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
            return_dict=True,
        )
        return output.logits

    return of_labels if kind == "seq2seq" else of_hidden


@torch.no_grad()
def generate(
    backbone: Any,
    kind: str,
    input_ids: torch.Tensor | None,
    hidden: torch.Tensor | None,
    mask: torch.Tensor,
    options: Mapping[str, Any],
) -> torch.Tensor:
    """`[batch, sequences, tokens]` what the backbone writes, padded by -100, without the prompt.

    Args:
        backbone: a `causal` or `seq2seq` language model.
        kind: which of them.
        input_ids: `[batch, seq]` the prompts, padded on either side, of a `causal` one.
        hidden: `[batch, seq, width]` what the encoder gave, of a `seq2seq` one.
        mask: `[batch, seq]`.
        options: of transformers' `generate`.
    """
    options = dict(options)
    options.setdefault("pad_token_id", _padding(backbone.generation_config))
    count = options.get("num_return_sequences") or backbone.generation_config.num_return_sequences or 1
    if kind == "seq2seq":
        encoder_outputs = BaseModelOutput(last_hidden_state=hidden)
        written = backbone.generate(encoder_outputs=encoder_outputs, attention_mask=mask, **options)
        prompt = 1  # the decoder's start
    else:
        ids, mask = _padded_left(input_ids, mask)
        written = backbone.generate(input_ids=ids, attention_mask=mask, **options)
        prompt = ids.shape[1]
    written = written[:, prompt:]
    return _ended(written, _ends(backbone.generation_config, options)).unflatten(0, (-1, count))


def _padding(config: GenerationConfig) -> int:
    ends = config.eos_token_id
    spare = ends[0] if isinstance(ends, list) else ends
    value = config.pad_token_id if config.pad_token_id is not None else spare
    return 0 if value is None else int(value)


def _ends(config: GenerationConfig, options: Mapping[str, Any]) -> list[int]:
    ends = options.get("eos_token_id", config.eos_token_id)
    return [] if ends is None else [int(e) for e in (ends if isinstance(ends, list) else [ends])]


def _padded_left(ids: torch.Tensor | None, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Padding to the left, where a decoder that goes on writing needs it; the order of real tokens stays."""
    if ids is None:
        raise ValueError("Generation needs input_ids: it cannot go on from inputs_embeds.")
    order = torch.argsort(mask, dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def _ended(written: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """-100 after the first end: what stands there is filler."""
    end = torch.isin(written, torch.tensor(ends, device=written.device, dtype=written.dtype))
    after = (end.cumsum(1) - end.long()) > 0
    return written.masked_fill(after, -100)
