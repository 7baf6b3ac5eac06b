"""How well predicted distributions over labels agree with those of the data, by SciPy."""

from collections.abc import Sequence
from typing import ClassVar

import datasets
import numpy as np
from scipy.special import entr, rel_entr

from .base import LocalMetric, check_rows

__all__ = ["SoftLabelScore", "soft_label_scores"]

_NUMBERS = datasets.List(datasets.Value("float64"))


def soft_label_scores(
    predictions: Sequence[Sequence[float]], references: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Scores of one distribution over labels per row.

    Args:
        predictions: The predicted probabilities of each row, in the order of the labels.
        references: The gold ones.

    Returns:
        `accuracy`: the share of rows whose likeliest predicted label is the likeliest gold one, or one of them where
        several are equally likely. `cross_entropy` and `kl_divergence` (of the prediction from the gold), means over
        the rows in nats: 0 or more, and lower is better. A predicted probability counts as 2.2e-16 at least, as in
        scikit-learn's `log_loss`.

    Raises:
        ValueError: No rows, lists of different length, a row with other labels than the first, or one that is no
            distribution.
    """
    check_rows(predictions, references)
    return SoftLabelScore().compute(predictions=predictions, references=references)


class SoftLabelScore(LocalMetric):
    """Accuracy against the mode, cross entropy and KL divergence of lists of probabilities."""

    columns: ClassVar = {"predictions": _NUMBERS, "references": _NUMBERS}

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        check_rows(predictions, references)
        labels = len(references[0])
        predicted, gold = (
            _table(*named, labels) for named in (("predictions", predictions), ("references", references))
        )
        best = predicted.argmax(1, keepdims=True)
        divergence = rel_entr(gold, predicted.clip(min=np.finfo(np.float64).eps)).sum(1)
        return {
            "accuracy": float((np.take_along_axis(gold, best, 1) == gold.max(1, keepdims=True)).mean()),
            "cross_entropy": float((divergence + entr(gold).sum(1)).mean()),
            "kl_divergence": max(0.0, float(divergence.mean())),  # below 0 by rounding
        }


def _table(name: str, rows: list[list[float]], labels: int) -> np.ndarray:
    """`[rows, labels]`, each row a distribution."""
    for index, row in enumerate(rows):
        if len(row) != labels or labels == 0:
            raise ValueError(f"{name}[{index}] has {len(row)} probabilities, and references[0] has {labels}.")
    table = np.array(rows, dtype=np.float64)
    wrong = np.flatnonzero(~((table >= 0).all(1) & (np.abs(table.sum(1) - 1) < 1e-4)))
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}] is {rows[wrong[0]]!r:.80}: expected probabilities of 0 or more with the sum 1."
        )
    return table
