"""A distribution over labels for a text, or for a pair of texts: what share of people would say which."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from .base import Features, Row, RowError, shown
from .labels import label_id, label_index, sorted_names
from .pooled import PooledLabelTask
from .registry import register_task
from .soft_outputs import SoftReader, labels_of_rows
from .softmax import softmax

__all__ = ["SoftLabelClassification"]


@register_task("soft-label-classification")
@dataclass(frozen=True, kw_only=True)
class SoftLabelClassification(PooledLabelTask):
    """A distribution over labels for a text or a pair, learned from votes, weights or a teacher's probabilities.

    The loss is the cross entropy with the distribution of the row, which is the KL divergence up to a constant.

    Columns: `text`, `text_pair` (for pairs), `label`: a dict label -> weight (one that is left out, or None, weighs
    nothing), or a list of weights in the order of `labels`. Weights are 0 or more and need not add up to 1.
    Answer: a list of `{"label", "score"}` for all labels, the best first. Scores: `accuracy` against the likeliest
    label; `cross_entropy` and `kl_divergence` in nats, which unlike all others are not bounded by 1 and better when
    lower.

    Args:
        label: the column of the weights.
        labels: the label names, in the order of the logits; learned by `from_dataset` where the weights are dicts.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
    """

    main_metric = "accuracy"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "kl_divergence"})

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        if self.labels is not None:
            return self
        found: set[Any] = set()
        for i, value in enumerate(dataset[self.label]):
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"Task {self.name!r}: labels can be learned where column {self.label!r} holds dicts label -> "
                    f"weight, and row {i} has {shown(value)}. Give the task labels=[...], in the order of the weights."
                )
            found.update(label for label, weight in value.items() if weight is not None)
        return replace(self, labels=sorted_names(found))

    def encode_label(self, value: Any, index: int) -> list[float]:
        weights = self._weights(value, index)
        most = max(weights)
        if most == 0:
            raise RowError(
                f"Task {self.name!r}: column {self.label!r} must weigh at least one label above 0, got "
                f"{shown(value)}. Leave out rows that nobody has labelled.",
                index,
            )
        # The sum of the weights themselves may overflow. Of many labels most weigh nothing.
        total = math.fsum(weight / most for weight in weights if weight)
        return [weight / most / total if weight else 0.0 for weight in weights]

    def _weights(self, value: Any, index: int) -> list[float]:
        """A weight for each label, not normalised."""
        labels = self.known_labels()
        if isinstance(value, Mapping):
            names = label_index(labels)
            weights = [0.0] * len(labels)
            for label, weight in value.items():
                if weight is not None:  # what a row's dict leaves out becomes None in a `datasets.Dataset`
                    weights[label_id(self.name, label, names, index)] += self._weight(weight, value, index)
            return weights
        if not isinstance(value, list | tuple):
            raise RowError(
                f"Task {self.name!r}: column {self.label!r} must hold a dict label -> weight or a list of weights, "
                f"got {shown(value)}.",
                index,
            )
        if len(value) != len(labels):
            raise RowError(
                f"Task {self.name!r}: column {self.label!r} must hold {len(labels)} weights, one for each of its "
                f"labels {list(labels)!r:.80}, got {len(value)}: {shown(value)}.",
                index,
            )
        return [self._weight(weight, value, index) for weight in value]

    def _weight(self, weight: Any, value: Any, index: int) -> float:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise RowError(
                f"Task {self.name!r}: weights in column {self.label!r} must be finite numbers of 0 or more, got "
                f"{shown(weight)} in {shown(value)}.",
                index,
            )
        return float(weight)

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return torch.tensor(labels, dtype=torch.float32)

    def references(self, rows: Sequence[Row]) -> list[list[float]]:
        return [self.encode_label(row[self.label], i) for i, row in enumerate(rows)]

    def build_head(self, backbone: Any) -> nn.Module:
        return self.pooled_head(backbone, [0.0] * len(self.known_labels()), F.cross_entropy)

    def soft_outputs(self) -> SoftReader:
        return labels_of_rows

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[list[float]]:
        return softmax(np.stack(logits).astype(np.float64)).tolist()

    def answer(self, prediction: Any, row: Row) -> list[dict[str, Any]]:
        ranked = sorted(zip(self.known_labels(), prediction, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in ranked]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.soft_label import soft_label_scores

        return soft_label_scores(list(predictions), list(references))

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        """The mean distribution of the training data: of all constants it has the least cross entropy."""
        return [np.mean(references, axis=0).tolist()] * len(rows)
