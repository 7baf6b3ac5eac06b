"""A number for a text, or for a pair of texts; and how alike the texts of a pair are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from .base import Features, Row, RowError
from .finite_numbers import is_written_number, number_fault
from .labels import declared_names
from .plain import PlainHead
from .pooled import PooledTask
from .registry import register_task
from .soft_outputs import Numbers, SoftReader

__all__ = ["Regression", "SentenceSimilarity"]


@register_task("regression")
@dataclass(frozen=True, kw_only=True)
class Regression(PooledTask):
    """A number for a text or a pair.

    The model learns `(number - low) / (high - low)` by the squared error, so that the loss does not hang on the unit.
    Answers are in the unit of the data, and none is outside `low` to `high`.

    Columns: `text`, `text_pair` (for pairs), `label` (a number).
    Answer: `{"score"}`. Scores: `spearman`, `pearson` (-1 to 1), and `mse`, in the unit of the data, which unlike
    all others is not bounded by 1 and better when lower.

    Args:
        label: the column of the number.
        low: the least number; learned by `from_dataset`.
        high: the greatest number; learned by `from_dataset`.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
    """

    label: str = "score"
    low: float | None = None
    high: float | None = None

    main_metric = "spearman"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"mse"})
    plain_problem = "regression"
    # Features hold the data's own numbers; `stack_labels` scales them.
    not_in_features = PooledTask.not_in_features | {"low", "high"}
    not_encoded = PooledTask.not_encoded | not_in_features

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("low", "high"):
            if getattr(self, field) is not None:
                self._check_number(field, math.isfinite, "a finite number")
        if self.low is not None and self.high is not None:
            self._check("high", self.high, self.high > self.low, f"above low, which is {self.low!r}")

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        if self.low is not None and self.high is not None:
            return self
        if names := declared_names(dataset, self.label):
            raise ValueError(
                f"Task {self.name!r}: column {self.label!r} holds names ({list(names)[:5]!r}, a ClassLabel), not "
                "numbers. Take text-classification, or cast the column to numbers."
            )
        numbers = list(dataset[self.label])
        faults = {i: fault for i, value in enumerate(numbers) if (fault := number_fault(self.name, self.label, value))}
        if faults:  # one empty cell makes a table's whole column text: that cell is the fault, and not the first row
            i = next((i for i in faults if not is_written_number(numbers[i])), min(faults))
            raise ValueError(f"{faults[i]} This is row {i}.")
        low = float(min(numbers)) if self.low is None else self.low
        high = float(max(numbers)) if self.high is None else self.high
        if low >= high:
            raise ValueError(
                f"Task {self.name!r}: column {self.label!r} holds numbers from {min(numbers)!r} to {max(numbers)!r}, "
                f"which gives the range {low!r} to {high!r}. Give the task low=... and high=..."
            )
        return replace(self, low=low, high=high)

    def known_range(self) -> tuple[float, float]:
        """The least and the greatest number; raises ValueError where they are not known yet."""
        if self.low is None or self.high is None:
            raise ValueError(
                f"Task {self.name!r}: the range of its numbers is not known. Make it by "
                f"{type(self).__name__}.from_dataset(...), or give low=... and high=..."
            )
        return self.low, self.high

    def encode_label(self, value: Any, index: int) -> float:
        if fault := number_fault(self.name, self.label, value):
            raise RowError(fault, index)
        return float(value)

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        """`[batch, 1]`, `low` as 0 and `high` as 1."""
        low, high = self.known_range()
        # In float64: of large numbers with small differences (years, times) float32 would keep little.
        return ((torch.tensor(labels, dtype=torch.float64) - low) / (high - low)).float()[:, None]

    def references(self, rows: Sequence[Row]) -> list[float]:
        return [self.encode_label(row[self.label], i) for i, row in enumerate(rows)]

    def build_head(self, backbone: Any) -> nn.Module:
        self.known_range()
        return self.pooled_head(backbone, [0.5], F.mse_loss)  # in the middle of the range

    def soft_outputs(self) -> SoftReader:
        return lambda logits, labels, mask: [Numbers(logits)]

    def in_own_unit(self, logits: torch.Tensor, other: Any) -> torch.Tensor:
        (low, high), (others_low, others_high) = self.known_range(), other.known_range()
        return (others_low + (others_high - others_low) * logits.float() - low) / (high - low)

    def plain_head(self, head: nn.Module) -> PlainHead:
        """Its number is in the unit of the data, as answers are, and is not kept inside `low` to `high`."""
        low, high = self.known_range()
        plain = super().plain_head(head)
        if plain.weight is None or (plain.bias is None and low != 0):
            raise self.not_plain(f"its head has no bias (bias=False), which numbers from low={low!r} need")
        return replace(
            plain,
            weight=plain.weight * (high - low),
            bias=None if plain.bias is None else plain.bias * (high - low) + low,
        )

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, float]]:
        low, high = self.known_range()
        numbers = low + (high - low) * np.stack(logits)[:, 0].astype(np.float64)
        return [{"score": score} for score in numbers.clip(low, high).tolist()]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.correlation import correlation_scores

        return correlation_scores([found["score"] for found in predictions], list(references))

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        """The mean of the training data: numbers seldom repeat, and of all constants it has the least error."""
        return [{"score": math.fsum(references) / len(references)}] * len(rows)


@register_task("sentence-similarity")
@dataclass(frozen=True, kw_only=True)
class SentenceSimilarity(Regression):
    """How alike the two texts of a pair are, as a number in the range of the training data.

    The texts are read together, in their order (a cross-encoder): more exact than comparing two vectors, but each
    pair costs a pass, and the answer may change a little where the texts change places.

    Columns: `text`, `text_pair`, `label` (a number). Answer: `{"score"}`. Fields and scores are `Regression`'s.
    """

    text_pair: str | None = "text_pair"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("text_pair", self.text_pair, bool(self.text_pair), "a column: only two texts can be alike")
