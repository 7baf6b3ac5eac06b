"""Features of several inputs each: the choices of a question, the texts of a triplet."""

from collections.abc import Sequence
from itertools import accumulate

import torch

__all__ = ["gather_groups", "group_rows"]


def group_rows(sizes: Sequence[int]) -> torch.Tensor:
    """Which rows of a batch each feature has, `[features, inputs]`; -1 where a feature has no more.

    Args:
        sizes: the number of inputs of each feature; they stand in the batch one after the other.
    """
    longest = max(sizes)
    starts = accumulate(sizes, initial=0)
    return torch.tensor(
        [[*range(start, start + size), *[-1] * (longest - size)] for start, size in zip(starts, sizes, strict=False)]
    )


def gather_groups(hidden: torch.Tensor, mask: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`hidden [rows, seq, width]`, `mask [rows, seq]` -> the same as `[features, inputs, seq, ...]`.

    The mask of an input that a feature does not have is 0.
    """
    rows = groups.clamp(min=0)
    return hidden[rows], mask[rows] * (groups >= 0).unsqueeze(-1).to(mask.dtype)
