"""The mean of gradients over processes, where DDP does not take it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_gradients"]

_BUCKET = 2**23  # values of an exchange: few calls, and little memory beside the gradients


def average_gradients(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """The mean of each gradient over all processes, None where it is None in every one.

    Processes may lack different gradients (a head whose batch had nothing to learn from); a missing one is zero.

    Args:
        gradients: of this process, in an order that is the same in all.
        like: tensors of their shapes, types and device.
    """
    here = torch.tensor([g is not None for g in gradients], dtype=torch.uint8, device=like[0].device if like else None)
    if like:
        dist.all_reduce(here, dist.ReduceOp.MAX)
    mean: list[Tensor | None] = [None] * len(gradients)
    bucket: list[Tensor] = []
    for i, everywhere in enumerate(here.tolist()):
        if everywhere:
            own = gradients[i]
            found = mean[i] = torch.zeros_like(like[i]) if own is None else own
            if bucket and (found.dtype != bucket[0].dtype or sum(t.numel() for t in bucket) >= _BUCKET):
                _average(bucket)
                bucket = []
            bucket.append(found)
    if bucket:
        _average(bucket)
    return mean


def _average(tensors: list[Tensor]) -> None:
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
