"""An intent and tags by two models, one for each, as two example scripts would train them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .budget import Budget, Rows
from .sequence_classification import LabelWay
from .word_labels import WordLabelWay

__all__ = ["TwoModels"]


class TwoModels:
    """A classifier of the text and a tagger of its words.

    Args:
        budget: what may be spent.
        tags: names of the tags.
        intents: names of the intents.
        share: which share of the budget's epochs each model has: 0.5 costs as much as one model of all.
    """

    def __init__(self, budget: Budget, tags: Sequence[str], intents: Sequence[str], share: float = 0.5):
        part = replace(budget, epochs=budget.epochs * share)
        self.tagger = WordLabelWay(part, tags)
        self.classifier = LabelWay(part, intents, label="intent")

    def fit(self, rows: Rows) -> None:
        """Trains one after the other."""
        self.tagger.fit(rows)
        self.classifier.fit(_texts(rows))

    def answer(self, rows: Rows) -> list[dict[str, Any]]:
        """`intent` and `tags` of each row."""
        both = zip(self.classifier.answer(_texts(rows)), self.tagger.answer(rows), strict=True)
        return [{"intent": intent, "tags": tags} for intent, tags in both]


def _texts(rows: Rows) -> Rows:
    return [row | {"text": " ".join(row["tokens"])} for row in rows]
