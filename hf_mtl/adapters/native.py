"""The low-rank products of rows of many tasks in compiled code, `csrc/low_rank.c`: on x86 processors, in 32 bits.

Optional: where it was not compiled (no C compiler at installation, another processor), torch's products are taken.
"""

import os
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.autograd import forward_ad

from .routing import Route

try:
    from . import _low_rank
except ImportError:
    _low_rank = None

__all__ = ["Scale", "add_low_rank_", "gradients", "instructions", "linear_with_low_rank", "use_instructions"]

Scale = float | torch.Tensor  # of all tasks, or [tasks, 1, 1]
Weights = Sequence[torch.Tensor]  # of each task

_PLAIN = (torch.Tensor, nn.Parameter)


def use_instructions(name: str | None = "best") -> None:
    """Which instructions of the processor the products are compiled for that run from now on.

    Args:
        name: `avx512`, `avx2`, `best`: what there is; None: torch's products.

    Raises:
        ValueError: another name, or the processor has not these.
        RuntimeError: the products were not compiled.
    """
    global _instructions
    if name is None:
        _instructions = None
        return
    if _low_rank is None:
        raise RuntimeError(
            "The compiled products of adapters are not there: hf_mtl was installed without a C compiler (gcc or clang, "
            "with OpenMP), or not on x86-64 Linux. Install it again where there is one."
        )
    found = _low_rank.use(None if name == "best" else name)
    if found is None and name != "best":
        raise ValueError(f"This processor has no {name}. Take 'best' for what it has.")
    _instructions = found


def instructions() -> str | None:
    """What the compiled products run on, `avx512` or `avx2`; None: torch's products are taken."""
    return _instructions


_instructions: str | None = None
if _low_rank is not None and os.environ.get("HF_MTL_NATIVE", "1") != "0":
    use_instructions()


def _addresses(*tensors: torch.Tensor) -> tuple[int, ...] | None:
    """Where they are; None: the compiled products cannot be taken of them.

    They can of plain tensors of 32 bits in a processor's memory, without gaps; not where something else follows the
    steps of torch: tracing, compiling, `torch.func`, forward derivatives, modes.
    """
    if (
        _instructions is None
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    ):
        return None
    return cast(tuple[int, ...] | None, _low_rank.addresses(tensors, _PLAIN, torch.float32))


def add_low_rank_(
    result: torch.Tensor, x: torch.Tensor, route: Route, down: Weights, up: Weights, scale: Scale
) -> bool:
    """Adds `s B(t) A(t) x` to `result [batch, ..., out]` in its own memory; False: it cannot, and has done nothing."""
    found = _addresses(result, x, *down, *up)
    if found is None:
        return False
    _forward(found, 0, result.shape[-1], x, route, down, scale)
    return True


def linear_with_low_rank(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    route: Route,
    down: Weights,
    up: Weights,
    scale: Scale,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`W x + b + s B(t) A(t) x` for `x [batch, ..., in]`, and the low-rank states `A(t) x [tokens, r]`; None: it cannot."""
    found = _addresses(weight, x, *down, *up) if bias is None else _addresses(weight, x, *down, *up, bias)
    if found is None:
        return None
    tokens = x.view(-1, x.shape[-1])
    if bias is None:
        result = tokens @ weight.t()
        states = _forward((result.data_ptr(), *found[1:]), 0, len(weight), tokens, route, down, scale)
    else:
        # The adapters' part first: what would begin with the bias begins with both, and the wide product adds to it.
        result = x.new_empty(len(tokens), len(weight))
        states = _forward((result.data_ptr(), *found[1:-1]), found[-1], len(weight), tokens, route, down, scale)
        result.addmm_(tokens, weight.t())
    return result.view(*x.shape[:-1], len(weight)), states


def _forward(
    found: tuple[int, ...], base: int, out: int, x: torch.Tensor, route: Route, down: Weights, scale: Scale
) -> torch.Tensor:
    """`found`: the addresses of result, x, each A and each B; `base`: that of what the result begins with, 0: itself."""
    width, (number, rank) = x.shape[-1], (len(down), len(down[0]))
    count = x.numel() // width
    states = x.new_empty(count, rank)
    _low_rank.forward(
        torch.get_num_threads(),
        *(found[1], base, found[0], states.data_ptr()),
        *((count, width, out, rank), found[2 : 2 + number], found[2 + number :]),
        *(_scales(scale, number), *route.runs),
    )
    return states


def gradients(
    x: torch.Tensor,
    above: torch.Tensor,
    states: torch.Tensor,
    d_x: torch.Tensor | None,
    route: Route,
    down: Weights,
    up: Weights,
    scale: Scale,
    learns: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None] | None:
    """The gradients of A and B, `[tasks, ...]` each, where they learn; adds to `d_x [tokens, in]` in its own memory.

    Args:
        x: `[tokens, in]`.
        above: the gradient of the output, `[tokens, out]`.
        states: what `linear_with_low_rank` gave.
        learns: whether A, and whether B.

    Returns:
        None: it cannot, and has done nothing.
    """
    found = _addresses(x, above, states, *down, *up)
    if found is None:
        return None
    number = len(down)
    d_down = x.new_zeros(number, *down[0].shape) if learns[0] else None
    d_up = x.new_empty(number, *up[0].shape) if learns[1] else None
    _low_rank.backward(
        torch.get_num_threads(),
        *found[:3],
        *(0 if tensor is None else tensor.data_ptr() for tensor in (d_x, d_down, d_up)),
        *((len(x), x.shape[1], above.shape[1], states.shape[1]), found[3 : 3 + number], found[3 + number :]),
        *(_scales(scale, number), *route.runs),
    )
    return d_down, d_up


def _scales(scale: Scale, number: int) -> tuple[float, ...]:
    return (scale,) * number if isinstance(scale, float) else tuple(scale.flatten().tolist())
