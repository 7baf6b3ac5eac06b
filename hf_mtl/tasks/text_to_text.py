"""Text to text on an encoder-decoder: translation, summarization, and whatever else is written as an answer."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

from ..backbone import longest_input
from .base import NO_LIMIT, Features, Row
from .language_heads import TextToTextHead
from .language_task import WritingTask, by_row
from .registry import register_task
from .special_tokens import added_around
from .texts import encode_texts

__all__ = ["Summarization", "Text2TextGeneration", "Translation"]


@register_task("text2text-generation")
@dataclass(frozen=True, kw_only=True)
class Text2TextGeneration(WritingTask):
    """A text for a text, by an encoder-decoder.

    Columns: `text`, `target`.
    Answer: `{"generated_text"}`; a list of these with `num_return_sequences`. Scores: `exact_match`, `chrf`.

    Args:
        target: the column of the text that is to be written.
        prefix: stands before every text, and tells the backbone what is asked: `"summarize: "` for T5.
        max_target_length: most subwords of a target, in training and in answers.
        generation: options of `generate`, such as `{"num_beams": 4}`.
    """

    target: str = "target"
    prefix: str = ""
    max_target_length: int = 128

    main_metric = "exact_match"
    mean_over_labels = True
    scored_by: ClassVar[str] = "sacrebleu"
    language_model = "seq2seq"
    scored_by_writing = True
    of_answering = WritingTask.of_answering | {"max_target_length"}
    not_encoded = WritingTask.not_encoded | {"target", "max_target_length"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("prefix", self.prefix, isinstance(self.prefix, str), "a string")
        self._check_number("max_target_length", lambda v: v >= 2, "a whole number of 2 or more", whole=True)

    @property
    def longest_target(self) -> int | None:
        return self.max_target_length

    def inputs(self) -> dict[str, str]:
        return {"text": self.text}

    def columns(self) -> tuple[str, ...]:
        return (self.text, self.target)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        given = rows
        if self.prefix:
            given = [{self.text: self.prefix + self.read_text(row, self.text, i)} for i, row in enumerate(rows)]
        features = encode_texts(self, given, tokenizer, self.text, None)
        if self.target in rows[0]:
            targets = [self.read_text(row, self.target, i) for i, row in enumerate(rows)]
            end = tokenizer.eos_token_id
            if added_around(tokenizer, target=True)[1]:
                end = None  # the tokenizer ends a target itself
            encoded = tokenizer(
                text_target=targets, truncation=True, max_length=self.max_target_length - (end is not None),
                verbose=False, return_attention_mask=False,
            )["input_ids"]  # fmt: skip
            for feature, ids in zip(features, encoded, strict=True):
                feature["labels"] = ids if end is None else [*ids, end]
        return features

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in labels], True, -100)

    def unlimited(self) -> Self:
        return replace(super().unlimited(), max_target_length=NO_LIMIT)

    def written_part(self, feature: Features) -> Sequence[int] | None:
        return feature["labels"]

    def generation_options(self, tokenizer: Any) -> dict[str, Any]:
        return self.options_with_length(self.max_target_length)

    def references(self, rows: Sequence[Row]) -> list[str]:
        return [row[self.target] for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        longest = longest_input(backbone)
        fits = longest is None or self.max_target_length <= longest
        self._check("max_target_length", self.max_target_length, fits, f"{longest} or less: the decoder takes no more")
        return TextToTextHead()

    def decode(self, logits: Sequence[Any], features: Sequence[Features], rows: Sequence[Row]) -> list[Any]:
        return self.written([texts[0] for texts in by_row(logits, features, len(rows))])

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import exact_match, translation_scores

        texts = self._texts(predictions)
        chrf = translation_scores(texts, list(references))["chrf"]
        return {"exact_match": exact_match(texts, list(references)), "chrf": chrf}

    def require_scorers(self) -> None:
        from ..scoring import require_library

        require_library(self.scored_by)

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:  # type: ignore[override]
        return [{self.answer_field: Counter(references).most_common(1)[0][0]}] * len(rows)

    def _texts(self, predictions: Sequence[Any]) -> list[str]:
        """The texts, of several the first, which `generate` puts before the others by its score."""
        return [(p[0] if isinstance(p, list) else p)[self.answer_field] for p in predictions]


@register_task("translation")
@dataclass(frozen=True, kw_only=True)
class Translation(Text2TextGeneration):
    """Translation by an encoder-decoder.

    Columns: `text`, `target`.
    Answer: `{"translation_text"}`. Scores: `bleu`, `chrf` (sacrebleu).

    Args:
        source_language: for tokenizers of many languages (mBART, NLLB, M2M100): their code of the text's language.
        target_language: their code of the target's language; what is written begins with it.
        bleu_tokenize: sacrebleu's tokenizer: `zh` for targets in Chinese.
    """

    source_language: str | None = None
    target_language: str | None = None
    bleu_tokenize: str | None = None

    main_metric = "bleu"
    answer_field: ClassVar[str] = "translation_text"
    of_answering = Text2TextGeneration.of_answering | {"bleu_tokenize"}
    not_in_features = Text2TextGeneration.not_in_features | {"bleu_tokenize"}
    not_encoded = Text2TextGeneration.not_encoded | {"bleu_tokenize", "target_language"}

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        with self._languages(tokenizer):
            return super().encode(rows, tokenizer)

    @contextmanager
    def _languages(self, tokenizer: Any) -> Iterator[None]:
        wanted = {"src_lang": self.source_language, "tgt_lang": self.target_language}
        before = {name: getattr(tokenizer, name, None) for name, code in wanted.items() if code is not None}
        if before and None in before.values():
            raise ValueError(
                f"Task {self.name!r}: source_language and target_language are for tokenizers of many languages, and "
                f"{type(tokenizer).__name__} knows none. Leave them out; a prefix may say what is asked."
            )
        for name in before:
            setattr(tokenizer, name, wanted[name])
        try:
            yield
        finally:
            for name, code in before.items():
                setattr(tokenizer, name, code)

    def generation_options(self, tokenizer: Any) -> dict[str, Any]:
        options = super().generation_options(tokenizer)
        if self.target_language is not None:
            options.setdefault("forced_bos_token_id", tokenizer.convert_tokens_to_ids(self.target_language))
        return options

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import translation_scores

        return translation_scores(self._texts(predictions), list(references), self.bleu_tokenize)


@register_task("summarization")
@dataclass(frozen=True, kw_only=True)
class Summarization(Text2TextGeneration):
    """Summaries by an encoder-decoder.

    Columns: `text`, `target`.
    Answer: `{"summary_text"}`. Scores: `rouge1`, `rouge2`, `rougeL`, `rougeLsum` (rouge-score, with stemming).
    """

    main_metric = "rougeL"
    answer_field: ClassVar[str] = "summary_text"
    scored_by = "rouge_score"

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import rouge_scores

        return rouge_scores(self._texts(predictions), list(references))
