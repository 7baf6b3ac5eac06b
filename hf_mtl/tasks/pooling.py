"""One vector for a text, out of the vectors of its tokens."""

import torch

__all__ = ["POOLINGS", "pool", "resolve_pooling"]

POOLINGS = ("auto", "mean", "first", "last")


def resolve_pooling(pooling: str, causal: bool) -> str:
    """`auto` is `last` on a causal backbone, where only the last token has seen the text, and `mean` elsewhere."""
    if pooling != "auto":
        return pooling
    return "last" if causal else "mean"


def pool(hidden: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    """`hidden [batch, seq, width]`, `mask [batch, seq]` -> `[batch, width]`; padding on either side is left out."""
    if how == "mean":
        weights = mask.to(hidden.dtype)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        return torch.bmm(weights.unsqueeze(1), hidden).squeeze(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    real = mask.bool()
    if how == "last":
        index = torch.where(real, positions, -1).amax(1).clamp(min=0)
    else:
        index = torch.where(real, positions, mask.shape[1]).amin(1).clamp(max=mask.shape[1] - 1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]
