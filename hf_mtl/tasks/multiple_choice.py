"""Which of some given choices answers a question; each row may have another number of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbone import is_causal, width_of
from .base import Features, Row, RowError, Task, TaskOutput, shown
from .label_losses import choice_loss
from .plain import PlainHead
from .pooling import POOLINGS, pool, resolve_pooling
from .registry import register_task
from .soft_outputs import SoftReader, labels_of_rows
from .softmax import softmax
from .texts import tokenize_texts
from .weighted_labels import SmoothedLabels

__all__ = ["MultipleChoice"]


@register_task("multiple-choice")
@dataclass(frozen=True, kw_only=True)
class MultipleChoice(SmoothedLabels):
    """The right one of some choices, as many as each row has.

    Columns: `question`, `choices` (a list of two or more texts), `context` (where there is one), `label` (the index
        of the right choice). Each choice is read together with the question: as the second text of a pair, or, where
        there is a context, behind the question as the second text.
    Answer: `{"label", "choice", "score"}`, the index, the text and the probability. Score: `accuracy`.

    Args:
        context: the column of a text that the question is about; None: there is none.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
        label_smoothing: what share of the target is spread evenly over a row's choices.
    """

    question: str = "question"
    choices: str = "choices"
    context: str | None = None
    label: str = "label"
    pooling: str = "auto"

    main_metric = "accuracy"
    grouped = True
    optional_columns = frozenset({"context"})
    not_in_features = Task.not_in_features | {"pooling"}
    not_encoded = Task.not_encoded | {"label", "pooling"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("pooling", self.pooling, self.pooling in POOLINGS, f"one of {POOLINGS}")

    def inputs(self) -> dict[str, str]:
        found = {"question": self.question, "choices": self.choices}
        return found | ({"context": self.context} if self.context else {})

    def columns(self) -> tuple[str, ...]:
        return (*self.inputs().values(), self.label)

    def read_value(self, name: str, value: Any) -> Any:
        if name != "choices":
            return super().read_value(name, value)
        if not _are_choices(value):
            raise ValueError(
                f"Task {self.name!r}: 'choices' must be a list of two or more strings, got {shown(value)}."
            )
        return value

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        first: list[str] = []
        second: list[str] = []
        for i, row in enumerate(rows):
            question = self.read_text(row, self.question, i)
            if not _are_choices(row[self.choices]):
                raise RowError(
                    f"Task {self.name!r}: column {self.choices!r} must hold a list of two or more texts, "
                    f"got {shown(row[self.choices])}.",
                    i,
                )
            for choice in row[self.choices]:
                text = self.read_text({self.choices: choice}, self.choices, i)
                first.append(question if self.context is None else self.read_text(row, self.context, i))
                second.append(text if self.context is None else f"{question} {text}")
        encoded = tokenize_texts(tokenizer, first, second, self.limit(tokenizer))
        features: list[Features] = []
        start = 0
        for i, row in enumerate(rows):
            end = start + len(row[self.choices])
            features.append({key: encoded[key][start:end] for key in ("input_ids", "token_type_ids") if key in encoded})
            features[-1]["row"] = i
            start = end
        if self.label in rows[0]:
            for i, (feature, row) in enumerate(zip(features, rows, strict=True)):
                feature["labels"] = self._gold(row, i)
        return features

    def _gold(self, row: Row, index: int) -> int:
        label, count = _index(row[self.label]), len(row[self.choices])
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < count:
            raise RowError(
                f"Task {self.name!r}: column {self.label!r} must hold the index of the right choice, a whole number "
                f"from 0 to {count - 1} (the row has {count} choices), got {shown(label)}.",
                index,
            )
        return label

    def references(self, rows: Sequence[Row]) -> list[int]:
        return [_index(row[self.label]) for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        how = resolve_pooling(self.pooling, is_causal(backbone))
        return ChoiceScorer(width_of(backbone), how, self.dropout, self.label_smoothing)

    def soft_outputs(self) -> SoftReader:
        return labels_of_rows

    def plain_head(self, head: nn.Module) -> PlainHead:
        scorer: Any = head
        if scorer.pooling != "first":
            raise self.not_plain(
                f"it reads a choice's {scorer.pooling} vector, and transformers' classes read the first token's; a "
                "task made with pooling='first' can be exported"
            )
        return PlainHead(model="AutoModelForMultipleChoice", reads="choices", weight=scorer.scorer.weight)

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        found = [softmax(values[None])[0] for values in logits]
        return [{"label": int(scores.argmax()), "scores": scores.tolist()} for scores in found]

    def answer(self, prediction: Any, row: Row) -> dict[str, Any]:
        best = prediction["label"]
        return {"label": best, "choice": row[self.choices][best], "score": prediction["scores"][best]}

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        hits = [prediction["label"] == gold for prediction, gold in zip(predictions, references, strict=True)]
        return {"accuracy": sum(hits) / len(hits)}

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        label, _ = Counter(references).most_common(1)[0]
        counts = [len(row[self.choices]) for row in rows]
        return [{"label": min(label, n - 1), "scores": [1 / n] * n} for n in counts]


def _index(value: Any) -> Any:
    """An index is one as text too, as a `ClassLabel` or a CSV file has it."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _are_choices(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and len(value) >= 2 and all(isinstance(choice, str) for choice in value)


class ChoiceScorer(nn.Module):
    """Pooled hidden states of each choice -> dropout -> one number each, in the dtype of its own weights."""

    def __init__(self, width: int, pooling: str, dropout: float, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.scorer = nn.Linear(width, 1, bias=False)  # the softmax over the choices would not see one

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [rows, choices, seq, width]`, `mask [rows, choices, seq]`, `labels [rows]` -> `[rows, choices]`.

        A choice that a row does not have, its mask all 0, has the least logit that there is.
        """
        vectors = pool(hidden.to(self.scorer.weight.dtype).flatten(0, 1), mask.flatten(0, 1), self.pooling)
        logits = self.scorer(self.dropout(vectors)).squeeze(-1).unflatten(0, mask.shape[:2])
        real = mask.any(-1)
        logits = logits.masked_fill(~real, torch.finfo(logits.dtype).min)
        if labels is None:
            return TaskOutput(None, logits)
        return TaskOutput(choice_loss(logits.float(), labels, real, self.smoothing), logits)
