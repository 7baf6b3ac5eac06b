"""Choices as `run_swag.py` has them: each is the second text of a pair, and one number says how well it fits."""

from typing import Any

from transformers import AutoModelForMultipleChoice, AutoTokenizer, Trainer
from transformers.data.data_collator import DataCollatorForMultipleChoice

from .budget import Budget, Rows, logits_of, trained

__all__ = ["MultipleChoiceWay"]


class MultipleChoiceWay:
    """AutoModelForMultipleChoice; all rows have as many choices.

    Args:
        budget: what may be spent.
    """

    def __init__(self, budget: Budget):
        self.budget = budget
        self.tokenizer: Any = AutoTokenizer.from_pretrained(budget.backbone)
        self.model = AutoModelForMultipleChoice.from_pretrained(budget.backbone)
        self.trainer: Trainer | None = None

    def encode(self, rows: Rows) -> list[dict[str, Any]]:
        """A feature for each row, with a list for each choice. Labels are given: the collator asks for them."""
        features = []
        for row in rows:
            choices = row["choices"]
            first = [row.get("context") or row["question"]] * len(choices)
            second = [f"{row['question']} {choice}" if row.get("context") else choice for choice in choices]
            encoded = self.tokenizer(first, second, truncation=True, max_length=self.budget.max_length)
            features.append(dict(encoded) | {"label": row.get("label", 0)})
        return features

    def fit(self, rows: Rows) -> None:
        """Encodes the rows and trains on them."""
        collator = DataCollatorForMultipleChoice(self.tokenizer)
        self.trainer = trained(self.model, self.encode(rows), collator, self.budget)

    def answer(self, rows: Rows) -> list[int]:
        """The index of the best choice of each row."""
        if self.trainer is None:
            raise RuntimeError("fit comes before answer.")
        return logits_of(self.trainer, self.encode(rows)).argmax(-1).tolist()
