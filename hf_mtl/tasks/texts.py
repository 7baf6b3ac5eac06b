"""Whole texts and pairs of texts -> subwords, cut to the longest input."""

from collections.abc import Sequence
from typing import Any

from .base import Features, Row, Task

__all__ = ["encode_texts", "tokenize_texts"]


def encode_texts(task: Task, rows: Sequence[Row], tokenizer: Any, text: str, text_pair: str | None) -> list[Features]:
    """A feature a row: the text (and its pair) from its first to its last subword that fits."""
    first = [task.read_text(row, text, i) for i, row in enumerate(rows)]
    second = None if text_pair is None else [task.read_text(row, text_pair, i) for i, row in enumerate(rows)]
    encoded = tokenize_texts(tokenizer, first, second, task.limit(tokenizer))
    features: list[Features] = [{"input_ids": ids, "row": i} for i, ids in enumerate(encoded["input_ids"])]
    if "token_type_ids" in encoded:
        for feature, types in zip(features, encoded["token_type_ids"], strict=True):
            feature["token_type_ids"] = types
    return features


def tokenize_texts(
    tokenizer: Any, first: list[str], second: list[str] | None, limit: int
) -> dict[str, list[list[int]]]:
    """One call of the tokenizer. What comes out empty (a decoder's tokenizer on "") gets one end-of-text token."""
    if second is not None and not separates_pairs(tokenizer):
        first = [t + "\n" for t in first]
    encoded = tokenizer(first, second, truncation=True, max_length=limit, return_attention_mask=False, verbose=False)
    for i, ids in enumerate(encoded["input_ids"]):
        if not ids:
            filler = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
            encoded["input_ids"][i] = [filler]
            if "token_type_ids" in encoded:
                encoded["token_type_ids"][i] = [0]
    return encoded.data


def separates_pairs(tokenizer: Any) -> bool:
    """Whether the tokenizer puts something between the texts of a pair; decoders' often do not."""
    return tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)
