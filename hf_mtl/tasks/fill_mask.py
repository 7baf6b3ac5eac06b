"""Masked language modelling on raw text: an auxiliary task that keeps a backbone at home in its domain."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from .base import Features, Row
from .language_heads import MaskedHead
from .language_task import LanguageTask
from .masking import Masking
from .registry import register_task
from .softmax import softmax
from .whole_words import hidden_together

__all__ = ["FillMask"]

# How masks are written by whoever does not know the backbone's own.
_MASK = re.compile(r"\[MASK\]|<mask>")


@register_task("fill-mask")
@dataclass(frozen=True, kw_only=True)
class FillMask(LanguageTask):
    """The tokens that are hidden in a text, by the backbone's own masked language model, with its pretrained head where
    the checkpoint has one.

    Columns: `text` (raw; long ones are read in windows), or to be answered `masked_text`, in which `[MASK]` or
    `<mask>` stands for the backbone's mask. Words to hide are drawn anew at every reading.
    Answer: for each mask that the backbone can see the likeliest tokens, `{"score", "token", "token_str", "sequence"}`;
    of one mask these, of several a list of them. Scores: `pseudo_perplexity` and `token_accuracy`, every word hidden
    once, `mask_probability` of them at a time (Salazar et al. 2020 hide one token at a time, at that many times the
    cost).

    Args:
        masked_text: the column of texts with masks.
        mask_probability: share of the words that are hidden.
        whole_words: whether all subwords of a word are hidden together; of words longer than 8 subwords, and of
            writing that puts no spaces between words (Chinese, Thai, ...), all subwords of a character.
        top_k: how many tokens an answer has.
    """

    masked_text: str = "masked_text"
    mask_probability: float = 0.15
    whole_words: bool = True
    top_k: int = 5

    per_word = True
    needs_offsets = True  # to know the words
    main_metric = "token_accuracy"
    sample: ClassVar[Mapping[str, Any]] = {"text": "The Louvre is a [MASK] in Paris."}
    lower_is_better = frozenset({"pseudo_perplexity"})
    language_model = "masked"
    not_in_features = LanguageTask.not_in_features | {"mask_probability", "top_k"}
    not_encoded = LanguageTask.not_encoded | {"mask_probability", "top_k", "text", "whole_words"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("masked_text", self.masked_text, self.masked_text != self.text, "another column than text")
        self._check_number("mask_probability", lambda v: 0 < v < 1, "a number above 0 and below 1")
        self._check_number("top_k", lambda v: v >= 1, "a whole number of 1 or more", whole=True)

    def inputs(self) -> dict[str, str]:
        return {"text": self.masked_text}

    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    def columns_to_encode(self, given: Sequence[str]) -> tuple[str, ...]:
        return (self.text,) if self.text in given else (self.masked_text,)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"Task {self.name!r}: the tokenizer has no mask token, and without one nothing can be hidden. "
                "Take a backbone that was trained as a masked language model."
            )
        return self._texts(rows, tokenizer) if self.text in rows[0] else self._masked(rows, tokenizer)

    def _texts(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        texts = [self.read_text(row, self.text, i) for i, row in enumerate(rows)]
        encoded = tokenizer(
            texts, truncation=True, max_length=self.limit(tokenizer), return_overflowing_tokens=True,
            return_attention_mask=False, verbose=False,
        )  # fmt: skip
        features = []
        # What has such an id stands for no word, wherever it comes from; but an unknown word is one.
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        for k, encoding in enumerate(encoded.encodings):
            text = texts[encoded["overflow_to_sample_mapping"][k]]
            read = zip(encoding.word_ids, encoding.ids, strict=True)
            places = [i for i, (word, token) in enumerate(read) if word is not None and token not in special]
            words = hidden_together(encoding, places, text) if self.whole_words else places
            numbers = {word: n for n, word in enumerate(dict.fromkeys(words))}
            feature: Features = {
                "input_ids": encoding.ids,
                "positions": places,
                "labels": [[encoding.ids[i], numbers[word]] for i, word in zip(places, words, strict=True)],
                "row": encoded["overflow_to_sample_mapping"][k],
            }
            if "token_type_ids" in encoded:
                feature["token_type_ids"] = encoding.type_ids
            features.append(feature)
        return features

    def _masked(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        given = [self.read_text(row, self.masked_text, i) for i, row in enumerate(rows)]
        texts = [tokenizer.mask_token.join(_MASK.split(text)) for text in given]
        encoded = tokenizer(
            texts, truncation=True, max_length=self.limit(tokenizer), return_attention_mask=False, verbose=False
        )
        return [
            {key: values[i] for key, values in encoded.items()}
            | {"positions": [k for k, token in enumerate(ids) if token == tokenizer.mask_token_id], "row": i}
            for i, ids in enumerate(encoded["input_ids"])
        ]

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        """`[batch, places, 2]`: the token at each place, and the number of its word; padded by -1."""
        stacked = torch.full((len(labels), length, 2), -1)
        for row, own in zip(stacked, labels, strict=True):
            if own:
                row[: len(own)] = torch.tensor(own)
        return stacked

    def masking(self, mask_token: int, vocabulary: int) -> Masking:
        return Masking(self.mask_probability, mask_token, vocabulary)

    def build_head(self, backbone: Any) -> nn.Module:
        return MaskedHead()

    def cut(self, logits: np.ndarray, feature: Features) -> np.ndarray:
        return logits if "labels" in feature else super().cut(logits, feature)

    def detokenize(self, outputs: Sequence[np.ndarray], tokenizer: Any) -> list[Any]:
        """Logits of each mask -> its likeliest tokens; sums of scores stay."""
        return [self._likeliest(output, tokenizer) if output.ndim == 2 else output for output in outputs]

    def _likeliest(self, logits: np.ndarray, tokenizer: Any) -> list[list[dict[str, Any]]]:
        scores = softmax(logits)
        best = np.argsort(-scores, axis=-1, kind="stable")[:, : self.top_k]
        return [
            [{"score": float(own[k]), "token": int(k), "token_str": tokenizer.decode([int(k)]).strip()} for k in ids]
            for own, ids in zip(scores, best, strict=True)
        ]

    def decode(self, logits: Sequence[Any], features: Sequence[Features], rows: Sequence[Row]) -> list[Any]:
        if len(logits) and isinstance(logits[0], np.ndarray):
            return self.sums(logits, features, len(rows))
        return [self._filled(masks, row[self.masked_text]) for masks, row in zip(logits, rows, strict=True)]

    def _filled(self, masks: list[list[dict[str, Any]]], text: str) -> list[Any]:
        """Each token with the text in which it stands for its mask; other masks stay."""
        answers = []
        for place, tokens in zip(_MASK.finditer(text), masks, strict=False):
            before, after = text[: place.start()], text[place.end() :]
            answers.append([token | {"sequence": before + token["token_str"] + after} for token in tokens])
        return answers[0] if len(answers) == 1 else answers

    def references(self, rows: Sequence[Row]) -> list[str]:
        return [row[self.text] for row in rows]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return self.token_scores(predictions, "pseudo_perplexity")
