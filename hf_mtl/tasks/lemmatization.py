"""The lemma of every word, as the edit script that makes it of the word."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from .base import Features, Row, RowError, shown
from .edit_scripts import IDENTITY, apply_script, edit_script, is_script, letters_needed
from .labels import check_labels, label_index
from .registry import register_task
from .soft_outputs import SoftReader, labels_of_words
from .softmax import softmax
from .starting_bias import common
from .token_classification import TokenClassifier
from .weighted_labels import SmoothedLabels
from .window_values import IGNORED, by_row, label_windows, mean_cross_entropy, stack_windows, words_of_windows
from .word_tasks import WordTask

__all__ = ["Lemmatization"]


@register_task("lemmatization")
@dataclass(frozen=True, kw_only=True)
class Lemmatization(SmoothedLabels, WordTask):
    """The lemma of each word: of the edit scripts of the training data, the best one that fits the word.

    Columns: `tokens` (a list of words), `lemmas` (as many strings).
    Answer: a list of `{"word", "lemma", "score", "start", "end"}`. Scores: `accuracy` of words, letter by letter.

    Args:
        labels: the edit scripts (see `edit_script`), the commonest first; learned by `from_dataset`.
        min_count: scripts that the training data has less often are no labels. Their words train nothing, and at
            evaluation count as what they are: wrong.
        label_smoothing: as for `SmoothedLabels`.
    """

    lemmas: str = "lemmas"
    labels: tuple[str, ...] | None = None
    min_count: int = 1

    main_metric = "accuracy"
    mean_over_labels = True
    answers_are_labels = False  # its labels are edit scripts
    not_in_features = WordTask.not_in_features | {"min_count"}
    not_encoded = WordTask.not_encoded | not_in_features | {"lemmas", "labels"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("min_count", lambda v: v >= 1, "a whole number of 1 or more", whole=True)
        if self.labels is not None:
            check_labels(self.name, self.labels, least=1)
            for script in self.labels:
                self._check("labels", script, is_script(script), "edit scripts as from_dataset learns them")

    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.lemmas

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        split, labels = self.learned_split(dataset), self.labels
        if labels is None:
            rows = enumerate(dataset.select_columns(list(self.columns())))
            counts = Counter(script for i, row in rows for script in self._scripts(row, self.word_forms(row, i), i))
            # What is in lower case is there even if no word of the data is: nothing else fits any word.
            counts[IDENTITY] = max(counts[IDENTITY], self.min_count)
            common = [script for script, count in counts.items() if count >= self.min_count]
            labels = tuple(sorted(common, key=lambda script: (-counts[script], script)))
        return replace(self, labels=labels, split=split)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features, words = self.encode_rows(rows, tokenizer)
        if self.lemmas in rows[0]:
            index = label_index(self.known("labels", self.labels))
            scripts = (self._scripts(row, words[i], i) for i, row in enumerate(rows))
            label_windows(features, [[index.get(script, IGNORED) for script in row] for row in scripts])
        return features

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return stack_windows(labels, length)

    def _scripts(self, row: Row, words: Sequence[str], index: int) -> Iterator[str]:
        lemmas = self.gold_list(row, self.lemmas, len(words), index)
        for lemma in lemmas:
            if not isinstance(lemma, str):
                raise RowError(
                    f"Task {self.name!r}: column {self.lemmas!r} must hold lemmas, strings, and has {shown(lemma)}. "
                    "Leave out rows that lack some.",
                    index,
                )
        return map(edit_script, words, self.read_texts(lemmas, self.lemmas, index))

    def references(self, rows: Sequence[Row]) -> list[list[str]]:
        return [list(row[self.lemmas]) for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        loss = self.label_loss(mean_cross_entropy)
        start = common(self.known("labels", self.labels), IDENTITY)
        return TokenClassifier(width_of(backbone), start, self.dropout, loss)

    def soft_outputs(self) -> SoftReader:
        return labels_of_words

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        labels = self.known("labels", self.labels)
        words = [self.word_forms(row, i) for i, row in enumerate(rows)]
        counts = [len(row) for row in words]
        flat = [word for row in words for word in row]
        # A word that no subword stands for keeps its form, and so does one that no script fits.
        lemmas, scores = list(flat), [0.0] * len(flat)
        if features:
            found, places = words_of_windows(logits, features, counts)
            needed = np.array([letters_needed(script) for script in labels])
            lengths = np.array([len(word) for word in flat], dtype=np.int64)[places]
            fits = needed <= lengths[:, None]
            best = np.where(fits, found, -np.inf).argmax(-1)
            sure = softmax(found)[np.arange(len(best)), best]
            for place, script, score in zip(places.tolist(), best.tolist(), sure.tolist(), strict=True):
                lemma = apply_script(labels[script], flat[place])
                if lemma is not None:
                    lemmas[place], scores[place] = lemma, score
        both = zip(by_row(lemmas, counts), by_row(scores, counts), strict=True)
        return [{"lemmas": own, "scores": sure} for own, sure in both]

    def answer(self, prediction: Any, row: Row) -> list[dict[str, Any]]:
        parts = zip(self.given_words(row), prediction["lemmas"], prediction["scores"], strict=True)
        return [
            {"word": word, "lemma": lemma, "score": score, "start": start, "end": end}
            for (word, start, end), lemma, score in parts
        ]

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import tagging_scores

        scores = tagging_scores([p["lemmas"] for p in predictions], list(references), spans=False)
        return {"accuracy": scores["accuracy"]}

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        script = self.known("labels", self.labels)[0]
        found = []
        for i, row in enumerate(rows):
            words = self.word_forms(row, i)
            made = [apply_script(script, word) for word in words]
            lemmas = [word if lemma is None else lemma for word, lemma in zip(words, made, strict=True)]
            found.append({"lemmas": lemmas, "scores": [1.0] * len(words)})
        return found
