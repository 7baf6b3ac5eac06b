"""The head that tags entities and scores the relations of all pairs of them.

What it reads of a pair is SpERT's (Eberts and Ulges 2020, arXiv:1909.07755): the maxima over the words of both
entities and over the words between. Deviations: entities are not chosen among all spans but tagged, which takes a step
for each word and not for each span; what they are is told to the relations.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .base import TaskOutput
from .range_maxima import RangeMaxima
from .starting_bias import StartingBias, rare

__all__ = ["CANDIDATES", "LABEL", "SCORE", "TAIL", "EntityRelationHead", "Spans", "find_spans"]

# Of each entity so many of its best relations are told, (tail, label) each. As for the arcs of a parser: an axis as
# long as the batch's words would stop Trainer, which pads no axis but the second, from joining batches.
CANDIDATES = 16

# What the logits say of a candidate: the last word of the tail in the window (-1: no candidate), and so on.
TAIL, LABEL, SCORE = range(3)

# Pairs that are scored at a time where no gradient is kept: some tens of MB, whatever an untrained tagger finds.
_PAIRS = 1 << 15
# Distances are told apart by their logarithm, up to 2^7 words; by sign, head first or tail first.
_DISTANCES = 8
# Before training one pair of entities in so many is likely to be related.
_PAIRS_A_RELATION = 10


class Spans(NamedTuple):
    """The entities of a batch, those of one row after those of the other: four `[spans]`."""

    row: torch.Tensor
    start: torch.Tensor
    last: torch.Tensor  # the last word, in contrast to the one after it
    kind: torch.Tensor  # which entity type


def find_spans(tags: torch.Tensor) -> Spans:
    """The spans that tags name, as `bio.spans` reads them: an `I-x` out of place begins one.

    Args:
        tags: `[batch, words]`: 0 outside, 1 + 2k begins an entity of type k, 2 + 2k is inside one.
    """
    kind = (tags + 1) // 2
    before = F.pad(kind, (1, 0))[:, :-1]
    begins = (kind > 0) & ((tags % 2 == 1) | (kind != before))
    after, begun = F.pad(kind, (0, 1))[:, 1:], F.pad(begins, (0, 1))[:, 1:]
    row, start = begins.nonzero(as_tuple=True)
    _, last = ((kind > 0) & (begun | (after != kind))).nonzero(as_tuple=True)
    return Spans(row, start, last, kind[row, start] - 1)


class EntityRelationHead(nn.Module):
    """A tagger of entities, and for each pair of them a score of each relation, in the dtype of its own weights.

    Args:
        tagger: the head of the tags; its likeliest tags are what entities are read from.
        width: of the word vectors.
        types: how many entity types.
        relations: how many relations.
        pair_width: of the vectors that relations are scored from.
        dropout: of the words and of these vectors.
    """

    def __init__(self, tagger: nn.Module, width: int, types: int, relations: int, pair_width: int, dropout: float):
        super().__init__()
        self.tagger = tagger
        self.dropout = nn.Dropout(dropout)
        self.words = nn.Linear(width, 2 * pair_width)
        # Together one linear layer on all that is known of a pair, which would be written down for each if it were one.
        self.as_head = nn.Linear(pair_width, pair_width)
        self.as_tail = nn.Linear(pair_width, pair_width)
        self.between = nn.Linear(pair_width, pair_width)
        self.head_type = nn.Embedding(types, pair_width)
        self.tail_type = nn.Embedding(types, pair_width)
        self.distance = nn.Embedding(2 * _DISTANCES, pair_width)
        self.relation = StartingBias(pair_width, rare(relations, _PAIRS_A_RELATION * relations))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """The loss of the gold entities and relations, and the likeliest ones.

        Args:
            hidden: `[batch, words, width]`.
            mask: `[batch, words]`, 1 for words.
            labels: `[batch, words + most relations, 3]`. Of a word: its tag to be learned (or -100), its tag to read
                the gold entities from, -1. Of a relation: the last word of its head, that of its tail, its label; the
                label is negative where there are no more.

        Returns:
            The loss: that of the tagger, and the binary cross entropy of the relations, summed over the labels, the
            mean over the pairs of gold entities. The logits, `[batch, words, tags + 3 * CANDIDATES]`: the tagger's, and
            at the last word of each entity its candidates, `TAIL`, `LABEL` and `SCORE` (log odds) each; without any
            while it is trained.
        """
        count = hidden.shape[1]
        hidden = hidden.to(self.relation.weight.dtype)
        tagged = self.tagger(hidden, mask, None if labels is None else labels[:, :count, 0])
        maxima = [RangeMaxima(part) for part in self.words(self.dropout(hidden)).chunk(2, dim=-1)]

        loss = None
        if labels is not None:
            loss = tagged.loss + self._loss(maxima, labels[:, :count, 1].clamp(min=0), labels[:, count:])
        told = hidden.new_full((*hidden.shape[:2], CANDIDATES, 3), -torch.inf, dtype=torch.float32)
        told[..., :2] = -1
        if not self.training:
            with torch.no_grad():
                self._tell(told, maxima, find_spans(tagged.logits.argmax(-1) * mask.long()))
        return TaskOutput(loss, torch.cat([tagged.logits.float(), told.flatten(2)], dim=-1))

    def _loss(self, maxima: list[RangeMaxima], tags: torch.Tensor, relations: torch.Tensor) -> torch.Tensor:
        spans = find_spans(tags)
        _, pairs = _pairs(spans, len(tags))
        scores = self._scores(maxima, spans, *pairs).float()
        number = torch.full_like(tags, -1)
        number[spans.row, spans.last] = torch.arange(len(spans.row), device=tags.device)
        row, which = (relations[..., 2] >= 0).nonzero(as_tuple=True)
        head, tail, label = relations[row, which].unbind(-1)
        head, tail = number[row, head], number[row, tail]
        known = (head >= 0) & (tail >= 0)
        # Pairs are sorted by head and then tail, and so are found by their place in that order.
        keys = pairs[0] * len(spans.row) + pairs[1]
        wanted = (head * len(spans.row) + tail)[known]
        gold = torch.zeros_like(scores)
        gold[torch.searchsorted(keys, wanted), label[known]] = 1
        total = F.binary_cross_entropy_with_logits(scores, gold, reduction="sum")
        return total / max(1, len(scores))

    def _scores(self, maxima: list[RangeMaxima], spans: Spans, head: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
        """Log odds `[pairs, relations]` of the pairs, which are numbers of spans."""
        of_span, of_context = maxima
        vectors = of_span(spans.row, spans.start, spans.last + 1)
        as_head = self.as_head(vectors) + self.head_type(spans.kind)
        as_tail = self.as_tail(vectors) + self.tail_type(spans.kind)
        first, second = torch.minimum(head, tail), torch.maximum(head, tail)  # spans are in the order of the text
        start, end = spans.last[first] + 1, spans.start[second]
        away = (end - start + 1.5).log2().long().clamp(max=_DISTANCES - 1) + _DISTANCES * (head > tail)
        between = self.between(of_context(spans.row[head], start, end)) + self.distance(away)
        return self.relation(self.dropout(F.relu(as_head[head] + as_tail[tail] + between)))

    def _tell(self, told: torch.Tensor, maxima: list[RangeMaxima], spans: Spans) -> None:
        """Writes the candidates of each span at its last word."""
        if not len(spans.row):
            return
        slots, (head, tail) = _pairs(spans, len(told))
        parts = zip(head.split(_PAIRS), tail.split(_PAIRS), strict=True)
        scores = torch.cat([self._scores(maxima, spans, *part) for part in parts]).float()
        relations, most = scores.shape[1], int(slots.max()) + 1
        table = scores.new_full((len(spans.row), max(most * relations, CANDIDATES)), -torch.inf)
        cells = slots[tail, None] * relations + torch.arange(relations, device=slots.device)
        table[head[:, None], cells] = scores
        best, cell = table.topk(CANDIDATES, dim=-1)
        first = torch.arange(len(slots), device=slots.device) - slots
        other = (first[:, None] + cell // relations).clamp(max=len(slots) - 1)
        real = best > -torch.inf
        found = torch.stack([spans.last[other].float(), (cell % relations).float(), best], dim=-1)
        found[..., :2] = found[..., :2].masked_fill(~real.unsqueeze(-1), -1)
        told[spans.row, spans.last] = found


def _pairs(spans: Spans, rows: int) -> tuple[torch.Tensor, Any]:
    """`[spans]` which of its row each span is, and the pairs of a row's spans, heads and tails, two `[pairs]`."""
    counts = torch.bincount(spans.row, minlength=rows)
    number = torch.arange(len(spans.row), device=spans.row.device)
    slots = number - (counts.cumsum(0) - counts)[spans.row]
    other = torch.arange(int(counts.max()), device=number.device)
    head, slot = ((other < counts[spans.row, None]) & (other != slots[:, None])).nonzero(as_tuple=True)
    return slots, (head, (number - slots)[head] + slot)
