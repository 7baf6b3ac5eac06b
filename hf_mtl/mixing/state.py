"""Where a training stands, as a mixing rule sees it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Evaluation", "MixingState"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation found.

    Args:
        step: the first optimizer step whose draws may know of it.
        scores: task -> its main metric, larger being better; a task may be missing.
        left: tasks that leave the mixture by what it found.
    """

    step: int
    scores: Mapping[str, float]
    left: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class MixingState:
    """What a rule may look at beside the sizes.

    Args:
        progress: the part of the training that is done, in [0, 1]; 0 where nobody knows its length.
        step: optimizer steps that are done, with fractions between two of them.
        epoch: epochs that are done, with fractions.
        epochs: length of the training; None where nobody knows it.
        history: the evaluations so far, the oldest first.
    """

    progress: float = 0.0
    step: float = 0.0
    epoch: float = 0.0
    epochs: float | None = None
    history: tuple[Evaluation, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.progress <= 1:
            raise ValueError(
                f"progress={self.progress} must lie in [0, 1]: it is the part of the training that is done."
            )
        if self.epochs is not None and not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise ValueError(
                f"epochs={self.epochs} must be above 0, or None where nobody knows how long the training is."
            )

    def scores(self, task: str) -> list[float]:
        """The task's scores so far, the oldest first."""
        return [evaluation.scores[task] for evaluation in self.history if task in evaluation.scores]
