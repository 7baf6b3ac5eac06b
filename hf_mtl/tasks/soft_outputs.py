"""What a head says as distributions, and how far two of them are apart: a teacher's, or another pass's."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from typing_extensions import Self

from .window_values import IGNORED

__all__ = ["Numbers", "OneLabel", "SoftOutputs", "SoftReader", "YesNo", "labels_of_rows", "labels_of_words"]


@dataclass(frozen=True)
class SoftOutputs(ABC):
    """What a head says of some items.

    Args:
        values: `[items, k]` logits, or numbers.
    """

    values: torch.Tensor

    @abstractmethod
    def loss_to(self, teacher: Self, temperature: float) -> torch.Tensor:
        """The loss `[]` whose target is what a teacher says of the same items; scaled as the loss with gold labels."""

    @abstractmethod
    def apart_from(self, other: Self) -> torch.Tensor:
        """How far apart two passes are, `[]`: symmetric, 0 where they say the same; a mean as the loss is."""


class OneLabel(SoftOutputs):
    """A softmax over labels: one of them is right."""

    def loss_to(self, teacher: Self, temperature: float) -> torch.Tensor:
        """The cross entropy with the teacher's distribution, both at this temperature, times its square.

        By the square (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2) gradients keep their size.
        """
        told, wanted = self._log_shares(temperature), teacher._log_shares(temperature).exp()
        return temperature**2 * _mean(-_times(wanted, told).sum(-1))

    def apart_from(self, other: Self) -> torch.Tensor:
        """Half the sum of both KL divergences."""
        one, two = self._log_shares(), other._log_shares()
        return _mean(_times(one.exp() - two.exp(), one - two).sum(-1)) / 2

    def _log_shares(self, temperature: float = 1.0) -> torch.Tensor:
        return (self.values.float() / temperature).log_softmax(-1)


class YesNo(SoftOutputs):
    """A sigmoid for each label: each is right or not by itself. Means are over items and labels."""

    def loss_to(self, teacher: Self, temperature: float) -> torch.Tensor:
        """As for `OneLabel`, of each label's two answers."""
        wanted = (teacher.values.float() / temperature).sigmoid()
        told = self.values.float() / temperature
        return temperature**2 * F.binary_cross_entropy_with_logits(told, wanted)

    def apart_from(self, other: Self) -> torch.Tensor:
        """Half the sum of both KL divergences: a logit is the difference of two logarithms, which all of it needs."""
        one, two = self.values.float(), other.values.float()
        return ((one.sigmoid() - two.sigmoid()) * (one - two)).mean() / 2


class Numbers(SoftOutputs):
    """Numbers, learned by the squared error. They have no temperature."""

    def loss_to(self, teacher: Self, temperature: float) -> torch.Tensor:
        return F.mse_loss(self.values.float(), teacher.values.float())

    def apart_from(self, other: Self) -> torch.Tensor:
        return F.mse_loss(self.values.float(), other.values.float())


# `(logits, labels, mask [batch, seq])` of a batch -> what they say; `mask` is of words where the head sees words.
SoftReader = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], list[SoftOutputs]]


def labels_of_rows(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> list[SoftOutputs]:
    """One label a row: `logits [batch, labels]`."""
    return [OneLabel(logits)]


def labels_of_words(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> list[SoftOutputs]:
    """One label a word, `logits [batch, words, labels]`: of the words that are learned from."""
    return [OneLabel(logits[labels != IGNORED])]


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.sum() / max(1, len(values))


def _times(factors: torch.Tensor, logarithms: torch.Tensor) -> torch.Tensor:
    """The product, 0 where a factor is 0: a choice that a row does not have may have a logarithm of -inf."""
    return factors * logarithms.masked_fill(factors == 0, 0)
