"""Rows drawn out of a data set, the same ones each time: held out of the training data, or for a quick trial."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["draw", "hold_out", "sample"]


def hold_out(rows: Any, parts: Mapping[str, float], seed: int, where: str) -> dict[str, Any]:
    """The training rows in parts: split -> `datasets.Dataset`, `train` being the rest. Each keeps the rows' order.

    Args:
        rows: the training rows.
        parts: split -> how many of the rows (a whole number), or which share of them.
        seed: which ones.
        where: the key in the recipe, for messages.

    Raises:
        ValueError: a part comes out empty, or nothing is left to train on.
    """
    order = _order(len(rows), seed)
    found, taken = {}, 0
    for split, size in parts.items():
        number = size if isinstance(size, int) else round(size * len(rows))
        if not number:
            raise ValueError(f"{where}.{split}: {size} of {len(rows)} training rows is none. Give a number of rows.")
        found[split] = rows.select(np.sort(order[taken : taken + number]))
        taken += number
    if taken >= len(rows):
        raise ValueError(f"{where} takes {taken} rows, and there are {len(rows)} training rows: nothing is left.")
    return {"train": rows.select(np.sort(order[taken:])), **found}


def sample(rows: Any, number: int, seed: int) -> Any:
    """So many of the rows at most, in their order. A smaller sample is part of any greater one."""
    return rows if len(rows) <= number else rows.select(draw(len(rows), number, seed))


def draw(rows: int, number: int, seed: int) -> np.ndarray:
    """The numbers of so many of the rows at most, in their order."""
    return np.sort(_order(rows, seed)[:number])


def _order(number: int, seed: int) -> np.ndarray:
    # NumPy promises that this generator, unlike its newer ones, gives the same numbers in all its versions: a model
    # must not be evaluated elsewhere on the rows that it was trained on.
    return np.random.RandomState(seed).permutation(number)
