"""What the package must know of a backbone: its width, its direction, its longest input."""

import logging
from collections.abc import Iterable
from typing import Any

__all__ = [
    "check_offsets", "is_causal", "longest_input", "prepare_tokenizer", "rows_come_first", "warn_of_lengths",
    "width_of",
]  # fmt: skip

logger = logging.getLogger(__name__)

# A tokenizer whose model has no limit says so with a number of this size or more (transformers' VERY_LARGE_INTEGER).
NO_LIMIT = 1_000_000
# What an input is cut to where neither the backbone nor the tokenizer names a limit (T5: relative positions).
DEFAULT_LIMIT = 512

# Their position ids start at padding_idx + 1, so that many of max_position_embeddings are never used.
_POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


_ROWS_ELSEWHERE = {"deberta", "deberta-v2", "xlnet"}


def width_of(config: Any) -> int:
    """Width of the hidden states of a backbone with this `PreTrainedConfig`."""
    return int(config.hidden_size)


def is_causal(config: Any) -> bool:
    """True for decoder-only backbones, whose tokens see only what stands before them.

    Known from transformers' own tables: an architecture with a causal language model and no masked one.
    Encoder-decoders are not causal here, because the tasks read their encoder.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if config.is_encoder_decoder:
        return False
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def rows_come_first(config: Any) -> bool:
    """Whether all layers see `[batch, ...]`, so that each row can take an adapter of its own.

    Not in DeBERTa, whose attention projects relative positions too, nor in XLNet, which puts the positions first.
    """
    return config.model_type not in _ROWS_ELSEWHERE


def longest_input(config: Any) -> int | None:
    """Most subwords, special ones included, that the backbone takes; None where it has no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    if config.model_type in _POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    return int(positions)


def warn_of_lengths(tokenizer: Any, config: Any, tasks: Iterable[Any]) -> None:
    """Says which tasks ask for longer inputs than they get: `tokenizer` is a prepared one, `config` the backbone's."""
    most = tokenizer.model_max_length
    for task in tasks:
        if task.max_length is not None and task.max_length > most:
            logger.warning(
                "Task %r: max_length=%d has no effect, its inputs have %d subwords at most: %s",
                task.name, task.max_length, most,
                f"more the backbone does not take. Set max_length={most}, or take a backbone of longer inputs."
                if longest_input(config) == most
                else "the tokenizer says so (model.tokenizer.model_max_length), and the backbone may take more.",
            )  # fmt: skip


def check_offsets(tokenizer: Any, tasks: Iterable[Any]) -> None:
    """Raises ValueError where a task must know the characters of a subword, and a slow tokenizer is to say them."""
    needing = [f"{task.name!r} ({task.type})" for task in tasks if task.needs_offsets]
    if needing and not tokenizer.is_fast:
        raise ValueError(
            f"{'Task' if len(needing) == 1 else 'Tasks'} {', '.join(needing)}: the tokenizer must say which characters "
            f"a subword stands for, and {type(tokenizer).__name__}, a slow one, does not. Take a backbone with a "
            "tokenizer.json, or leave out such tasks: those of whole texts, and those that write, do not need it."
        )


def prepare_tokenizer(tokenizer: Any, config: Any, tasks: Iterable[Any] = ()) -> Any:
    """Makes a tokenizer fit to batch for this backbone, in place.

    A decoder's tokenizer often has no padding token: the end-of-text token takes its place (padded positions are
    masked, so which token it is does not matter). `model_max_length` becomes what the backbone really takes.

    Args:
        tokenizer: fast, or, where no task needs offsets, slow.
        config: the backbone's.
        tasks: those that it tokenizes for.

    Raises:
        ValueError: it gives no offsets (a slow one), and a task needs them; or no token can stand in for padding.
    """
    check_offsets(tokenizer, tasks)
    if tokenizer.pad_token_id is None:
        spare = next((t for t in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token) if t), None)
        if spare is None:
            raise ValueError(
                "The tokenizer has no padding token, nor an end, unknown or begin token to stand in for it. "
                "Set one: tokenizer.pad_token = '...'."
            )
        tokenizer.pad_token = spare
    if tokenizer.pad_token_id >= config.vocab_size:
        raise ValueError(
            f"The tokenizer's padding token {tokenizer.pad_token!r} has id {tokenizer.pad_token_id}, and the backbone "
            f"knows {config.vocab_size} tokens. Take a token that it knows, or model.resize_token_embeddings(...)."
        )
    limit = longest_input(config)
    if limit is None and tokenizer.model_max_length >= NO_LIMIT:
        limit = DEFAULT_LIMIT
    if limit is not None and limit < tokenizer.model_max_length:
        tokenizer.model_max_length = limit
    return tokenizer
