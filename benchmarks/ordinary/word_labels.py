"""A label for each word as `run_ner.py` has it: the first subword is labelled, the others are not."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification, Trainer

from hf_mtl.tasks.edit_scripts import apply_script, edit_script

from .budget import Budget, Rows, logits_of, trained

__all__ = ["EditScriptWay", "WordLabelWay"]


class WordLabelWay:
    """AutoModelForTokenClassification: tags, parts of speech, whole feature strings.

    Args:
        budget: what may be spent.
        labels: the label names; a label of a row that is none of them trains nothing.
        column: the column of the labels.
        otherwise: the label of a word that no subword stands for, because it was cut off.
    """

    def __init__(self, budget: Budget, labels: Sequence[str], column: str = "tags", otherwise: str = "O"):
        self.budget, self.labels, self.column, self.otherwise = budget, list(labels), column, otherwise
        self.tokenizer: Any = AutoTokenizer.from_pretrained(budget.backbone)
        self.model = AutoModelForTokenClassification.from_pretrained(budget.backbone, num_labels=len(self.labels))
        self.trainer: Trainer | None = None

    def encode(self, rows: Rows, labelled: bool) -> tuple[list[dict[str, Any]], list[list[tuple[int, int]]]]:
        """A feature for each row, and which word has its first subword where."""
        encoded = self.tokenizer(
            [list(row["tokens"]) for row in rows],
            is_split_into_words=True,
            truncation=True,
            max_length=self.budget.max_length,
        )
        index = {label: k for k, label in enumerate(self.labels)}
        features, places = [], []
        for i, row in enumerate(rows):
            feature = {key: values[i] for key, values in encoded.items()}
            words = encoded.word_ids(i)
            first = [(0, words[0])] if words and words[0] is not None else []
            first += [(k + 1, b) for k, (a, b) in enumerate(pairwise(words)) if b is not None and b != a]
            if labelled:
                gold = self.gold(row)
                feature["labels"] = [-100] * len(words)
                for place, word in first:
                    feature["labels"][place] = index.get(gold[word], -100)
            features.append(feature)
            places.append(first)
        return features, places

    def gold(self, row: dict[str, Any]) -> Sequence[str]:
        """The labels of a row's words."""
        return row[self.column]

    def fit(self, rows: Rows) -> None:
        """Encodes the rows and trains on them."""
        collator = DataCollatorForTokenClassification(self.tokenizer)
        self.trainer = trained(self.model, self.encode(rows, True)[0], collator, self.budget)

    def answer(self, rows: Rows) -> list[list[str]]:
        """The likeliest label of each word."""
        if self.trainer is None:
            raise RuntimeError("fit comes before answer.")
        features, places = self.encode(rows, False)
        best = np.asarray(logits_of(self.trainer, features)).argmax(-1)
        found = []
        for row, first, own in zip(rows, places, best, strict=True):
            labels = [self.otherwise] * len(row["tokens"])
            for place, word in first:
                labels[word] = self.labels[own[place]]
            found.append(self.said(row, labels))
        return found

    def said(self, row: dict[str, Any], labels: list[str]) -> list[str]:
        """What the labels say of a row's words: themselves."""
        return labels


class EditScriptWay(WordLabelWay):
    """The lemma of each word: the labels are whole edit scripts. A script that does not fit leaves its word."""

    def gold(self, row: dict[str, Any]) -> Sequence[str]:
        """The script of each word."""
        return [edit_script(word, lemma) for word, lemma in zip(row["tokens"], row[self.column], strict=True)]

    def said(self, row: dict[str, Any], labels: list[str]) -> list[str]:
        """The lemmas."""
        made = [apply_script(script, word) for script, word in zip(labels, row["tokens"], strict=True)]
        return [word if lemma is None else lemma for lemma, word in zip(made, row["tokens"], strict=True)]
