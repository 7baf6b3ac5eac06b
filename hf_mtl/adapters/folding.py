"""An adapter folded into its base weight for one product, `(W + s B A) x`: for many tokens of one task.

The products of a low rank are few operations, but thin: beside the base layer's they take three times what their number
says, and one of them adds to a tensor as large as the layer's output. To fold costs the same however many tokens.
"""

import torch
import torch.nn.functional as F

__all__ = ["folds", "linear_with_folded"]

# Measured in forwards of MiniLM: with 512 tokens it takes as long as products apart, with 2,048 a twentieth less. In
# training, where the backward would fold once more, it takes as long with 2,048 and longer with fewer.
FROM_TOKENS = 1024


def folds(x: torch.Tensor) -> bool:
    """Whether `x [batch, ..., in]`, all of one task, takes the adapter in the weight.

    Only where the sum of both keeps what the adapter adds: 16 bits would round it away. Only on a processor, where it
    was measured.
    """
    many = x.numel() >= FROM_TOKENS * x.shape[-1]
    return many and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def linear_with_folded(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """`(W + s B A) x + b`."""
    return F.linear(x, torch.addmm(weight, up, down, alpha=scale), bias)
