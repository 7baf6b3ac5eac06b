"""The morphological features of every word: case, number, tense and what else a language has."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from .base import Features, Row, RowError, TaskOutput, shown
from .label_losses import Loss
from .labels import check_labels, label_index
from .registry import register_task
from .soft_outputs import SoftReader, labels_of_words
from .softmax import softmax
from .starting_bias import StartingBias, common
from .weighted_labels import SmoothedLabels
from .window_values import IGNORED, by_row, label_windows, mean_cross_entropy, stack_windows, words_of_windows
from .word_tasks import WordTask

__all__ = ["MorphologicalTagging"]

NONE = "_"


@register_task("morphological-tagging")
@dataclass(frozen=True, kw_only=True)
class MorphologicalTagging(SmoothedLabels, WordTask):
    """The features of each word as CoNLL-U writes them, `Case=Nom|Number=Sing`, `_` for none.

    A word has one of the feature strings of the training data. The score of a string is its own and those of its
    features' values, which it shares with other strings. A softmax for each feature by itself finds far fewer
    strings.

    Columns: `tokens` (a list of words), `feats` (as many strings).
    Answer: a list of `{"word", "feats", "score", "start", "end"}`. Scores: `accuracy` of whole strings, and `f1` of
    pairs of a feature and its value (micro).

    Args:
        labels: the strings; learned by `from_dataset`.
        label_smoothing: as for `SmoothedLabels`.
    """

    feats: str = "feats"
    labels: tuple[str, ...] | None = None

    main_metric = "accuracy"
    mean_over_labels = True
    not_encoded = WordTask.not_encoded | {"feats", "labels"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None:
            check_labels(self.name, self.labels, least=1)
            for label in self.labels:
                self._check("labels", label, _ordered(label) == label, "feature strings as from_dataset learns them")

    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.feats

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        labels = self.labels
        if labels is None:
            rows = enumerate(dataset.select_columns(list(self.columns())))
            labels = tuple(sorted({label for i, row in rows for label in self._row_strings(row, i)}))
        return replace(self, labels=labels, split=self.learned_split(dataset))

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features, words = self.encode_rows(rows, tokenizer)
        if self.feats in rows[0]:
            index = label_index(self.known("labels", self.labels))
            # What the training data has nowhere trains nothing, and at evaluation is wrong whatever is answered.
            gold = (self._strings(row, len(words[i]), i) for i, row in enumerate(rows))
            label_windows(features, [[index.get(label, IGNORED) for label in row] for row in gold])
        return features

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return stack_windows(labels, length)

    def _strings(self, row: Row, words: int, index: int) -> list[str]:
        """The gold strings of a row's words, their features in order."""
        values = self.gold_list(row, self.feats, words, index)
        strings = [_ordered(value) if isinstance(value, str) else None for value in values]
        if None in strings:
            value = values[strings.index(None)]
            raise RowError(
                f"Task {self.name!r}: column {self.feats!r} must hold features as 'Case=Nom|Number=Sing', each once, "
                f"or '_' for none, and has {shown(value)}.",
                index,
            )
        return [string for string in strings if string is not None]

    def _row_strings(self, row: Row, index: int) -> list[str]:
        return self._strings(row, len(self.word_forms(row, index)), index)

    def references(self, rows: Sequence[Row]) -> list[list[str]]:
        return [self._row_strings(row, i) for i, row in enumerate(rows)]

    def build_head(self, backbone: Any) -> nn.Module:
        loss = self.label_loss(mean_cross_entropy)
        return MorphologicalTagger(width_of(backbone), self.known("labels", self.labels), self.dropout, loss)

    def soft_outputs(self) -> SoftReader:
        return labels_of_words

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        labels = self.known("labels", self.labels)
        counts = [len(self.word_forms(row, i)) for i, row in enumerate(rows)]
        # A word that no subword stands for has no features.
        found, scores = [NONE] * sum(counts), [0.0] * sum(counts)
        if features:
            values, places = words_of_windows(logits, features, counts)
            shares = softmax(values)
            best = zip(places.tolist(), shares.argmax(-1).tolist(), shares.max(-1).tolist(), strict=True)
            for place, label, score in best:
                found[place], scores[place] = labels[label], score
        both = zip(by_row(found, counts), by_row(scores, counts), strict=True)
        return [{"feats": own, "scores": sure} for own, sure in both]

    def answer(self, prediction: Any, row: Row) -> list[dict[str, Any]]:
        parts = zip(self.given_words(row), prediction["feats"], prediction["scores"], strict=True)
        return [
            {"word": word, "feats": feats, "score": score, "start": start, "end": end}
            for (word, start, end), feats, score in parts
        ]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import tagging_scores

        predicted = [p["feats"] for p in predictions]
        scores = tagging_scores(predicted, list(references), spans=False)
        return {"accuracy": scores["accuracy"], "f1": _pair_f1(predicted, references)}

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        strings = Counter(label for row in references for label in row)
        common, count = strings.most_common(1)[0]
        share = count / strings.total()
        counts = [len(self.word_forms(row, i)) for i, row in enumerate(rows)]
        return [{"feats": [common] * n, "scores": [share] * n} for n in counts]


@lru_cache(maxsize=1 << 14)
def _ordered(text: str) -> str | None:
    """The features in CoNLL-U's order, by name whatever its case; None where this is no feature string."""
    if text == NONE:
        return text
    pairs = [pair.partition("=") for pair in text.split("|")]
    names = {name for name, _, _ in pairs}
    if len(names) < len(pairs) or not all(all(pair) for pair in pairs):
        return None
    return "|".join("".join(pair) for pair in sorted(pairs, key=lambda pair: (pair[0].lower(), pair[0])))


def _pairs(text: str) -> list[str]:
    return [] if text == NONE else text.split("|")


def _pair_f1(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Micro F1 of the features with their values; 1 where neither side has any."""
    both = predicted = gold = 0
    for row, answers in zip(predictions, references, strict=True):
        for text, answer in zip(row, answers, strict=True):
            found, wanted = _pairs(text), _pairs(answer)
            both += len({*found} & {*wanted})
            predicted, gold = predicted + len(found), gold + len(wanted)
    return 2 * both / (predicted + gold) if predicted + gold else 1.0


class MorphologicalTagger(nn.Module):
    """Dropout -> linear: a score for each string and for each value of a feature, of which a string has several."""

    def __init__(self, width: int, labels: Sequence[str], dropout: float, loss: Loss = mean_cross_entropy):
        super().__init__()
        self.loss = loss
        values = {pair: i for i, pair in enumerate(sorted({pair for label in labels for pair in _pairs(label)}))}
        self.strings = len(labels)
        # A table in numpy, not a buffer: one that is not saved is lost where a model is filled from a file.
        self.table = np.zeros((len(values), len(labels)), dtype=np.float32)
        for column, label in enumerate(labels):
            self.table[[values[pair] for pair in _pairs(label)], column] = 1
        self.dropout = nn.Dropout(dropout)
        self.classifier = StartingBias(width, [*common(labels, NONE), *([0.0] * len(values))])

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, words, width]`, `labels [batch, words]` or -100 -> `logits [batch, words, strings]`."""
        scores = self.classifier(self.dropout(hidden.to(self.classifier.weight.dtype))).float()
        own, parts = scores[..., : self.strings], scores[..., self.strings :]
        logits = own + parts @ torch.as_tensor(self.table, device=parts.device)
        if labels is None:
            return TaskOutput(None, logits)
        return TaskOutput(self.loss(logits, labels), logits)
