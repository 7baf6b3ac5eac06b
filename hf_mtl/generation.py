"""What a language model writes: transformers' `generate`, so that a row's answer hangs on no other row of its batch."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from .backbone import longest_input
from .language_model import EncoderHidden

__all__ = ["generate", "generation_values"]


def generation_values(backbone: Any, kind: str | None) -> dict[str, Any] | None:
    """A backbone's generation settings as JSON values; None of a backbone that does not write."""
    if kind not in ("causal", "seq2seq"):
        return None
    values: dict[str, Any] = json.loads(backbone.generation_config.to_json_string())
    return values


@torch.no_grad()
def generate(
    backbone: Any,
    kind: str,
    input_ids: torch.Tensor | None,
    hidden: torch.Tensor | None,
    mask: torch.Tensor,
    options: Mapping[str, Any],
    end: int | None = None,
) -> torch.Tensor:
    """`[batch, sequences, tokens]` what the backbone writes, padded by -100, without the prompt.

    Args:
        backbone: a `causal` or `seq2seq` language model.
        kind: which of them.
        input_ids: `[batch, seq]` the prompts, padded on either side, of a `causal` one; of a `seq2seq` one the inputs,
            for options that look at them.
        hidden: `[batch, seq, width]` what the encoder gave, of a `seq2seq` one.
        mask: `[batch, seq]`.
        options: of transformers' `generate`.
        end: a token that ends what is written beside the backbone's own ends: the one that training teaches.

    Raises:
        ValueError: an option that cannot be had here, or no room for what is to be written.
    """
    config: GenerationConfig = backbone.generation_config
    options = dict(options)
    if options.pop("return_dict_in_generate", False):
        raise ValueError(
            "return_dict_in_generate=True cannot be had here: generate gives the tokens alone. Leave it out; scores of "
            "each step are had from model.backbone.generate."
        )
    if config.return_dict_in_generate:
        options["return_dict_in_generate"] = False
    options.setdefault("pad_token_id", _padding(config))
    ends = _ends(options.get("eos_token_id"), config, end)
    if ends:
        options["eos_token_id"] = ends
    if kind == "seq2seq":
        written = _after_encoder(backbone, input_ids, hidden, mask, options)
    else:
        written = _after_prompts(backbone, input_ids, mask, options)
    return _ended(written, ends)


def _after_encoder(
    backbone: Any,
    input_ids: torch.Tensor | None,
    hidden: torch.Tensor | None,
    mask: torch.Tensor,
    options: Mapping[str, Any],
) -> torch.Tensor:
    looking = [name for name, value in options.items() if name.startswith("encoder_") and value is not None]
    if looking and input_ids is None:
        raise ValueError(f"{looking[0]} looks at the input's tokens: give input_ids, not inputs_embeds.")
    options = dict(options) if input_ids is None else dict(options) | {"input_ids": input_ids}
    longest = longest_input(backbone.config.get_text_config(decoder=True))
    whole = {name: options.get(name) for name in ("max_length", "min_length")}
    wanted = _room(1, whole, options, backbone.generation_config, None).get("max_new_tokens", 0)
    if longest is not None and wanted > longest - 1:  # the decoder's start has a position too
        options.pop("max_length", None)
        options["max_new_tokens"] = longest - 1
    written = backbone.generate(encoder_outputs=EncoderHidden(last_hidden_state=hidden), attention_mask=mask, **options)
    return written[:, 1:].unflatten(0, (len(mask), -1))  # without the decoder's start


def _after_prompts(
    backbone: Any, input_ids: torch.Tensor | None, mask: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Rows that may write equally much run together: `max_length` counts a row's prompt, and not its padding."""
    if input_ids is None:
        raise ValueError("Generation needs input_ids: it cannot go on from inputs_embeds.")
    longest = longest_input(backbone.config.get_text_config())
    whole = {name: options.pop(name, None) for name in ("max_length", "min_length")}
    alike: dict[tuple[tuple[str, int], ...], list[int]] = {}
    lengths = mask.sum(1).tolist()
    for row, length in enumerate(lengths):
        own = _room(length, whole, options, backbone.generation_config, longest)
        alike.setdefault(tuple(own.items()), []).append(row)
    ids, mask = _padded_left(input_ids, mask)
    found: dict[tuple[int, ...], torch.Tensor] = {}
    for room, rows in alike.items():
        start = ids.shape[1] - max(lengths[row] for row in rows)
        given = {"input_ids": ids[rows, start:], "attention_mask": mask[rows, start:]}
        written = backbone.generate(**given, **options | dict(room))[:, ids.shape[1] - start :]
        found[tuple(rows)] = written.unflatten(0, (len(rows), -1))
    if len(found) == 1:
        return next(iter(found.values()))
    sequences, tokens = (max(part.shape[k] for part in found.values()) for k in (1, 2))
    result = ids.new_full((len(ids), sequences, tokens), -100)
    for numbers, part in found.items():
        result[list(numbers), :, : part.shape[2]] = part
    return result


def _room(
    length: int, whole: Mapping[str, Any], options: Mapping[str, Any], config: GenerationConfig, longest: int | None
) -> dict[str, int]:
    """How much may follow a prompt of this length: `max_new_tokens` and `min_new_tokens`, where anything is said."""
    room = {}
    for name, least in (("max", 1), ("min", 0)):
        new, total = options.get(f"{name}_new_tokens"), whole[f"{name}_length"]
        if new is None and total is None:  # the backbone's own
            new, total = getattr(config, f"{name}_new_tokens"), getattr(config, f"{name}_length")
        if new is None and total is not None:
            new = max(total - length, least)
        if new is not None:
            room[f"{name}_new_tokens"] = int(new)
    if longest is not None and "max_new_tokens" in room:
        if length >= longest:
            raise ValueError(
                f"A prompt has {length} subwords, and the backbone's {longest} positions leave no room to write on. "
                "Give the end of the prompt alone."
            )
        room["max_new_tokens"] = min(room["max_new_tokens"], longest - length)
    return room


def _padding(config: GenerationConfig) -> int:
    ends = config.eos_token_id
    spare = ends[0] if isinstance(ends, list) else ends
    value = config.pad_token_id if config.pad_token_id is not None else spare
    return 0 if value is None else int(value)


def _ends(asked: Any, config: GenerationConfig, own: int | None) -> list[int]:
    ends = config.eos_token_id if asked is None else asked
    found = [] if ends is None else [int(e) for e in (ends if isinstance(ends, list | tuple) else [ends])]
    return found if own is None or own in found else [*found, own]


def _padded_left(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Padding to the left, where a decoder that goes on writing needs it; the order of real tokens stays."""
    order = torch.argsort(mask, dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def _ended(written: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """-100 after the first end: what stands there is filler."""
    end = torch.isin(written, torch.tensor(ends, device=written.device, dtype=written.dtype))
    after = (end.cumsum(-1) - end.long()) > 0
    return written.masked_fill(after, -100)
