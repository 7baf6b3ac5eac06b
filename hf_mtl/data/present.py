"""Whose rows a batch has."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

__all__ = ["examples_of_tasks"]


def examples_of_tasks(batch: Mapping[str, Any], tasks: Iterable[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """task -> how many examples of it a collated batch has: rows, or, of several rows each, groups of rows.

    Args:
        batch: what `MultiTaskCollator` gave.
        tasks: the tasks to count.
        ids: task -> its number in `task_ids`.

    Returns:
        task -> a number, or a tensor `[]` on the batch's device, which nobody has waited for.
    """
    groups = batch.get("row_groups")
    found: dict[str, int | torch.Tensor] = {}
    for name in tasks:
        own = groups.get(name) if isinstance(groups, Mapping) else groups
        found[name] = (batch["task_ids"] == ids[name]).sum() if own is None else len(own)
    return found
