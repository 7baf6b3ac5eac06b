"""Mixing rules: sizes and progress in, one probability per task out."""

import math
from collections.abc import Callable, Mapping

from ..nearest import nearest

MixingRule = Callable[[Mapping[str, int], float], Mapping[str, float]]
"""A user's own rule: `(sizes, progress) -> {task: weight}`. It must be a pure function."""


def _proportional(sizes: Mapping[str, int], progress: float, temperature: float) -> dict[str, float]:
    return {task: float(size) for task, size in sizes.items()}


def _uniform(sizes: Mapping[str, int], progress: float, temperature: float) -> dict[str, float]:
    return dict.fromkeys(sizes, 1.0)


def _temperature(sizes: Mapping[str, int], progress: float, temperature: float) -> dict[str, float]:
    return {task: size ** (1.0 / temperature) for task, size in sizes.items()}


MIXING_RULES: dict[str, Callable[[Mapping[str, int], float, float], dict[str, float]]] = {
    "proportional": _proportional,
    "temperature": _temperature,
    "uniform": _uniform,
}
"""Strategy name -> `(sizes after the cap, progress in [0, 1], temperature) -> {task: weight}`."""


def mixing_probabilities(
    strategy: str | MixingRule,
    sizes: Mapping[str, int],
    *,
    temperature: float = 2.0,
    cap: int | None = None,
    progress: float = 0.0,
) -> dict[str, float]:
    """The share of the batches that each task gets.

    `temperature` is p ~ min(n, cap) ** (1 / T), the mixing of T5 (arXiv:1910.10683, section 3.5.2), whose
    best T was 2: hence the default. T = 1 is `proportional`, a large T comes near `uniform`.

    Args:
        strategy: a key of `MIXING_RULES`, or a function `(sizes, progress) -> {task: weight}`.
        sizes: task -> rows.
        temperature: T >= 1; only the strategy `temperature` looks at it.
        cap: sizes are cut to this many rows before the rule sees them; None cuts nothing.
        progress: how much of the training is done, in [0, 1].

    Returns:
        task -> probability, in the order of `sizes`; they sum to 1.

    Raises:
        ValueError: for an unknown strategy, bad sizes or options, or a rule whose weights cannot be used.
    """
    if not temperature >= 1:
        raise ValueError(f"temperature={temperature} must be at least 1: 1 is proportional, 2 a good start.")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} must lie in [0, 1]: it is the part of the training that is done.")
    capped = capped_sizes(sizes, cap)
    weights: Mapping[str, float]
    if not isinstance(strategy, str):
        weights = strategy(capped, progress)
    elif strategy in MIXING_RULES:
        weights = MIXING_RULES[strategy](capped, progress, temperature)
    else:
        raise ValueError(
            f"Unknown mixing strategy {strategy!r}. {nearest(strategy, sorted(MIXING_RULES))} "
            "A function of sizes and progress will do too."
        )
    return _normalised(weights, capped)


def capped_sizes(sizes: Mapping[str, int], cap: int | None) -> dict[str, int]:
    """Task -> min(rows, cap). Raises ValueError where there is nothing to draw from."""
    if not sizes:
        raise ValueError("sizes={} names no task: give at least one task with its number of training rows.")
    if cap is not None and cap < 1:
        raise ValueError(f"cap={cap} must be at least 1 row, or None for no cap.")
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
