"""A batch whose rows stand in it twice, so that one forward is two passes, each under its own dropout."""

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["twice"]

# What is not a tensor of rows: the names of the tasks that a batch is of.
_NOT_ROWS = ("tasks",)


def twice(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The batch and, behind it, the same once more. Half of each output is a pass.

    Args:
        inputs: what the collator gave: of one task, or of tasks that share all rows. Values are tensors, or dicts task
            -> tensor.
    """
    rows = len(inputs["input_ids"])

    def double(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: double(key, part) for name, part in value.items()}
        if key in _NOT_ROWS or value is None:
            return value
        # Groups are numbers of rows, -1 where there is none.
        again = torch.where(value >= 0, value + rows, value) if key == "row_groups" else value
        return torch.cat([value, again])

    return {key: double(key, value) for key, value in inputs.items()}
