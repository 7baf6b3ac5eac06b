"""The biaffine parser: how well each word goes with each as its head, and by which relation.

Dozat and Manning (2017), arXiv:1611.01734. Deviations: the word vectors are the backbone's, without a BiLSTM, and the
root is a learned vector among them.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .base import TaskOutput
from .window_values import IGNORED, mean_cross_entropy

__all__ = ["ARC", "CANDIDATES", "HEAD", "LABEL", "LABEL_SCORE", "BiaffineParser"]

# Of each word the root and so many of its best heads are told, for two reasons. Logits that hold all pairs of words
# would take memory by the square of the longest text; and an axis as long as the batch's words would stop Trainer,
# which pads no axis but the second, from joining batches.
CANDIDATES = 16

# What the logits say of a candidate, on their last axis.
HEAD, ARC, LABEL, LABEL_SCORE = range(4)


class BiaffineParser(nn.Module):
    """Scores of arcs and relations, in the dtype of its own weights; log-probabilities in float32.

    Args:
        width: of the word vectors.
        labels: how many relations there are.
        arc_width: of the vectors that arcs are scored from, 500 in the paper.
        label_width: of the vectors that relations are scored from, 100 in the paper.
        dropout: of the words and of these vectors, 0.33 in the paper.
    """

    def __init__(self, width: int, labels: int, arc_width: int, label_width: int, dropout: float):
        super().__init__()
        self.widths = [arc_width, label_width]
        self.dropout = nn.Dropout(dropout)
        self.root = nn.Embedding(1, width)
        # What the paper's four MLPs say of a word as a head and as a dependent, each for arcs and for relations.
        self.as_head = nn.Linear(width, sum(self.widths))
        self.as_dependent = nn.Linear(width, sum(self.widths))
        # Equations 6 and 3. Its bias is what speaks for a head whatever the dependent, as each relation's is below.
        self.arc = nn.Linear(arc_width, arc_width)
        self.label = nn.Linear(label_width, labels * label_width)
        self.label_of_dependent = nn.Linear(label_width, labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """The loss of the gold trees, and each word's likeliest heads.

        Args:
            hidden: `[batch, words, width]`.
            mask: `[batch, words]`, 1 for words.
            labels: `[batch, words, 2]`, each word's head (0 for the root, else the number of a word, from 1) and
                relation; -100 where they are not known.

        Returns:
            The loss: the mean over the words of the cross entropy of the head, and of that of the relation, the gold
            head given. The logits, `[batch, words, 1 + CANDIDATES, 4]`: of the root and then of the likeliest heads
            which it is (-1 for none), the log-probability of the arc, the likeliest relation, and its log-probability.
            In training they cost as much as the loss and nobody reads them: with labels there are 0 candidates.
        """
        words = self.dropout(hidden.to(self.arc.weight.dtype))
        root = self.dropout(self.root.weight).expand(len(words), 1, -1)
        arc_head, label_head = self._view(self.as_head, torch.cat([root, words], dim=1))
        arc_dependent, label_dependent = self._view(self.as_dependent, words)

        arcs = (self.arc(arc_dependent) @ arc_head.transpose(1, 2)).float()
        arcs = arcs.masked_fill(_no_head(mask), -torch.inf).log_softmax(-1)
        loss = None
        if labels is not None:
            heads, gold = labels.unbind(-1)
            known = (heads != IGNORED).sum().clamp(min=1)
            loss = F.nll_loss(arcs.flatten(0, 1), heads.flatten(), ignore_index=IGNORED, reduction="sum") / known
            row, word = torch.nonzero(gold != IGNORED, as_tuple=True)
            of_heads = label_head[row, heads[row, word].clamp(min=0)].unsqueeze(1)
            told = self._relations(label_dependent[row, word], of_heads).squeeze(1)
            loss = loss + mean_cross_entropy(told, gold[row, word])
            if self.training:
                return TaskOutput(loss, arcs.new_empty((*mask.shape, 0, 4)))
        with torch.no_grad():
            return TaskOutput(loss, self._candidates(arcs, label_dependent, label_head))

    def _view(self, layer: nn.Linear, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors for arcs and for relations. Without the non-linearity the layer would melt into the next."""
        arc, label = self.dropout(F.leaky_relu(layer(vectors), 0.1)).split(self.widths, dim=-1)
        return arc, label

    def _relations(self, dependents: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """Scores `[..., k, labels]` of the relations of `dependents [..., w]` to `heads [..., k, w]`, in float32."""
        # One vector for each relation and dependent, which is laid on heads: a matrix product, no `nn.Bilinear`.
        relations = self.label(dependents).unflatten(-1, (-1, heads.shape[-1]))
        return (heads @ relations.transpose(-1, -2) + self.label_of_dependent(dependents).unsqueeze(-2)).float()

    def _candidates(self, arcs: torch.Tensor, label_dependent: torch.Tensor, label_head: torch.Tensor) -> torch.Tensor:
        # Padded first, so that there are always enough to choose from.
        score, head = F.pad(arcs[..., 1:], (0, CANDIDATES), value=-torch.inf).topk(CANDIDATES, dim=-1)
        score = torch.cat([arcs[..., :1], score], dim=-1)
        head = torch.cat([torch.zeros_like(head[..., :1]), head + 1], dim=-1)
        head = head.masked_fill(score == -torch.inf, -1)
        row = torch.arange(len(head), device=head.device)[:, None, None]
        told = self._relations(label_dependent, label_head[row, head.clamp(min=0)]).log_softmax(-1)
        label_score, label = told.max(-1)
        return torch.stack([head.float(), score, label.float(), label_score], dim=-1)


def _no_head(mask: torch.Tensor) -> torch.Tensor:
    """`[batch, words, 1 + words]`: what is no head of a word: padding, and the word itself. The root always may be."""
    number = torch.arange(mask.shape[1] + 1, device=mask.device)
    itself = number[1:, None] == number
    return F.pad(mask == 0, (1, 0)).unsqueeze(1) | itself
