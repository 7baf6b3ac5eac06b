"""One label for a text, or for a pair of texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from .base import Features, Row
from .labels import label_id, label_index, label_names, learned_names
from .pooled import PooledLabelTask
from .registry import register_task
from .soft_outputs import SoftReader, labels_of_rows
from .softmax import softmax
from .weighted_labels import WeightedLabels

__all__ = ["TextClassification"]


@register_task("text-classification")
@dataclass(frozen=True, kw_only=True)
class TextClassification(WeightedLabels, PooledLabelTask):
    """One label for a text or a pair.

    Columns: `text`, `text_pair` (for pairs), `label` (a string, an integer, or a `ClassLabel`). An integer is an
    index where labels are given and none of them is a number.
    Answer: `{"label", "score"}`. Scores: `accuracy`, `f1_macro`.

    Args:
        labels: the label names, in the order of the logits; learned by `from_dataset`.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
        label_smoothing, class_weights: as for `WeightedLabels`.
    """

    main_metric = "accuracy"

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        if self.labels is not None:
            return self.balanced(dataset, self.label)
        return replace(self, labels=learned_names(self.name, dataset, self.label)).balanced(dataset, self.label)

    def encode_label(self, value: Any, index: int) -> int:
        return label_id(self.name, value, label_index(self.known_labels()), index)

    def references(self, rows: Sequence[Row]) -> list[str]:
        return label_names([row[self.label] for row in rows], self.labels)

    def build_head(self, backbone: Any) -> nn.Module:
        return self.pooled_head(backbone, [0.0] * len(self.known_labels()), self.label_loss(F.cross_entropy))

    def soft_outputs(self) -> SoftReader:
        return labels_of_rows

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
