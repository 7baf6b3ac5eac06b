"""Correlations and the squared error of numbers, by SciPy and scikit-learn."""

import math
from collections.abc import Sequence
from typing import ClassVar

import datasets
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error

from .base import LocalMetric, check_rows

__all__ = ["CorrelationScore", "correlation_scores"]

_NUMBER = datasets.Value("float64")
# Numbers that differ by less than this share of their size differ by rounding alone.
_ROUNDING = 1e-12


def correlation_scores(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """How well numbers agree.

    Args:
        predictions: The predicted number of each row.
        references: The gold number of each row.

    Returns:
        `pearson` and `spearman`, -1 to 1; 0 where either list holds one value only, which correlates with nothing.
        `mse`, the mean squared error in the square of the numbers' own unit: 0 or more, and lower is better.

    Raises:
        ValueError: No rows, lists of different length, or a number that is not finite.
        TypeError: A value that is not a number.
    """
    check_rows(predictions, references, _check_numbers)
    return CorrelationScore().compute(predictions=predictions, references=references)


class CorrelationScore(LocalMetric):
    """Pearson's and Spearman's correlation, and the mean squared error, of one number per row."""

    columns: ClassVar = {"predictions": _NUMBER, "references": _NUMBER}

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        check_rows(predictions, references)
        varied = _varies(predictions) and _varies(references)
        return {
            "pearson": float(pearsonr(predictions, references).statistic) if varied else 0.0,
            "spearman": float(spearmanr(predictions, references).statistic) if varied else 0.0,
            "mse": float(mean_squared_error(references, predictions)),
        }


def _varies(values: Sequence[float]) -> bool:
    # SciPy gives NaN and a warning where numbers are constant, and a warning where they nearly are.
    return bool(np.ptp(values) > _ROUNDING * np.abs(values).max())


def _check_numbers(name: str, values: Sequence[float]) -> None:
    for index, value in enumerate(values):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{name}[{index}] is {value!r} ({type(value).__name__}): expected a number.")
        if not math.isfinite(value):
            raise ValueError(f"{name}[{index}] is {value!r}: expected a finite number. Has the training diverged?")
