"""A tag for every word, or for every character: parts of speech, named entities, slots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from .base import Features, Row, TaskOutput
from .bio import has_end_tags, is_bio, legal_moves, names_scheme, spans
from .crf import LinearChainCRF
from .label_losses import Loss
from .labels import check_labels, declared_names, label_ids, label_index, label_lists, label_names, sorted_names
from .plain import PlainHead
from .registry import register_task
from .soft_outputs import SoftReader, labels_of_words
from .starting_bias import StartingBias, common
from .tagging import tag_words
from .weighted_labels import WeightedLabels
from .window_values import by_row, label_windows, mean_cross_entropy, read_once, stack_windows
from .word_tasks import WordTask

__all__ = ["TokenClassification"]

# Asked for each answer, of labels that stay the same.
_is_bio = lru_cache(maxsize=256)(is_bio)


@register_task("token-classification")
@dataclass(frozen=True, kw_only=True)
class TokenClassification(WeightedLabels, WordTask):
    """A tag for each word, read off its first subword. Long rows are read in windows, and no word is lost.

    Columns: `tokens` (a list of words, or of characters), `tags` (as many; strings, or a sequence of
        `ClassLabel`).
    Answer, BIO tags: a list of `{"entity_group", "score", "word", "start", "end"}`; plain tags: a list of
    `{"entity", "score", "index", "word", "start", "end"}`. Scores, BIO: span `f1`, `precision`, `recall`
    (seqeval) and `accuracy`; plain: `accuracy`, `f1_macro`.

    Args:
        labels: the tag names, in the order of the logits; learned by `from_dataset`.
        split: as for `WordTask`.
        scheme: how BIO tags begin a span: `bio`: by `B-x` alone; `iob1`: by `I-x`, and by `B-x` right behind
            another of its type. Learned; None, never learned, is as `bio`.
        crf: whether a linear-chain CRF scores the tags of a row together. Of BIO tags it allows the legal moves alone.
        label_smoothing, class_weights: as for `WeightedLabels`; not with a CRF.
    """

    tags: str = "tags"
    labels: tuple[str, ...] | None = None
    scheme: str | None = None
    crf: bool = False

    main_metric = "accuracy"
    mean_over_labels = True
    not_in_features = WordTask.not_in_features | {"scheme", "crf"}
    not_encoded = WordTask.not_encoded | not_in_features | {"tags", "labels"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("crf", self.crf, self.crf in (True, False), "true or false")
        for field, usual in (("label_smoothing", 0), ("class_weights", None)):
            if self.crf and getattr(self, field) != usual:
                raise ValueError(
                    f"Task {self.name!r}: {field}={getattr(self, field)!r:.60} has no meaning under a CRF, whose loss "
                    "is over whole rows of tags and not over each word's. Leave one of them out."
                )
        self._check("scheme", self.scheme, self.scheme in (None, "bio", "iob1"), "'bio' or 'iob1'")
        if self.labels is not None:
            check_labels(self.name, self.labels, least=1)
            if has_end_tags(self.labels):
                raise ValueError(
                    f"Task {self.name!r}: labels {list(self.labels)!r:.80} are BIOES or BILOU tags, and spans are read "
                    "from BIO tags only. Turn E- and L- into I-, S- and U- into B-, in the data and in labels."
                )
            if self.spans:
                object.__setattr__(self, "main_metric", "f1")

    @property
    def spans(self) -> bool:
        """Whether the tags are BIO tags, which name spans of words."""
        return _is_bio(self.known("labels", self.labels))

    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.tags

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        labels, scheme = self.labels, self.scheme
        declared = declared_names(dataset, self.tags)
        labels = labels or declared
        # A tag and the one before it: all that must be known, and counted without a loop over tags.
        moves: Counter[Any] = Counter()
        if labels is None or (scheme is None and _is_bio(labels)):
            for tags in label_lists(self.name, dataset, self.tags):
                moves.update(pairwise(chain(["O"], tags)))
        if labels is None:
            labels = sorted_names(tag for _, tag in moves)
            if _is_bio(labels):  # a type of single words in these rows may have longer ones elsewhere
                labels = tuple(sorted({*labels, *(f"I-{tag[2:]}" for tag in labels if tag.startswith("B-"))}))
        if scheme is None and _is_bio(labels):
            scheme = names_scheme(_named(moves, declared or labels))
        learned = replace(self, labels=labels, split=self.learned_split(dataset), scheme=scheme)
        return learned.balanced(dataset, self.tags)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features, words = self.encode_rows(rows, tokenizer)
        read_once(features)
        if self.tags in rows[0]:
            index = label_index(self.known("labels", self.labels))
            label_windows(features, [self._gold(row, len(words[i]), index, i) for i, row in enumerate(rows)])
        return features

    def _gold(self, row: Row, words: int, ids: Mapping[str | int, int], index: int) -> list[int]:
        return label_ids(self.name, self.gold_list(row, self.tags, words, index), ids, index)

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return stack_windows(labels, length)

    def references(self, rows: Sequence[Row]) -> list[list[str]]:
        return [label_names(row[self.tags], self.labels) for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        labels = self.known("labels", self.labels)
        start = self.starting(common(labels, "O"))
        if not self.crf:
            loss = self.label_loss(mean_cross_entropy)
            return TokenClassifier(width_of(backbone), start, self.dropout, loss)
        allowed = None
        if self.spans and self.scheme != "iob1":
            allowed = legal_moves(labels).copy()
            allowed[-1] = True  # a window may begin inside a span; that a row does not is seen to in decoding
        return CrfTokenClassifier(width_of(backbone), start, self.dropout, allowed)

    def soft_outputs(self) -> SoftReader:
        if self.crf:
            raise self.not_soft("its loss is over whole rows of tags (crf=True), and not over each word's")
        return labels_of_words

    def plain_head(self, head: nn.Module) -> PlainHead:
        if self.crf:
            raise self.not_plain("its tags are scored together by a CRF (crf=True), which transformers does not have")
        layer: Any = head
        return PlainHead(
            model="AutoModelForTokenClassification",
            reads="tokens",
            weight=layer.classifier.weight,
            bias=layer.classifier.bias,
            labels=self.labels,
        )

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        labels = self.known("labels", self.labels)
        counts = np.array([len(self.words(row, i)) for i, row in enumerate(rows)], dtype=np.int64)
        best, sure = tag_words(logits, features, counts, labels, legal=self.spans and self.scheme != "iob1")
        tags, scores = np.array(labels, dtype=object)[best].tolist(), sure.tolist()
        both = zip(by_row(tags, counts), by_row(scores, counts), strict=True)
        return [{"tags": own, "scores": shares} for own, shares in both]

    def answer(self, prediction: Any, row: Row) -> list[dict[str, Any]]:
        words, text = self.given_words(row), self.text_of(row)
        tags, scores = prediction["tags"], prediction["scores"]
        if not self.spans:
            return [
                {"entity": tag, "score": score, "index": i, "word": word, "start": start, "end": end}
                for i, (tag, score, (word, start, end)) in enumerate(zip(tags, scores, words, strict=True))
            ]
        found = []
        for kind, first, end in spans(tags):
            s, e = words[first][1], words[end - 1][2]
            score = sum(scores[first:end]) / (end - first)
            found.append({"entity_group": kind, "score": score, "word": text[s:e], "start": s, "end": e})
        return found

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import tagging_scores

        return tagging_scores([p["tags"] for p in predictions], list(references), spans=self.spans)

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        tag, count = Counter(chain.from_iterable(references)).most_common(1)[0]
        lengths = [len(self.words(row, i)) for i, row in enumerate(rows)]
        share = count / sum(len(tags) for tags in references)
        return [{"tags": [tag] * n, "scores": [share] * n} for n in lengths]


def _named(moves: Mapping[tuple[Any, Any], int], labels: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """Pairs of tags by their names, which may be indices in the data."""
    before, after = (label_names([pair[k] for pair in moves], labels) for k in (0, 1))
    named: Counter[tuple[str, str]] = Counter()
    for pair, count in zip(zip(before, after, strict=True), moves.values(), strict=True):
        named[pair] += count  # a name and its index are the same tag
    return named


class TokenClassifier(nn.Module):
    """Dropout -> linear on every word, in the dtype of its own weights.

    Args:
        width: of the word vectors.
        start: for each label where its bias begins.
        dropout: before the linear layer.
        loss: `(logits [batch, words, labels], labels)` -> the mean over the words.
    """

    def __init__(self, width: int, start: Sequence[float], dropout: float, loss: Loss = mean_cross_entropy):
        super().__init__()
        self.loss = loss
        self.dropout = nn.Dropout(dropout)
        self.classifier = StartingBias(width, start)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, words, width]`, `labels [batch, words]` or -100 -> `logits [batch, words, labels]`."""
        logits = self.classifier(self.dropout(hidden.to(self.classifier.weight.dtype)))
        if labels is None:
            return TaskOutput(None, logits)
        return TaskOutput(self.loss(logits, labels), logits)


class CrfTokenClassifier(TokenClassifier):
    """The same under a linear-chain CRF; the logits of an answer are such that the best ones make the best sequence."""

    def __init__(self, width: int, start: Sequence[float], dropout: float, allowed: np.ndarray | None):
        super().__init__(width, start, dropout)
        self.crf = LinearChainCRF(len(start), allowed)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        emissions = super().forward(hidden, mask).logits
        loss = None if labels is None else self.crf.nll(emissions, labels, mask)
        return TaskOutput(loss, emissions if self.training else self.crf.max_marginals(emissions, mask))
