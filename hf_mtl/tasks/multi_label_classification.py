"""Any number of labels for a text, or for a pair of texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from .base import Features, Row, RowError, shown
from .labels import declared_names, label_id, label_index, label_names, sorted_names
from .pooled import PooledLabelTask
from .registry import register_task
from .soft_outputs import SoftReader, YesNo
from .starting_bias import rare
from .thresholds import best_f1_threshold
from .weighted_labels import WeightedLabels

__all__ = ["MultiLabelClassification"]


@register_task("multi-label-classification")
@dataclass(frozen=True, kw_only=True)
class MultiLabelClassification(WeightedLabels, PooledLabelTask):
    """The labels, none, one or many, of a text or a pair, each decided by itself: sigmoid and binary cross entropy.

    Columns: `text`, `text_pair` (for pairs), `label` (a list of strings, of integers or of a `ClassLabel`; an empty
    one where no label holds). An integer is an index where labels are given and none of them is a number.
    Answer: a list of `{"label", "score"}`, the best first. Scores: `f1_micro`, `f1_macro`, `subset_accuracy`.

    Args:
        label: the column of the lists; `labels`, unlike that of other types, because it holds many.
        labels: the label names, in the order of the logits; learned by `from_dataset`.
        threshold: labels whose score is above it are answered; `tune` chooses it.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
        label_smoothing: the targets are half of it above 0 and below 1.
        class_weights: label -> what its rows count beside those that it does not hold for (PyTorch's `pos_weight`), 1
            where it is left out; or `balanced`: both count the same together.
    """

    label: str = "labels"
    threshold: float = 0.5  # what a sigmoid is trained for, before anything is tuned

    main_metric = "f1_micro"
    least_labels = 1
    plain_problem = "multi_label_classification"
    not_in_features = PooledLabelTask.not_in_features | {"threshold"}
    not_encoded = PooledLabelTask.not_encoded | not_in_features

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("threshold", lambda v: 0 <= v < 1, "a number from 0 up to 1")

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        if self.labels is not None:
            return self.balanced(dataset, self.label, each_by_itself=True)
        labels = declared_names(dataset, self.label)
        if labels is None:
            values = list(dataset[self.label])
            for i, value in enumerate(values):
                if fault := self._fault(value):
                    raise ValueError(f"{fault} This is row {i}.")
            labels = sorted_names(chain.from_iterable(values))
            if not labels:
                raise ValueError(
                    f"Task {self.name!r}: column {self.label!r} holds empty lists alone: there are no labels to learn."
                )
        return replace(self, labels=labels).balanced(dataset, self.label, each_by_itself=True)

    def encode_label(self, value: Any, index: int) -> list[bool]:
        if fault := self._fault(value):
            raise RowError(fault, index)
        names = label_index(self.known_labels())
        # A bit for each label: a list of indices has no type in Arrow while it is empty.
        gold = [False] * len(self.known_labels())
        for label in value:
            gold[label_id(self.name, label, names, index)] = True
        return gold

    def _fault(self, value: Any) -> str | None:
        """What is wrong with what the label column holds; None where nothing is."""
        if isinstance(value, list | tuple) and None not in value:
            return None
        written = f" In a recipe's data, lists: {{{self.label}: ';'}} makes lists of text." * isinstance(value, str)
        return (
            f"Task {self.name!r}: column {self.label!r} must hold a list of labels, none of them missing (None), and "
            f"an empty list where there are none, got {shown(value)}.{written}"
        )

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return torch.tensor(labels, dtype=torch.float32)

    def references(self, rows: Sequence[Row]) -> list[list[str]]:
        return [label_names(row[self.label], self.labels) for row in rows]

    @property
    def label_weights(self) -> None:
        """None: `class_weights` are of labels that hold, and a batch's mean is over all rows and labels."""
        return None

    def number_of_labels(self, tokenizer: Any) -> int:
        return 2  # each label by itself: yes or no

    def build_head(self, backbone: Any) -> nn.Module:
        loss = self.binary_loss(F.binary_cross_entropy_with_logits)
        count = len(self.known_labels())
        return self.pooled_head(backbone, self.starting(rare(count, count)), loss)

    def soft_outputs(self) -> SoftReader:
        return lambda logits, labels, mask: [YesNo(logits)]

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[list[dict[str, Any]]]:
        labels = self.known_labels()
        found = []
        for scores in _sigmoid(np.stack(logits)):
            above = np.flatnonzero(scores > self.threshold)
            ranked = above[np.argsort(-scores[above], kind="stable")]
            found.append([{"label": labels[k], "score": float(scores[k])} for k in ranked])
        return found

    def tune(self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]) -> Self:
        """This task with the threshold of the best micro F1; as it is where no row has a label to find."""
        index = {name: k for k, name in enumerate(self.known_labels())}
        references = [set(names) for names in self.references(rows)]
        gold = np.zeros((len(rows), len(index)), dtype=bool)
        for i, names in enumerate(references):
            gold[i, [index[name] for name in names if name in index]] = True
        best = best_f1_threshold(_sigmoid(np.stack(logits)).ravel(), gold.ravel(), sum(map(len, references)))
        return self if best is None else replace(self, threshold=best)

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.multi_label import multi_label_scores

        return multi_label_scores([[found["label"] for found in row] for row in predictions], list(references))

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        labels, count = Counter(tuple(sorted(set(row))) for row in references).most_common(1)[0]
        return [[{"label": label, "score": count / len(references)} for label in labels]] * len(rows)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """In float64 and without overflow."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
