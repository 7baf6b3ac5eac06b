"""The vectors of two spans -> logits of the relation between them."""

import torch
from torch import nn

from .base import TaskOutput
from .label_losses import Loss
from .window_values import mean_cross_entropy

__all__ = ["MarkerVectors", "PooledVectors", "RelationHead"]


class RelationHead(nn.Module):
    """Vectors of the pair -> dropout -> linear, in the dtype of its own weights."""

    def __init__(
        self,
        vectors: "MarkerVectors | PooledVectors",
        width: int,
        labels: int,
        dropout: float,
        loss: Loss = mean_cross_entropy,
    ):
        super().__init__()
        self.loss = loss
        self.vectors = vectors
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width * vectors.count, labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, places, width]`, `mask [batch, places]`, `labels [batch]` -> `logits [batch, 1, labels]`."""
        pair = self.vectors(hidden.to(self.classifier.weight.dtype), mask).flatten(1)
        logits = self.classifier(self.dropout(pair)).unsqueeze(1)
        if labels is None:
            return TaskOutput(None, logits)
        return TaskOutput(self.loss(logits.squeeze(1), labels), logits)


class MarkerVectors(nn.Module):
    """The opening symbols of head and tail (arXiv:1906.03158, "entity start").

    On a causal backbone an opening symbol has not read its span: there it is the closing ones, and the last subword,
    the only one that has read both spans and all of the text.
    """

    def __init__(self, causal: bool):
        super().__init__()
        self.places = (2, 3, 4) if causal else (0, 1)
        self.count = len(self.places)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`hidden [batch, 5, width]` -> `[batch, count, width]`."""
        # A forward that was given no positions shows whatever subwords there are.
        places = torch.tensor(self.places, device=hidden.device).clamp(max=hidden.shape[1] - 1)
        return hidden[:, places]


class PooledVectors(nn.Module):
    """The input's first subword (its last on a causal backbone), the mean of the head's, the mean of the tail's."""

    count = 3

    def __init__(self, causal: bool):
        super().__init__()
        self.whole = 1 if causal else 0

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`hidden [batch, 2 + 2 * places, width]`: first, last, then head and tail by turns -> `[batch, 3, width]`."""
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        sums = [(hidden * weights)[:, start::2].sum(1) / weights[:, start::2].sum(1).clamp(min=1) for start in (2, 3)]
        return torch.stack([hidden[:, min(self.whole, hidden.shape[1] - 1)], *sums], dim=1)
