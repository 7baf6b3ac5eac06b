"""Heads of tasks that the backbone itself answers, as a language model. They have no weights of their own."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .base import TaskOutput

__all__ = ["CausalHead", "MaskedHead", "TextToTextHead", "token_loss"]

Predict = Callable[[torch.Tensor], torch.Tensor]


def token_loss(logits: torch.Tensor, gold: torch.Tensor, rows: torch.Tensor, batch: int) -> TaskOutput:
    """The loss of predicted tokens, and what scores are made of.

    Args:
        logits: `[n, vocabulary]`.
        gold: `[n]` the tokens.
        rows: `[n]` the row of each.
        batch: how many rows there are.

    Returns:
        The mean loss over the tokens, and as `logits` `[batch, 3]` in float32: a row's sum of the gold tokens'
        log-probabilities, how many of them were the likeliest, and how many there are.
    """
    losses = F.cross_entropy(logits.float(), gold, reduction="none")
    hits = (logits.detach().argmax(-1) == gold).float() if len(gold) else losses.detach()
    sums = torch.zeros(batch, 3, device=losses.device)
    sums.index_add_(0, rows, torch.stack([-losses.detach(), hits, torch.ones_like(hits)], dim=1))
    return TaskOutput(losses.sum() / max(len(gold), 1), sums)


class CausalHead(nn.Module):
    """Next-token prediction."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, predict: Predict) -> TaskOutput:
        """`hidden [batch, seq, width]`, `labels [batch, seq]` (the inputs, -100 what is not to be learned)."""
        wanted = labels[:, 1:] != -100
        return token_loss(predict(hidden[:, :-1][wanted]), labels[:, 1:][wanted], wanted.nonzero()[:, 0], len(hidden))


class MaskedHead(nn.Module):
    """Prediction of tokens at given places, `hidden [batch, places, width]`."""

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None, predict: Predict
    ) -> TaskOutput:
        """`labels [batch, places]`, -100 where nothing is asked -> `token_loss`; None -> `[batch, places, vocab]`."""
        if labels is None:
            logits = predict(hidden.flatten(0, 1))
            return TaskOutput(None, logits.unflatten(0, hidden.shape[:2]))
        wanted = labels != -100
        return token_loss(predict(hidden[wanted]), labels[wanted], wanted.nonzero()[:, 0], len(hidden))


class TextToTextHead(nn.Module):
    """Prediction of a target text, token by token, each given those before it."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, predict: Predict) -> TaskOutput:
        """`labels [batch, target]`, padded by -100."""
        wanted = labels != -100
        return token_loss(predict(labels)[wanted], labels[wanted], wanted.nonzero()[:, 0], len(hidden))
