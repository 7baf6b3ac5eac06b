"""Accuracy and macro F1 of labels, by scikit-learn."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from sklearn.metrics import accuracy_score, f1_score

from .base import TEXT, LocalMetric, check_rows, check_texts

__all__ = ["ClassificationScore", "classification_scores", "label_ids", "label_scores"]


def classification_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 of one label per row.

    Args:
        predictions: The predicted label of each row.
        references: The gold label of each row.

    Returns:
        `accuracy` and `f1_macro`: the mean F1 of the labels that occur in either list, as in scikit-learn.

    Raises:
        ValueError: No rows, or lists of different length.
        TypeError: A label that is not a string.
    """
    check_rows(predictions, references, check_texts)
    return ClassificationScore().compute(predictions=predictions, references=references)


class ClassificationScore(LocalMetric):
    """Accuracy and macro F1 of one label (a string) per row."""

    columns: ClassVar = {"predictions": TEXT, "references": TEXT}

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        check_rows(predictions, references)
        return label_scores(predictions, references)


def label_ids(predictions: Iterable[str], references: Iterable[str]) -> dict[str, int]:
    """A number for each label that occurs.

    scikit-learn sorts strings several times slower, and NumPy drops trailing NULs from them.
    """
    return {label: index for index, label in enumerate(dict.fromkeys([*references, *predictions]))}


def label_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`accuracy` and `f1_macro` of two equally long, not empty lists."""
    ids = label_ids(predictions, references)
    gold, predicted = [ids[label] for label in references], [ids[label] for label in predictions]
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "f1_macro": float(f1_score(gold, predicted, average="macro", zero_division=0)),
    }
