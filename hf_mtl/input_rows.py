"""Some rows of a batch: what of the backbone's inputs is theirs."""

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["check_whole", "inputs_of_rows", "of_rows"]


def check_whole(inputs: Mapping[str, Any]) -> None:
    """Raises ValueError where texts would go on from a cache: each task's forward would add to it, and heads read all.

    A decoder's own cache inside of one forward (`use_cache=True`) is its own affair.
    """
    if inputs.get("past_key_values") is not None:
        raise ValueError(
            "forward reads whole texts, and takes no past_key_values: give all of the input_ids. A task that writes "
            "keeps its cache by itself: see generate."
        )


def of_rows(rows: torch.Tensor | None, value: torch.Tensor | None) -> Any:
    """These rows of a tensor; None: all of them."""
    return value if rows is None or value is None else value[rows]


def inputs_of_rows(rows: torch.Tensor | None, inputs: Mapping[str, Any], size: int) -> dict[str, Any]:
    """These rows of every input; None: all of them.

    Args:
        rows: their numbers.
        inputs: by name. Options (`use_cache=False`), and tensors that are one for all rows (`[1, ...]`), stay.
        size: of the batch.

    Raises:
        ValueError: an input cannot be taken apart by rows.
    """
    return dict(inputs) if rows is None else {name: _of_rows(rows, name, value, size) for name, value in inputs.items()}


def _of_rows(rows: torch.Tensor, name: str, value: Any, size: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else None
    if shape is not None and shape[:1] == (size,):
        return value[rows]
    if shape is not None and shape[:1] in ((), (1,)):
        return value
    what = type(value).__name__ if shape is None else f"of shape {shape}"
    raise ValueError(
        f"{name} ({what}) cannot be taken apart into the rows of several tasks, of which the batch has {size}. Give it "
        "with rows first, [batch, ...], or give the rows of one task at a time (tasks=[name])."
    )
