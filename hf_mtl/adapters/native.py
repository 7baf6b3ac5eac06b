"""The products of routed layers in compiled code, `csrc/low_rank.c`: on x86 processors, in 32 bits.

Those of the adapters, of rows of many tasks; where it is faster, the base layers' as well. Optional: where it was not
compiled (no C compiler at installation, another processor), torch's products are taken.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from .routing import Route

_low_rank: Any
try:
    _low_rank = import_module("hf_mtl.adapters._low_rank")
except ImportError:
    _low_rank = None

__all__ = [
    "Scale",
    "add_low_rank_",
    "gradients",
    "instructions",
    "linear",
    "linear_with_low_rank",
    "use_instructions",
    "wide_products",
]

Scale = float | torch.Tensor  # of all tasks, or [tasks, 1, 1]
Weights = Sequence[torch.Tensor]  # of each task

_PLAIN = (torch.Tensor, nn.Parameter)

# With fewer of them torch's wide products take as long, or less.
FROM_TOKENS = 32
FROM_COLUMNS = 32


def use_instructions(name: str | None = "best", wide: bool | None = None) -> None:
    """Which instructions of the processor the products are compiled for that run from now on.

    Args:
        name: `avx512`, `avx2`, `best`: what there is; None: torch's products.
        wide: whether the products with the base layers' weights are made with those of the adapters, and not by torch;
            None: where that was measured to be faster, on processors of AMD.

    Raises:
        ValueError: another name, or the processor has not these.
        RuntimeError: the products were not compiled.
    """
    global _instructions, _wide
    if name is None:
        _instructions, _wide = None, False
        return
    if _low_rank is None:
        raise RuntimeError(
            "The compiled products of adapters are not there: hf_mtl was installed without a C compiler (gcc or clang, "
            "with OpenMP), or not on x86-64 Linux. Where there is one, install it again with `pip install "
            "--no-cache-dir --force-reinstall --no-deps`."
        )
    found = _low_rank.use(None if name == "best" else name)
    if found is None and name != "best":
        raise ValueError(f"This processor has no {name}. Take 'best' for what it has.")
    _instructions, _wide = found, found is not None and (_low_rank.of_amd() if wide is None else wide)


def instructions() -> str | None:
    """What the compiled products run on, `avx512` or `avx2`; None: torch's products are taken."""
    return _instructions


_instructions: str | None = None
_wide = False
_SETTINGS = {"": None, "1": None, "adapters": False, "all": True}  # of the environment's HF_MTL_NATIVE
_setting = os.environ.get("HF_MTL_NATIVE", "")
if _setting not in (*_SETTINGS, "0"):
    raise ValueError(
        f"HF_MTL_NATIVE={_setting!r} is not known. Set 0 (torch's products), adapters (compiled ones for adapters), "
        "all (for base layers too) or 1, which is the fastest, like nothing at all."
    )
if _low_rank is not None and _setting != "0":
    use_instructions(wide=_SETTINGS[_setting])


def wide_products() -> bool:
    """Whether the products with the base layers' weights are compiled ones too."""
    return _wide


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`W x + b` of `x [..., in]`, without a graph and without autocast."""
    base = _base(weight, bias) if x.dim() and _suits(x) else None
    if not base:
        return F.linear(x, weight, bias)
    sizes = (x.numel() // x.shape[-1], x.shape[-1], len(weight))
    if _takes_wide(*sizes):
        result = x.new_empty(*x.shape[:-1], len(weight))
        if _low_rank.product(torch.get_num_threads(), (x, base[0], result, *base[1:]), _PLAIN, torch.float32, sizes):
            return result
    return F.linear(x, weight, bias)


def _takes_wide(tokens: int, terms: int, columns: int, of_adapters: int = 0) -> bool:
    """Whether the product of so many tokens with a base layer's weight is made here.

    Args:
        terms: what is summed up for each number of the result.
        columns: numbers of the result for each token.
        of_adapters: rank times tasks. Their weights are packed, in no more memory than the base layer's weight.
    """
    wide = _wide and tokens >= FROM_TOKENS and columns >= FROM_COLUMNS and of_adapters <= terms
    return wide and _full_precision()


def _full_precision() -> bool:
    """Whether torch's products of a processor have all 32 bits; lower precision is torch's to give."""
    kinds: Any = torch.backends.mkldnn
    try:
        return kinds.matmul.fp32_precision in ("none", "ieee")
    except AttributeError:  # before torch 2.9
        return torch.get_float32_matmul_precision() == "highest"


def _base(weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, ...] | None:
    """Weight and bias of a base layer in tensors that hold their memory, whatever another thread does to the layer."""
    found = (weight,) if bias is None else (weight, bias)
    if weight.dim() != 2 or any(tensor.is_neg() for tensor in found) or (bias is not None and bias.dim() != 1):
        return None  # torch's to compute, or its error
    return tuple(tensor.detach() for tensor in found)


def add_low_rank_(
    result: torch.Tensor, x: torch.Tensor, route: Route, down: Weights, up: Weights, scale: Scale
) -> bool:
    """Adds `s B(t) A(t) x` to `result [batch, ..., out]` in its own memory; False: it cannot, and has done nothing."""
    return _suits(x) and _forward(result, x, route, down, up, scale) is not None


def linear_with_low_rank(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    route: Route,
    down: Weights,
    up: Weights,
    scale: Scale,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`W x + b + s B(t) A(t) x` of `x [batch, ..., in]`, and the states `A(t) x [tokens, r]`; None: it cannot."""
    base = _base(weight, bias) if _suits(x) else None
    if not base:
        return None
    tokens = x.view(-1, x.shape[-1])
    result = x.new_empty(len(tokens), len(weight))
    states = None
    if _takes_wide(len(tokens), x.shape[-1], len(weight), len(down) * len(down[0])):
        states = _forward(result, tokens, route, down, up, scale, base[1:], base[0])
    if states is None:
        # The adapters' part first: what would begin with the bias begins with both, and the wide product adds to it.
        begin = base[1:] or (x.new_zeros(len(weight)),)
        states = _forward(result, tokens, route, down, up, scale, begin)
        if states is None:
            return None
        result.addmm_(tokens, weight.t())
    # A view would be one of autograd's where this is a step of it, which may not be changed in its own memory.
    return result if x.dim() == 2 else result.view(*x.shape[:-1], len(weight)), states


def gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    above: torch.Tensor,
    states: torch.Tensor,
    route: Route,
    down: Weights,
    up: Weights,
    scale: Scale,
    learns: tuple[bool, bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None] | None:
    """The gradients of x, `[tokens, in]`, and of A and B, `[tasks, ...]` each, where they learn.

    Args:
        x: `[tokens, in]`.
        above: the gradient of the output, `[tokens, out]`.
        states: what `linear_with_low_rank` gave.
        learns: whether x, whether A, and whether B.

    Returns:
        None: it cannot.
    """
    if not _suits(x) or above.is_neg():
        return None
    d_down = x.new_empty(len(down), *down[0].shape) if learns[1] else None
    d_up = x.new_empty(len(up), *up[0].shape) if learns[2] else None
    places = [0 if tensor is None else tensor.data_ptr() for tensor in (d_down, d_up)]

    def run(with_base: bool, *more: torch.Tensor) -> bool:
        told = _products((x, above, states, *down, *up, *more), route, len(down), scale)
        return bool(_low_rank.backward(torch.get_num_threads(), with_base, *places, told))

    base = _base(weight, None) if learns[0] else None
    if base and _takes_wide(len(x), len(weight), x.shape[-1], len(down) * len(down[0])):
        d_x = torch.empty_like(x)
        if run(True, d_x, *base):
            return d_x, d_down, d_up
    if not learns[0]:
        return (None, d_down, d_up) if run(False) else None
    d_x = above @ weight
    return (d_x, d_down, d_up) if run(False, d_x) else None


def _suits(x: torch.Tensor) -> bool:
    """Whether the compiled products may be taken; whether they can is seen when they are to be.

    Of tensors of 32 bits in a processor's memory, without gaps; not where something else follows the steps of torch:
    tracing, compiling, `torch.func`, forward derivatives, modes.
    """
    return (
        _instructions is not None
        and x.is_cpu
        and x.dtype == torch.float32
        and x.is_contiguous()
        and x.numel() > 0
        and not x.is_neg()  # another sign than in its memory
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
    )


def _forward(
    y: torch.Tensor,
    x: torch.Tensor,
    route: Route,
    down: Weights,
    up: Weights,
    scale: Scale,
    begin: tuple[torch.Tensor, ...] = (),
    weight: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The states; adds `s B(t) A(t) x` to `y`, or to the vector `begin`, which `y` then begins with. None: it cannot.

    With a `weight`: `W x` is added to that, and to nothing without `begin`.
    """
    states = x.new_empty(x.numel() // x.shape[-1], len(down[0]))
    more = begin if weight is None else (*begin, weight)
    told = _products((x, y, states, *down, *up, *more), route, len(down), scale)
    return states if _low_rank.forward(torch.get_num_threads(), weight is not None, told) else None


def _products(tensors: tuple[torch.Tensor, ...], route: Route, number: int, scale: Scale) -> tuple[Any, ...]:
    """What both directions are told: x, the output or its gradient, the states, A of each task, B of each."""
    x, y, states = tensors[:3]
    sizes = (len(states), x.shape[-1], y.shape[-1], states.shape[1])
    scales = tuple(scale.flatten().tolist()) if isinstance(scale, torch.Tensor) else (scale,) * number
    return tensors, _PLAIN, torch.float32, sizes, scales, *route.runs
