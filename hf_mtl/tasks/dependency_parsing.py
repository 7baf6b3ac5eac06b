"""The syntax of a text: for each word the word that it hangs on, and by which relation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from .base import Features, Row
from .biaffine import BiaffineParser
from .gold_trees import check_heads, label_trees
from .labels import check_labels, declared_names, label_ids, label_index, label_lists, label_names, sorted_names
from .parses import parse
from .registry import register_task
from .window_values import IGNORED, by_row, stack_windows
from .word_tasks import WordTask

__all__ = ["DependencyParsing"]


@register_task("dependency-parsing")
@dataclass(frozen=True, kw_only=True)
class DependencyParsing(WordTask):
    """The dependency tree of a text, by biaffine scores and the best tree of them that has one word on the root.

    Columns: `tokens` (a list of words; to predict, a text as well), `heads` (the number of each word's head, from 1;
        0 for the root), `deprels` (its relation: a string, or a `ClassLabel`). Several words may hang on the root;
        the answer has one. Heads in a circle are refused.
    Answer: a list of `{"index", "word", "start", "end", "head", "head_word", "relation", "score"}`, `index` from 1,
    `head` 0 and `head_word` None for the root. Scores: `las`, without subtypes (`nsubj:pass` is `nsubj`), and `uas`,
    as in CoNLL 2018; `las_strict`, with subtypes.

    A row too long for the backbone is read in windows, and no arc leads from one into another: each has its own tree,
    and these hang on that of the likeliest root. A word without any subword hangs on the word before it. Such arcs,
    which nothing was read of, have score 0.

    Args:
        labels: the names of the relations, in the order of the logits; learned by `from_dataset`.
        arc_width: of the vectors that arcs are scored from.
        label_width: of the vectors that relations are scored from.
        dropout: of the words and of these vectors. This and the widths are the paper's (see `BiaffineParser`).
    """

    heads: str = "heads"
    deprels: str = "deprels"
    labels: tuple[str, ...] | None = None
    arc_width: int = 500
    label_width: int = 100
    dropout: float = 0.33

    main_metric = "las"
    mean_over_labels = True
    not_in_features = WordTask.not_in_features | {"arc_width", "label_width"}
    not_encoded = WordTask.not_encoded | not_in_features | {"heads", "deprels", "labels"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("arc_width", "label_width"):
            self._check_number(field, lambda v: v >= 1, "a whole number of 1 or more", whole=True)
        if self.labels is not None:
            check_labels(self.name, self.labels, least=1)

    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.heads, self.deprels

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        labels = self.labels or declared_names(dataset, self.deprels)
        if labels is None:
            labels = sorted_names(chain.from_iterable(label_lists(self.name, dataset, self.deprels)))
        return replace(self, labels=labels, split=self.learned_split(dataset))

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features, words = self.encode_rows(rows, tokenizer)
        if self.heads in rows[0] and self.deprels in rows[0]:
            index = label_index(self.known("labels", self.labels))
            heads, names = (
                [self.gold_list(row, column, len(words[i]), i) for i, row in enumerate(rows)]
                for column in (self.heads, self.deprels)
            )
            check_heads(self.name, self.heads, heads, words)
            label_trees(features, heads, [label_ids(self.name, own, index, i) for i, own in enumerate(names)])
        return features

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        """`[batch, length, 2]`: the head among the words of the window, and the relation; -100 where not known."""
        return stack_windows(labels, length, (IGNORED, IGNORED))

    def references(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [
            {"heads": list(row[self.heads]), "deprels": label_names(row[self.deprels], self.labels)} for row in rows
        ]

    def build_head(self, backbone: Any) -> nn.Module:
        labels = len(self.known("labels", self.labels))
        return BiaffineParser(width_of(backbone), labels, self.arc_width, self.label_width, self.dropout)

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        counts = np.array([len(self.words(row, i)) for i, row in enumerate(rows)], dtype=np.int64)
        labels = self.known("labels", self.labels)
        # Of a word without a subword nothing is known, and UD's name for an arc of which nothing is known is `dep`.
        found = parse(logits, features, counts, labels.index("dep") if "dep" in labels else 0)
        deprels = np.array(labels, dtype=object)[found.labels].tolist()
        parts = [by_row(part, counts) for part in (found.heads.tolist(), deprels, found.scores.tolist())]
        return [{"heads": heads, "deprels": own, "scores": scores} for heads, own, scores in zip(*parts, strict=True)]

    def answer(self, prediction: Any, row: Row) -> list[dict[str, Any]]:
        words = self.given_words(row)
        parts = zip(words, prediction["heads"], prediction["deprels"], prediction["scores"], strict=True)
        return [
            {
                "index": index,
                "word": word,
                "start": start,
                "end": end,
                "head": head,
                "head_word": words[head - 1][0] if head else None,
                "relation": relation,
                "score": score,
            }
            for index, ((word, start, end), head, relation, score) in enumerate(parts, start=1)
        ]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.parsing import parsing_scores

        return parsing_scores(predictions, references)

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        """Every word hangs on the one before it, the first on the root, by the relation that is commonest there."""
        at_root: Counter[str] = Counter()
        elsewhere: Counter[str] = Counter()
        for tree in references:
            for head, relation in zip(tree["heads"], tree["deprels"], strict=True):
                (elsewhere if head else at_root)[relation] += 1
        (root, _), (other, _) = at_root.most_common(1)[0], (elsewhere or at_root).most_common(1)[0]
        lengths = [len(self.words(row, i)) for i, row in enumerate(rows)]
        return [
            {"heads": list(range(n)), "deprels": [root, *[other] * (n - 1)][:n], "scores": [0.0] * n} for n in lengths
        ]
