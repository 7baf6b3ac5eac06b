"""The relation between two given spans of a text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..backbone import is_causal, width_of
from ..nearest import nearest
from .base import Features, Row, RowError, shown
from .labels import check_labels, label_id, label_index, label_names, learned_names
from .marked_pairs import PairText, encode_marked, encode_plain
from .registry import register_task
from .relation_head import MarkerVectors, PooledVectors, RelationHead
from .soft_outputs import OneLabel, SoftReader
from .softmax import softmax
from .weighted_labels import WeightedLabels
from .window_values import mean_cross_entropy
from .word_tasks import WordTask
from .words import gap_between

__all__ = ["RelationExtraction"]

SPANS = ("markers", "pooling")
# Made once: every row has two spans.
_LISTS, _WHOLE = Sequence | np.ndarray, int | np.integer

# What pairs without a relation are called; the first that a task has is its own.
_NO_RELATION = ("no_relation", "na", "none", "other")


@register_task("relation-extraction")
@dataclass(frozen=True, kw_only=True)
class RelationExtraction(WeightedLabels, WordTask):
    """One label for a pair of spans in a text.

    Columns: `tokens` (a list of words, or a text), `head` and `tail` (`[start, end]`, the end exclusive: WORDS where
        `tokens` is a list, CHARACTERS where it is a text; they may overlap, nest, or be the same), `label` (a string,
        an integer, or a `ClassLabel`).
    Input of a pipeline: `{"text": "Ann met Bob.", "head": [0, 3], "tail": [8, 11]}`, or
    `{"tokens": ["Ann", "met", "Bob", "."], "head": [0, 1], "tail": [2, 3]}`.
    Answer: `{"label", "score"}`. Scores, all but `accuracy` less `no_relation`: `f1_macro`, `f1_micro`, `accuracy`;
    for labels such as `Cause-Effect(e1,e2)`, which `f1_macro` takes as they are, also SemEval-2010 Task 8's official
    `f1_macro_relations`, in which two directions are one relation (see `hf_mtl.scoring.relation_scores`).

    Of a text that is too long stays what is nearest to the spans; the middle is cut where they are far apart.

    Args:
        labels: the label names, in the order of the logits; learned by `from_dataset`.
        no_relation: the label of pairs that have no relation. None: `no_relation`, `NA`, `none` or `Other`, in this
            order, if it is among the labels (in whatever case); `""`: every label is a relation.
        spans: how the head sees them. `markers`: `@ head @` and `# tail #` are written into the text
            (arXiv:2102.01373), and the head reads both opening symbols (arXiv:1906.03158). `pooling`: the text stays
            as it is, and the head reads the means of the spans' subwords and the text's first subword. The default
            follows the second paper's comparison of such heads; no figure of our own stands behind it yet.
        split: how given words are joined: `characters` by nothing, others by a space. Learned: `characters` where
            every token of the training data is one character.
        label_smoothing, class_weights: as for `WeightedLabels`.
    """

    head: str = "head"
    tail: str = "tail"
    label: str = "label"
    labels: tuple[str, ...] | None = None
    no_relation: str | None = None
    spans: str = "markers"

    # `per_word` as any `WordTask`, but its words are the places that the head reads, see `marked_pairs`.
    main_metric = "f1_macro"
    not_in_features = WordTask.not_in_features | {"no_relation"}
    not_encoded = WordTask.not_encoded | not_in_features | {"label", "labels"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("spans", self.spans, self.spans in SPANS, f"one of {SPANS}")
        none = self.no_relation
        self._check("no_relation", none, none is None or isinstance(none, str), "a label, '' or None")
        if self.labels is None:
            return
        check_labels(self.name, self.labels, least=2)
        if none is None:
            folded = {label.casefold(): label for label in reversed(self.labels)}
            found = next((folded[name] for name in _NO_RELATION if name in folded), None)
            object.__setattr__(self, "no_relation", found)
        elif none and none not in self.labels:
            raise ValueError(
                f"Task {self.name!r}: no_relation={none!r} is none of its labels. {nearest(none, self.labels)} "
                "Where every label is a relation, give no_relation=''."
            )

    def inputs(self) -> dict[str, str]:
        return super().inputs() | {"head": self.head, "tail": self.tail}

    def columns(self) -> tuple[str, ...]:
        return (*self.inputs().values(), self.label)

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        labels = self.labels or learned_names(self.name, dataset, self.label)
        learned = replace(self, labels=labels, split=self.learned_split(dataset))
        return learned.balanced(dataset, self.label)

    # ------------------------------------------------------------------ rows

    def read(self, example: Any) -> dict[str, Any]:
        row = super().read(example)
        self.pair(row, 0)
        return row

    def read_value(self, name: str, value: Any) -> Any:
        if name in ("head", "tail"):
            return self._span(name, value)
        return super().read_value(name, value)

    def pair(self, row: Row, index: int) -> PairText:
        """A row's text, its words joined where it has words, with its spans in characters.

        Raises:
            RowError: no text, or a span that is not within it.
        """
        value = row[self.tokens]
        if isinstance(value, str):
            text, places, unit = self.read_text(row, self.tokens, index), None, "characters"
            length = len(text)
        elif isinstance(value, Sequence):
            places, unit = self.words(row, index), "words"
            text = gap_between(self.split or "words").join(word for word, _, _ in places)
            length = len(places)
        else:
            raise RowError(
                f"Task {self.name!r}: column {self.tokens!r} must hold a list of words, or a text, got {shown(value)}.",
                index,
            )
        spans = []
        for column in (self.head, self.tail):
            if column not in row:
                raise RowError(f"Task {self.name!r}: the row has no {column!r}, only {list(row)}.", index)
            start, end = self._span(column, row[column], index)
            if end > length:
                raise RowError(
                    f"Task {self.name!r}: {column!r} is [{start}, {end}], but {self.tokens!r} has {length} {unit}. "
                    "Spans count words where it is a list of words, and characters where it is a text.",
                    index,
                )
            spans.append((start, end) if places is None else (places[start][1], places[end - 1][2]))
        return PairText(text, *spans)

    def _span(self, name: str, value: Any, index: int = 0) -> tuple[int, int]:
        ends = tuple(value) if isinstance(value, _LISTS) and not isinstance(value, str) else ()
        whole = {*map(type, ends)} <= {int} or all(isinstance(k, _WHOLE) and not isinstance(k, bool) for k in ends)
        if len(ends) != 2 or not whole:
            raise RowError(
                f"Task {self.name!r}: {name!r} must be [start, end], two whole numbers, got {shown(value)}.", index
            )
        start, end = int(ends[0]), int(ends[1])
        if not 0 <= start < end:
            raise RowError(
                f"Task {self.name!r}: {name!r} must be [start, end] with 0 <= start < end (the end is exclusive: "
                f"[3, 4] is one word, or character), got [{start}, {end}].",
                index,
            )
        return start, end

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        pairs = [self.pair(row, i) for i, row in enumerate(rows)]
        how = encode_marked if self.spans == "markers" else encode_plain
        features = how(self.name, pairs, tokenizer, self.limit(tokenizer))
        if self.label in rows[0]:
            index = label_index(self.known_labels())
            for i, (feature, row) in enumerate(zip(features, rows, strict=True)):
                feature["labels"] = label_id(self.name, row[self.label], index, i)
        return features

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        """`[batch]`: a label for the pair, not for each of the places that are read."""
        return torch.tensor(labels)

    def known_labels(self) -> tuple[str, ...]:
        """The label names; raises ValueError where they are not known yet."""
        return self.known("labels", self.labels)

    def references(self, rows: Sequence[Row]) -> list[str]:
        return label_names([row[self.label] for row in rows], self.labels)

    # ------------------------------------------------------------------ model and answers

    def build_head(self, backbone: Any) -> nn.Module:
        causal = is_causal(backbone)
        vectors = MarkerVectors(causal) if self.spans == "markers" else PooledVectors(causal)
        loss = self.label_loss(mean_cross_entropy)
        return RelationHead(vectors, width_of(backbone), len(self.known_labels()), self.dropout, loss)

    def soft_outputs(self) -> SoftReader:
        return lambda logits, labels, mask: [OneLabel(logits.squeeze(1))]

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        labels = self.known_labels()
        scores = softmax(np.concatenate(logits))
        return [{"label": labels[k], "score": float(row[k])} for k, row in zip(scores.argmax(-1), scores, strict=True)]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.relations import relation_scores

        return relation_scores([p["label"] for p in predictions], list(references), self.no_relation or None)

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        label, count = Counter(references).most_common(1)[0]
        return [{"label": label, "score": count / len(references)}] * len(rows)
