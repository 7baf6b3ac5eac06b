"""An adapter folded into its base weight for one product, `(W + s B A) x`: for many tokens of one task.

The products of a low rank are few operations, but thin: beside the base layer's they take three times what their number
says, and one of them adds to a tensor as large as the layer's output. To fold costs the same however many tokens.
"""

import torch
from torch import nn

from .native import linear

__all__ = ["folds", "linear_with_folded"]

# Measured in forwards of MiniLM: with 512 tokens it takes as long as products apart, with 2,048 a twentieth less. In
# training, where the backward would fold once more, it takes as long with 2,048 and longer with fewer.
FROM_TOKENS = 1024


def folds(x: torch.Tensor, base: nn.Module) -> bool:
    """Whether `x [batch, ..., in]`, all of one task, takes the adapter in the weight of its base layer.

    Only where the sum of both keeps what the adapter adds: 16 bits would round it away. Only on a processor, where it
    was measured. A sum of `in x out` numbers is worth it for more tokens, the wider the layer.
    """
    if torch.compiler.is_compiling() or type(base) is not nn.Linear:
        return False
    few = max(FROM_TOKENS, base.in_features * base.out_features // (base.in_features + base.out_features))
    return x.numel() >= few * x.shape[-1] and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def linear_with_folded(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """`(W + s B A) x + b`."""
    return linear(x, torch.addmm(weight, up, down, alpha=scale), bias)
