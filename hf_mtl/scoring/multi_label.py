"""F1 and subset accuracy of sets of labels, by scikit-learn."""

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from .base import TEXTS, LocalMetric, check_rows, check_text_lists
from .classification import label_ids

__all__ = ["MultiLabelScore", "multi_label_scores"]


def multi_label_scores(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of any number of labels per row; their order and repeats do not matter.

    Args:
        predictions: The predicted labels of each row, an empty list for none.
        references: The gold labels of each row.

    Returns:
        `f1_micro` over all labels of all rows, `f1_macro`: the mean F1 of the labels that occur in either list, and
        `subset_accuracy`: the share of rows whose labels are all right. Where no row has any label, predicted or
        gold, there is nothing to divide by: both F1 are 0.

    Raises:
        ValueError: No rows, or lists of different length.
        TypeError: A row that is not a list of strings.
    """
    check_rows(predictions, references, check_text_lists)
    return MultiLabelScore().compute(predictions=predictions, references=references)


class MultiLabelScore(LocalMetric):
    """Micro F1, macro F1 and subset accuracy of lists of labels (strings)."""

    columns: ClassVar = {"predictions": TEXTS, "references": TEXTS}

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        check_rows(predictions, references)
        ids = label_ids(chain.from_iterable(predictions), chain.from_iterable(references))
        if not ids:
            return {"f1_micro": 0.0, "f1_macro": 0.0, "subset_accuracy": 1.0}
        # Never one column alone, of which scikit-learn would count the rows without the label as well.
        columns = MultiLabelBinarizer(classes=range(len(ids) + 1), sparse_output=True)
        gold, predicted = (
            columns.fit_transform([{ids[label] for label in row} for row in rows]) for rows in (references, predictions)
        )
        known = list(range(len(ids)))
        return {
            "f1_micro": float(f1_score(gold, predicted, labels=known, average="micro", zero_division=0)),
            "f1_macro": float(f1_score(gold, predicted, labels=known, average="macro", zero_division=0)),
            "subset_accuracy": float(accuracy_score(gold, predicted)),
        }
