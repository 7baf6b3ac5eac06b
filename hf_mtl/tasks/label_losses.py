"""Losses over labels: smoothed, and with some labels counting more than others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .window_values import IGNORED

__all__ = ["BinaryLoss", "LabelLoss", "balanced_weights", "choice_loss", "positive_weights", "total_weight"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class LabelLoss:
    """The mean cross entropy over labels, as `torch.nn.functional.cross_entropy(weight=, label_smoothing=)` has it.

    Unlike there it is 0, not NaN, where no label counts.

    Args:
        weights: what each label counts; None: each the same.
        smoothing: what share of the target is spread evenly over all labels.
    """

    weights: tuple[float, ...] | None = None
    smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`logits [..., classes]`, `labels [...]` or -100 where there is none -> `[]` in float32."""
        # Made at each call: a buffer that is not saved is lost where a model is filled from a file.
        weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        total = F.cross_entropy(
            logits.float().flatten(0, -2), labels.flatten(), weight=weights, ignore_index=IGNORED, reduction="sum",
            label_smoothing=self.smoothing,
        )  # fmt: skip
        counted = total_weight(labels, self.weights)
        return torch.where(counted > 0, total / counted.masked_fill(counted == 0, 1), 0 * total)


@dataclass(frozen=True, kw_only=True)
class BinaryLoss:
    """The mean binary cross entropy over rows and labels.

    Args:
        weights: what a label that holds counts, for each label (`pos_weight` of PyTorch); None: as one that does not.
        smoothing: the targets are so far from 0 and 1, times a half.
    """

    weights: tuple[float, ...] | None = None
    smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`logits [batch, labels]`, `labels [batch, labels]` of 0 and 1 -> `[]`."""
        weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        targets = labels * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def choice_loss(logits: torch.Tensor, labels: torch.Tensor, real: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The mean cross entropy over rows whose numbers of choices differ, smoothed over the choices that a row has.

    Args:
        logits: `[rows, choices]` in float32, the least number that there is for a choice that a row does not have.
        labels: `[rows]`.
        real: `[rows, choices]` whether the row has the choice.
        smoothing: what share of the target is spread evenly over a row's choices.
    """
    loss = F.cross_entropy(logits, labels)
    if not smoothing:
        return loss
    told = logits.log_softmax(-1).masked_fill(~real, 0)
    even = -(told.sum(-1) / real.sum(-1).clamp(min=1)).mean()
    return (1 - smoothing) * loss + smoothing * even


def total_weight(labels: torch.Tensor, weights: Sequence[float] | None) -> torch.Tensor:
    """What some labels (-100: none) count together, `[]`: how many they are where all count the same."""
    learned = labels != IGNORED
    if weights is None:
        return learned.sum()
    return torch.tensor(weights, device=labels.device)[labels.clamp(min=0)].mul(learned).sum()


def balanced_weights(counts: Mapping[str, int], labels: Iterable[str]) -> dict[str, float]:
    """`n / (k * count)` of each label, n the number of all and k that of labels that occur: scikit-learn's "balanced".

    All labels that occur count the same together, and the mean weight over the data is 1. A label that never occurs
    has 1, the mean: its own is infinite by the formula, and none is needed, for no row trains it. (It may be declared,
    or the `I-` of a type whose spans are all of one word, so that it is no error; and by a weight of 0 the loss on
    other data would leave out its rows.)
    """
    total, kinds = sum(counts.values()), sum(count > 0 for count in counts.values())
    return {name: total / (kinds * counts[name]) if counts.get(name) else 1.0 for name in labels}


def positive_weights(counts: Mapping[str, int], labels: Iterable[str], rows: int) -> dict[str, float]:
    """How many rows a label does not hold for, for each that it does: both sides of it count the same together.

    1 for a label that holds for no row, or for all: there is nothing to balance.
    """
    found = {name: counts.get(name, 0) for name in labels}
    return {name: (rows - count) / count if 0 < count < rows else 1.0 for name, count in found.items()}
