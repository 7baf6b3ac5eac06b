"""Texts and pairs as `run_glue.py` and `run_classification.py` have them: a label, several, or a number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

from .budget import Budget, Rows, logits_of, trained

__all__ = ["LabelWay", "MultiLabelWay", "NumberWay", "SequenceWay"]


class SequenceWay:
    """AutoModelForSequenceClassification over one text or two. Subclasses say what labels and answers are.

    Args:
        budget: what may be spent.
        labels: the label names.
        columns: the columns of the text, or of both texts.
        label: the column of the label.
    """

    problem_type = "single_label_classification"
    trainer_class: type[Trainer] = Trainer
    more_tokens: Sequence[str] = ()

    def __init__(
        self, budget: Budget, labels: Sequence[str] = (), columns: Sequence[str] = ("text",), label: str = "label"
    ):
        self.budget, self.labels, self.columns, self.label = budget, list(labels), list(columns), label
        self.tokenizer: Any = AutoTokenizer.from_pretrained(budget.backbone)
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(self.more_tokens)})
        self.model = AutoModelForSequenceClassification.from_pretrained(
            budget.backbone, num_labels=max(1, len(self.labels)), problem_type=self.problem_type
        )
        if self.more_tokens:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.trainer: Trainer | None = None

    def fit(self, rows: Rows) -> None:
        """Encodes the rows and trains on them."""
        features = self.encode(rows)
        for feature, row in zip(features, rows, strict=True):
            feature["labels"] = self.gold(row)
        collator = DataCollatorWithPadding(self.tokenizer)
        self.trainer = trained(self.model, features, collator, self.budget, self.trainer_class)

    def encode(self, rows: Rows) -> list[dict[str, Any]]:
        """A feature for each row."""
        texts = [self.texts(row) for row in rows]
        encoded = self.tokenizer(
            *(list(column) for column in zip(*texts, strict=True)), truncation=True, max_length=self.budget.max_length
        )
        return [{key: values[i] for key, values in encoded.items()} for i in range(len(rows))]

    def texts(self, row: dict[str, Any]) -> list[str]:
        """The one or two texts of a row."""
        return [row[column] for column in self.columns]

    def gold(self, row: dict[str, Any]) -> Any:
        """What the loss is given of a row."""
        return self.labels.index(row[self.label])

    def logits(self, rows: Rows) -> np.ndarray:
        """`[rows, labels]`."""
        if self.trainer is None:
            raise RuntimeError("fit comes before answer.")
        return logits_of(self.trainer, self.encode(rows))

    def answer(self, rows: Rows) -> list[Any]:
        """The likeliest label of each row."""
        return [self.labels[k] for k in self.logits(rows).argmax(-1)]


class LabelWay(SequenceWay):
    """One label a row."""


class MultiLabelWay(SequenceWay):
    """Any number of labels: those whose sigmoid is above 0.5."""

    problem_type = "multi_label_classification"

    def gold(self, row: dict[str, Any]) -> list[float]:
        """1 for each label that holds."""
        return [float(label in row[self.label]) for label in self.labels]

    def answer(self, rows: Rows) -> list[list[str]]:
        """The labels of each row."""
        return [[self.labels[k] for k in np.flatnonzero(row > 0)] for row in self.logits(rows)]


class NumberWay(SequenceWay):
    """A number as it is in the data, by the squared error: `num_labels=1`."""

    problem_type = "regression"

    def gold(self, row: dict[str, Any]) -> float:
        """The number."""
        return float(row[self.label])

    def answer(self, rows: Rows) -> list[float]:
        """A number for each row."""
        return self.logits(rows)[:, 0].tolist()
