"""Causal language modelling: what a decoder writes after a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from .base import Features, Row, RowError
from .language_heads import CausalHead
from .language_task import WritingTask, by_row
from .registry import register_task
from .special_tokens import added_around
from .window_values import stack_windows

__all__ = ["TextGeneration"]

NEW_TOKENS = 64


@register_task("text-generation")
@dataclass(frozen=True, kw_only=True)
class TextGeneration(WritingTask):
    """Text that goes on, by a decoder as a causal language model.

    Columns: `text`, and where the data has it `prompt`, which stands before the text and is not learned. Long texts
    without a prompt are read in windows that follow each other. Rows with a `prompt` alone are answered.
    Answer: `{"generated_text"}`, what comes after the prompt; a list of these with `num_return_sequences`. Scores:
    `perplexity` of the texts (given their prompts), `token_accuracy`.

    Args:
        prompt: the column of what is given. Where it is named, all labelled data must have it.
        generation: options of `generate`; `max_new_tokens` is 64 where nothing is said. Of a long prompt the end is
            read, so that there is room for what is written.
    """

    prompt: str = "prompt"

    main_metric = "token_accuracy"
    mean_over_labels = True
    lower_is_better = frozenset({"perplexity"})
    language_model = "causal"
    # How much is to be written says how much of a prompt is read.
    not_in_features = WritingTask.not_in_features - {"generation"}
    not_encoded = WritingTask.not_encoded - {"generation"} | {"text"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("prompt", self.prompt, self.prompt != self.text, "another column than text")

    def inputs(self) -> dict[str, str]:
        return {"text": self.prompt}

    def columns(self) -> tuple[str, ...]:
        return (self.text,) if self.prompt == TextGeneration.prompt else (self.text, self.prompt)

    def columns_to_encode(self, given: Sequence[str]) -> tuple[str, ...]:
        return self.columns() if self.text in given else (self.prompt,)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        if self.text not in rows[0]:
            return self._prompts(rows, tokenizer)
        limit, end = self.limit(tokenizer), tokenizer.eos_token_id
        prompts = self._ids([self.read_text(r, self.prompt, i) if self.prompt in r else "" for i, r in enumerate(rows)],
                            tokenizer, special=True)  # fmt: skip
        texts = self._ids([self.read_text(r, self.text, i) for i, r in enumerate(rows)], tokenizer, special=False)
        features: list[Features] = []
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            text = [*text, end] if end is not None and text[-1:] != [end] else text
            if self.prompt in rows[i]:
                if len(prompt) > limit - 2:
                    raise RowError(
                        f"Task {self.name!r}: column {self.prompt!r} has {len(prompt)} subwords, and with its text "
                        f"at most {limit} can be read. Shorten the prompts, or raise max_length.",
                        i,
                    )
                ids = (prompt + text)[:limit]
                features.append({"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :], "row": i})
                continue
            bounds = [*range(0, len(prompt + text), limit), len(prompt + text)]
            for start, stop in pairwise(bounds):
                ids = (prompt + text)[start:stop]
                features.append({"input_ids": ids, "labels": ids, "row": i})
        return features

    def _prompts(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        """Of a long prompt the end, so that what is written has its room."""
        longest = tokenizer.model_max_length
        # A max_length counts the prompt, and at least one token is written.
        new = int(self.generation_options(tokenizer).get("max_new_tokens") or 1)
        room = min(self.limit(tokenizer), longest - new if new < longest else longest // 2)
        texts = [self.read_text(row, self.prompt, i) for i, row in enumerate(rows)]
        filler = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        found = self._ids(texts, tokenizer, special=False)
        # What stands at the beginning of every text is kept: some decoders write nonsense without it.
        beginning = added_around(tokenizer)[0][: max(0, room - 1)]
        room -= len(beginning)
        return [{"input_ids": [*beginning, *ids[-room:]] or [filler], "row": i} for i, ids in enumerate(found)]

    def _ids(self, texts: list[str], tokenizer: Any, special: bool) -> list[list[int]]:
        """Subwords, with what the tokenizer puts at the beginning where `special`, and never with an end."""
        found = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        beginning = added_around(tokenizer)[0] if special else []
        return [[*beginning, *ids] for ids in found]

    def written_part(self, feature: Features) -> Sequence[int] | None:
        return [k for k in feature["labels"] if k != -100]

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return stack_windows(labels, length)

    def generation_options(self, tokenizer: Any) -> dict[str, Any]:
        return self.options_with_length(min(NEW_TOKENS, tokenizer.model_max_length // 2) if tokenizer else NEW_TOKENS)

    def references(self, rows: Sequence[Row]) -> list[str]:
        return [row[self.text] for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        return CausalHead()

    def decode(self, logits: Sequence[Any], features: Sequence[Features], rows: Sequence[Row]) -> list[Any]:
        if isinstance(logits[0], np.ndarray):
            return self.sums(logits, features, len(rows))
        return self.written([texts[0] for texts in by_row(logits, features, len(rows))])

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return self.token_scores(predictions, "perplexity")
