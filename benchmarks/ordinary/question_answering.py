"""Answers read out of contexts, as `run_qa.py` and its `utils_qa.py` have it for SQuAD."""

from typing import Any

import numpy as np
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding, Trainer

from .budget import Budget, Rows, logits_of, trained

__all__ = ["QuestionAnsweringWay"]

STRIDE = 128
BEST = 20
LONGEST = 30


class QuestionAnsweringWay:
    """AutoModelForQuestionAnswering over overlapping windows; a window without the answer points at its first token.

    Args:
        budget: what may be spent.
    """

    def __init__(self, budget: Budget):
        self.budget = budget
        self.tokenizer: Any = AutoTokenizer.from_pretrained(budget.backbone)
        self.model = AutoModelForQuestionAnswering.from_pretrained(budget.backbone)
        self.trainer: Trainer | None = None

    def encode(self, rows: Rows) -> Any:
        """The windows of all rows."""
        return self.tokenizer(
            [row["question"].lstrip() for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=self.budget.max_length,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def fit(self, rows: Rows) -> None:
        """Encodes the rows and trains on them."""
        encoded = self.encode(rows)
        features = _inputs(encoded)
        for i, feature in enumerate(features):
            answers = rows[encoded["overflow_to_sample_mapping"][i]]["answers"]
            start = answers["answer_start"][0]
            place = _place(encoded, i, start, start + len(answers["text"][0]))
            feature["start_positions"], feature["end_positions"] = place
        self.trainer = trained(self.model, features, DataCollatorWithPadding(self.tokenizer), self.budget)

    def answer(self, rows: Rows) -> list[str]:
        """The text of the best span of each row, by the sum of its logits."""
        if self.trainer is None:
            raise RuntimeError("fit comes before answer.")
        encoded = self.encode(rows)
        starts, ends = logits_of(self.trainer, _inputs(encoded))
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(rows)
        for i, row in enumerate(encoded["overflow_to_sample_mapping"]):
            offsets, part = encoded["offset_mapping"][i], encoded.sequence_ids(i)
            for first in np.argsort(-starts[i][: len(part)])[:BEST].tolist():
                for last in np.argsort(-ends[i][: len(part)])[:BEST].tolist():
                    if part[first] != 1 or part[last] != 1 or not first <= last < first + LONGEST:
                        continue
                    score = float(starts[i][first] + ends[i][last])
                    if score > best[row][0]:
                        best[row] = score, rows[row]["context"][offsets[first][0] : offsets[last][1]]
        return [text for _, text in best]


def _inputs(encoded: Any) -> list[dict[str, Any]]:
    keys = [key for key in ("input_ids", "token_type_ids", "attention_mask") if key in encoded]
    return [{key: encoded[key][i] for key in keys} for i in range(len(encoded["input_ids"]))]


def _place(encoded: Any, window: int, start: int, end: int) -> tuple[int, int]:
    """The first and the last subword of an answer's characters; both 0 where the window does not hold it all."""
    part, offsets = encoded.sequence_ids(window), encoded["offset_mapping"][window]
    places = [k for k, number in enumerate(part) if number == 1]
    if not places or offsets[places[0]][0] > start or offsets[places[-1]][1] < end:
        return 0, 0
    first = max(k for k in places if offsets[k][0] <= start)
    last = min(k for k in places if offsets[k][1] >= end)
    return first, last
