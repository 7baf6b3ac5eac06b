"""The methods by name, and one made from its name and options."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..nearest import nearest
from .base import Balancing
from .descent_rates import DWA
from .elementwise import GradDrop
from .famo import FAMO
from .fixed_weights import LogLabels
from .geometric_mean import GLS
from .grad_norm import GradNorm
from .gradvac import GradVac
from .learned_scales import IMTLL, Uncertainty
from .nash_mtl import NashMTL
from .random_weights import RLW
from .smoothed_weights import CRMOGM
from .torchjd_methods import aligned_mtl, cagrad, config, dualproj, fairgrad, imtl_g, mgda, pcgrad, upgrad

__all__ = [
    "BALANCING_METHODS",
    "GRADIENT_METHODS",
    "LOSS_METHODS",
    "balancing_options",
    "check_balancing",
    "make_balancing",
]

LOSS_METHODS: dict[str, Callable[..., Balancing]] = {
    "dwa": DWA,
    "famo": FAMO,
    "gls": GLS,
    "imtl-l": IMTLL,
    "log-labels": LogLabels,
    "rlw": RLW,
    "uncertainty": Uncertainty,
}
"""Name -> method; its keyword-only parameters are its options."""

GRADIENT_METHODS: dict[str, Callable[..., Balancing]] = {
    "aligned-mtl": aligned_mtl,
    "cagrad": cagrad,
    "config": config,
    "cr-mogm": CRMOGM,
    "dualproj": dualproj,
    "fairgrad": fairgrad,
    "graddrop": GradDrop,
    "gradnorm": GradNorm,
    "gradvac": GradVac,
    "imtl-g": imtl_g,
    "mgda": mgda,
    "nash-mtl": NashMTL,
    "pcgrad": pcgrad,
    "upgrad": upgrad,
}

BALANCING_METHODS = ("static", *LOSS_METHODS, *GRADIENT_METHODS)

# What the caller of a method's function gives, and no user.
_NO_OPTIONS = {"labels", "weighting"}


def check_balancing(method: str, options: Mapping[str, Any] | None = None, field: str = "balancing") -> None:
    """Refuses an unknown method or option, without torchjd.

    Args:
        method: a name of `BALANCING_METHODS`.
        options: its options by name.
        field: what the method is called where it was given; its options are `<field>_options`.

    Raises:
        ValueError: an unknown name; says the nearest known. Or an option of another type.
    """
    if method not in BALANCING_METHODS:
        raise ValueError(f"Unknown {field} {method!r}. {nearest(str(method), BALANCING_METHODS)}")
    known = balancing_options(method)
    for name, value in (options or {}).items():
        if name not in known:
            raise ValueError(f"{field} {method!r} has no option {name!r}. {nearest(str(name), known)}")
        kinds = (int, float) if known[name] is float else (known[name],)
        if type(value) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{field} {method!r}: option {name} must be {wanted}, got {value!r}.")


def make_balancing(
    method: str,
    tasks: Sequence[str],
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    labels: Mapping[str, int] | None = None,
) -> Balancing | None:
    """A method ready for its first step; None for `static`, for which there is nothing to do.

    Args:
        method: a name of `BALANCING_METHODS`.
        tasks: all task names.
        options: the method's options by name.
        seed: of methods that draw.
        labels: task -> number of labels, for `log-labels`.

    Raises:
        ValueError: an unknown name, or an option out of range.
        ImportError: a gradient method without torchjd, or without the solver that it needs.
    """
    check_balancing(method, options)
    if method == "static":
        return None
    extra: dict[str, Any] = {"labels": labels} if method == "log-labels" else {}
    make = (LOSS_METHODS | GRADIENT_METHODS)[method]
    return make(tasks, seed, **extra, **(options or {}))


def balancing_options(method: str) -> dict[str, type]:
    """The options of a method: name -> `float`, `int`, `bool` or `str`."""
    if method == "static":
        return {}
    parameters = inspect.signature((LOSS_METHODS | GRADIENT_METHODS)[method]).parameters.values()
    return {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _NO_OPTIONS}
