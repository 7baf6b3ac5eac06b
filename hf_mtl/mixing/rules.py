"""Mixing rules: sizes and where the training stands in, one probability per task out."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .adaptive import adaptive_weights
from .expressions import evaluate
from .state import MixingState

if TYPE_CHECKING:
    from .mixture import Mixture

__all__ = ["MIXING_RULES", "MixingRule", "capped_sizes", "mixing_probabilities"]

MixingRule = Callable[[Mapping[str, int], MixingState], Mapping[str, float]]
"""A user's own rule: `(sizes, state) -> {task: weight}`. It must be a pure function."""


def _proportional(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    return {task: float(size) for task, size in sizes.items()}


def _uniform(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    return dict.fromkeys(sizes, 1.0)


def _temperature(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    return {task: size ** (1.0 / mixture.temperature) for task, size in sizes.items()}


def _annealed(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    return {task: size ** (1 - 0.8 * state.progress) for task, size in sizes.items()}


def _unimax(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    left = (state.epochs or 1.0) * sum(sizes.values())  # rows of the whole training
    shares: dict[str, float] = {}
    smallest_first = sorted(sizes.items(), key=lambda item: (item[1], item[0]))
    for number, (task, size) in enumerate(smallest_first):
        shares[task] = min(left / (len(sizes) - number), size * mixture.max_repeats)
        left -= shares[task]
    return shares


def _weights(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    values, name = {"progress": state.progress, "step": state.step, "epoch": state.epoch}, mixture.name_of("weights")
    return {
        task: evaluate(weight, values | {"size": float(sizes[task])}, f"{name}[{task!r}]")
        if isinstance(weight, str)
        else float(weight)
        for task, weight in (mixture.weights or {}).items()
    }


def _adaptive(sizes: Mapping[str, int], state: MixingState, mixture: "Mixture") -> dict[str, float]:
    return adaptive_weights(_normalised(_temperature(sizes, state, mixture), sizes), state, mixture.references)


MIXING_RULES: dict[str, Callable[[Mapping[str, int], MixingState, "Mixture"], dict[str, float]]] = {
    "adaptive": _adaptive,
    "annealed": _annealed,
    "proportional": _proportional,
    "round_robin": _uniform,  # how they take turns is the plan's
    "temperature": _temperature,
    "uniform": _uniform,
    "unimax": _unimax,
    "weights": _weights,
}
"""Strategy name -> `(sizes after the cap, state, mixture) -> {task: weight}`."""


def mixing_probabilities(
    mixture: "Mixture", sizes: Mapping[str, int], state: MixingState | None = None
) -> dict[str, float]:
    """The share of the rows that each task gets.

    `temperature` is p ~ min(n, cap) ** (1 / T), the mixing of T5 (arXiv:1910.10683, section 3.5.2), whose best T
    was 2: hence the default. T = 1 is `proportional`, a large T comes near `uniform`. `annealed` is p ~ n ** (1 -
    0.8 progress) (PALs: Stickland and Murray 2019, arXiv:1902.02671, section 4.1). `unimax` is even, but no task is
    gone through more than `max_repeats` times (Chung et al. 2023, arXiv:2304.09151, algorithm 1); in a training of
    more such passes over everything it is `proportional`.

    Args:
        mixture: the rule and its options.
        sizes: task -> rows.
        state: where the training stands; None: at its start, of unknown length.

    Returns:
        task -> probability, in the order of `sizes`; they sum to 1.

    Raises:
        ValueError: for bad sizes, or a rule whose weights cannot be used.
    """
    capped = capped_sizes(sizes, mixture.cap)
    mixture.check_tasks(sizes)
    state = MixingState() if state is None else state
    rule = mixture.strategy
    weights = MIXING_RULES[rule](capped, state, mixture) if isinstance(rule, str) else rule(capped, state)
    return _normalised(weights, capped)


def capped_sizes(sizes: Mapping[str, int], cap: int | None) -> dict[str, int]:
    """Task -> min(rows, cap). Raises ValueError where there is nothing to draw from."""
    if not sizes:
        raise ValueError("sizes={} names no task: give at least one task with its number of training rows.")
    for task, size in sizes.items():
        if size < 1:
            raise ValueError(f"sizes[{task!r}]={size}: give the task training rows, or leave the task out.")
    return {task: size if cap is None else min(size, cap) for task, size in sizes.items()}


def _normalised(weights: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    if missing := [task for task in sizes if task not in weights]:
        raise ValueError(f"The mixing rule gives no weight for {missing}: return one for each task, 0 to drop it.")
    if unknown := [task for task in weights if task not in sizes]:
        raise ValueError(f"The mixing rule gives a weight to {unknown}, which are not tasks. Known: {list(sizes)}.")
    for task, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"The mixing rule gives {task!r} the weight {weight}: give a finite one of at least 0.")
    total = math.fsum(weights.values())
    if total == 0:
        raise ValueError(f"The mixing rule gives all of {list(sizes)} the weight 0: at least one must be above 0.")
    return {task: weights[task] / total for task in sizes}
