"""One label for a text, or for a pair of texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from ..backbone import is_causal, width_of
from .base import Features, Row, Task, TaskOutput
from .labels import check_labels, declared_names, label_id, label_index, label_names, sorted_names
from .pooling import POOLINGS, pool, resolve_pooling
from .registry import register_task
from .texts import encode_texts

__all__ = ["TextClassification"]


@register_task("text-classification")
@dataclass(frozen=True, kw_only=True)
class TextClassification(Task):
    """One label for a text or a pair.

    Columns: `text`, `text_pair` (for pairs), `label` (a string, an integer, or a `ClassLabel`). An integer is an
    index where labels are given and none of them is a number.
    Answer: `{"label", "score"}`. Scores: `accuracy`, `f1_macro`.

    Args:
        labels: the label names, in the order of the logits; learned by `from_dataset`.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    labels: tuple[str, ...] | None = None
    pooling: str = "auto"

    main_metric = "accuracy"
    not_in_features = Task.not_in_features | {"pooling"}
    not_encoded = Task.not_encoded | {"label", "labels", "pooling"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("pooling", self.pooling, self.pooling in POOLINGS, f"one of {POOLINGS}")
        if self.labels is not None:
            check_labels(self.name, self.labels, least=2)

    def inputs(self) -> dict[str, str]:
        return {"text": self.text} | ({"text_pair": self.text_pair} if self.text_pair else {})

    def columns(self) -> tuple[str, ...]:
        return (*self.inputs().values(), self.label)

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        if self.labels is not None:
            return self
        labels = declared_names(dataset, self.label)
        if labels is None:
            values = list(dataset[self.label])
            if None in values:
                raise ValueError(
                    f"Task {self.name!r}: column {self.label!r} has no label (None) in row {values.index(None)}. "
                    "Leave out rows that have none."
                )
            labels = sorted_names(values)
        return replace(self, labels=labels)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features = encode_texts(self, rows, tokenizer, self.text, self.text_pair)
        if self.label in rows[0]:
            index = label_index(self.known_labels())
            for i, (feature, row) in enumerate(zip(features, rows, strict=True)):
                feature["labels"] = label_id(self.name, row[self.label], index, i)
        return features

    def known_labels(self) -> tuple[str, ...]:
        """The label names; raises ValueError where they are not known yet."""
        return self.known("labels", self.labels)

    def references(self, rows: Sequence[Row]) -> list[str]:
        return label_names([row[self.label] for row in rows], self.labels)

    def build_head(self, backbone: Any) -> nn.Module:
        how = resolve_pooling(self.pooling, is_causal(backbone))
        return PooledClassifier(width_of(backbone), len(self.known_labels()), how, self.dropout)

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        labels = self.known_labels()
        scores = softmax(np.stack(logits))
        best = scores.argmax(-1)
        return [{"label": labels[k], "score": float(row[k])} for k, row in zip(best, scores, strict=True)]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import classification_scores

        return classification_scores([p["label"] for p in predictions], list(references))

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        label, count = Counter(references).most_common(1)[0]
        return [{"label": label, "score": count / len(references)}] * len(rows)


class PooledClassifier(nn.Module):
    """Pooled hidden states -> dropout -> linear, in the dtype of its own weights."""

    def __init__(self, width: int, labels: int, pooling: str, dropout: float):
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, seq, width]`, `mask [batch, seq]`, `labels [batch]` -> `logits [batch, labels]`."""
        vector = pool(hidden.to(self.classifier.weight.dtype), mask, self.pooling)
        logits = self.classifier(self.dropout(vector))
        return TaskOutput(None if labels is None else F.cross_entropy(logits.float(), labels), logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, without overflow."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
