"""How tasks are mixed: the rule and its options, checked."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..nearest import nearest
from .expressions import parse
from .rules import MIXING_RULES, MixingRule

__all__ = ["Mixture"]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How tasks are mixed.

    Args:
        strategy: a key of `MIXING_RULES`, or a function `(sizes, state) -> {task: weight}`.
        temperature: T >= 1 of `temperature`, and of the shares that `adaptive` starts from.
        cap: sizes are cut to this many rows before the rule sees them; None cuts nothing.
        max_repeats: `unimax`: how often a task's rows may be gone through in the whole training.
        weights: `weights`: task -> a number, or an expression of progress, step, epoch and size.
        references: `adaptive`: task -> main metric of a model that was trained for it alone; None: learning progress.
        called: field of this class -> what messages call it, where users write it under another name.

    Raises:
        ValueError: for an unknown strategy or an option out of range.
    """

    strategy: str | MixingRule = "temperature"
    temperature: float = 2.0
    cap: int | None = None
    max_repeats: float = 10.0
    weights: Mapping[str, float | str] | None = None
    references: Mapping[str, float] | None = None
    called: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.strategy, str) and self.strategy not in MIXING_RULES:
            raise ValueError(
                f"Unknown {self.name_of('strategy')} {self.strategy!r}. "
                f"{nearest(self.strategy, sorted(MIXING_RULES))} "
                "A function of sizes and state will do too."
            )
        if not self.temperature >= 1:
            raise ValueError(
                f"{self.name_of('temperature')}={self.temperature} must be at least 1: 1 is proportional, 2 a good "
                "start."
            )
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"{self.name_of('cap')}={self.cap} must be at least 1 row, or None for no cap.")
        if not self.max_repeats > 0:
            raise ValueError(
                f"{self.name_of('max_repeats')}={self.max_repeats} must be above 0: 10 goes ten times through a task's "
                "rows."
            )
        self._check_weights()
        strategy, references = self.name_of("strategy"), self.name_of("references")
        for task, score in (self.references or {}).items():
            if isinstance(score, bool) or not (isinstance(score, (int, float)) and 0 < score < math.inf):
                raise ValueError(
                    f"{references}[{task!r}]={score!r} must be a score above 0: that of a model for it alone."
                )
        if self.references is not None and self.strategy != "adaptive":
            raise ValueError(
                f"{references}={dict(self.references)!r} and {strategy}={self.strategy!r} do not fit together: only "
                f"{strategy}='adaptive' looks at {references}. Take that one, or leave {references} out."
            )

    def name_of(self, field: str) -> str:
        """What messages call a field: as the user wrote it."""
        return self.called.get(field, field)

    @property
    def changes(self) -> bool:
        """Whether the shares may change in the course of the training."""
        if not isinstance(self.strategy, str) or self.strategy in ("annealed", "adaptive"):
            return True
        return self.strategy == "weights" and any(isinstance(value, str) for value in (self.weights or {}).values())

    @property
    def learns(self) -> bool:
        """Whether the shares may change after an evaluation."""
        return self.strategy == "adaptive" or not isinstance(self.strategy, str)

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Raises ValueError where weights or references are of other tasks than these."""
        tasks = list(tasks)
        for field_name, given in (("weights", self.weights), ("references", self.references)):
            name = self.name_of(field_name)
            for task in given or {}:
                if task not in tasks:
                    raise ValueError(f"{name} has {task!r}, which is not a task. {nearest(str(task), tasks)}")
            if given is not None and (missing := [task for task in tasks if task not in given]):
                raise ValueError(f"{name} has nothing for {missing}: give each task one.")

    def _check_weights(self) -> None:
        strategy, weights = self.name_of("strategy"), self.name_of("weights")
        if (self.strategy == "weights") != (self.weights is not None):
            raise ValueError(
                f"{weights}={self.weights!r} and {strategy}={self.strategy!r} do not fit together: "
                f"{strategy}='weights' needs {weights}, as task -> weight, and no other looks at them."
            )
        for task, weight in (self.weights or {}).items():
            if isinstance(weight, str):
                parse(weight, f"{weights}[{task!r}]")
            elif isinstance(weight, bool) or not (isinstance(weight, (int, float)) and 0 <= weight < math.inf):
                raise ValueError(
                    f"{weights}[{task!r}]={weight!r} must be a number of at least 0, or an expression: '1 - progress'."
                )
