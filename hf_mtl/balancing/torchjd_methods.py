"""Gradient methods whose weightings are torchjd's own: one function a method, its keywords are the options."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .gradient_balancing import GramianBalancing

__all__ = [
    "aggregation",
    "aligned_mtl",
    "cagrad",
    "config",
    "dualproj",
    "fairgrad",
    "imtl_g",
    "mgda",
    "pcgrad",
    "upgrad",
]


def aggregation() -> Any:
    """`torchjd.aggregation`, which is slow to import and needed by those alone who ask for it.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec("torchjd") is None:
        raise ImportError(
            "Gradient methods need torchjd: pip install 'hf_mtl[balancing]', from a clone pip install '.[balancing]'."
        )
    import torchjd.aggregation

    return torchjd.aggregation


def pcgrad(tasks: Sequence[str], seed: int = 0, *, normalize: bool = True) -> GramianBalancing:
    """Each row loses what of it goes against another one (Yu et al. 2020, 2001.06782)."""
    return GramianBalancing(tasks, seed, weighting=aggregation().PCGradWeighting(), normalize=normalize)


def cagrad(tasks: Sequence[str], seed: int = 0, *, c: float = 0.5, normalize: bool = True) -> GramianBalancing:
    """The best worst task within c times the mean's length around the mean (Liu et al. 2021, 2110.14048)."""
    return GramianBalancing(tasks, seed, weighting=aggregation().CAGradWeighting(c=c), normalize=normalize)


def mgda(
    tasks: Sequence[str], seed: int = 0, *, epsilon: float = 1e-3, max_iters: int = 100, normalize: bool = True
) -> GramianBalancing:
    """The shortest vector in the rows' convex hull (Sener and Koltun 2018, 1810.04650)."""
    weighting = aggregation().MGDAWeighting(epsilon=epsilon, max_iters=max_iters)
    return GramianBalancing(tasks, seed, weighting=weighting, undoes_lengths=True, normalize=normalize)


def aligned_mtl(
    tasks: Sequence[str], seed: int = 0, *, scale_mode: str = "min", normalize: bool = True
) -> GramianBalancing:
    """Rows made orthogonal and of equal length (Senushkin et al. 2023, 2305.19000)."""
    if scale_mode not in ("min", "median", "rmse"):
        raise ValueError(f"scale_mode={scale_mode!r} must be 'min', 'median' or 'rmse'.")
    weighting = aggregation().AlignedMTLWeighting(scale_mode=scale_mode)
    return GramianBalancing(tasks, seed, weighting=weighting, undoes_lengths=True, normalize=normalize)


def imtl_g(tasks: Sequence[str], seed: int = 0, *, normalize: bool = True) -> GramianBalancing:
    """Equal projections on all rows (IMTL-G, Liu et al. 2021)."""
    return GramianBalancing(
        tasks, seed, weighting=aggregation().IMTLGWeighting(), undoes_lengths=True, normalize=normalize
    )


def upgrad(tasks: Sequence[str], seed: int = 0, *, normalize: bool = True) -> GramianBalancing:
    """Each row projected onto what goes against none (Quinton and Rey 2024, 2406.16232)."""
    return GramianBalancing(tasks, seed, weighting=aggregation().UPGradWeighting(), normalize=normalize)


def dualproj(tasks: Sequence[str], seed: int = 0, *, normalize: bool = True) -> GramianBalancing:
    """The mean projected onto what goes against none (GEM, Lopez-Paz and Ranzato 2017, 1706.08840)."""
    return GramianBalancing(tasks, seed, weighting=aggregation().DualProjWeighting(), normalize=normalize)


def fairgrad(tasks: Sequence[str], seed: int = 0, *, alpha: float = 2.0, normalize: bool = True) -> GramianBalancing:
    """The alpha-fair step (Ban and Ji 2024, 2402.15638, whose best alpha was 1 or 2)."""
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be above 0.")
    return GramianBalancing(
        tasks, seed, weighting=aggregation().FairGradWeighting(alpha=alpha), undoes_lengths=True, normalize=normalize
    )


def config(tasks: Sequence[str], seed: int = 0, *, normalize: bool = True) -> GramianBalancing:
    """The direction of equal cosines with all rows (ConFIG, Liu et al. 2024, 2408.11104)."""
    aggregator = aggregation().ConFIG()

    def weighting(gramian: Tensor) -> Tensor:
        # torchjd has it for rows alone. It hangs on their inner products only, so any rows of this Gramian will do.
        values, vectors = torch.linalg.eigh(gramian.double())
        rows = vectors * values.clamp(min=0).sqrt()
        found: Tensor = aggregator(rows) @ torch.linalg.pinv(rows)
        return found

    return GramianBalancing(tasks, seed, weighting=weighting, undoes_lengths=True, normalize=normalize)
