"""The fields by which a task's loss is smoothed, and by which some of its labels count more than others."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import Self

from ..nearest import nearest
from .base import Task
from .label_losses import BinaryLoss, LabelLoss, Loss, balanced_weights, positive_weights
from .labels import declared_names, label_names

__all__ = ["BALANCED", "SmoothedLabels", "WeightedLabels"]

BALANCED = "balanced"


@dataclass(frozen=True, kw_only=True)
class SmoothedLabels(Task):
    """A task whose loss is over labels.

    Args:
        label_smoothing: what share of the target is spread evenly over all labels; 0: none.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("label_smoothing", lambda v: 0 <= v < 1, "a number from 0 up to 1")

    def label_loss(self, plain: Loss) -> Loss:
        """The loss of a head over the task's labels; `plain` where the fields say nothing else."""
        return LabelLoss(smoothing=self.label_smoothing) if self.label_smoothing else plain


@dataclass(frozen=True, kw_only=True)
class WeightedLabels(SmoothedLabels):
    """A task whose loss is over labels with names.

    Args:
        labels: the label names.
        class_weights: label -> what it counts in the loss, 1 where it is left out; or `balanced`: each label by the
            inverse of how often it occurs, which `from_dataset` finds in the training data and puts in its place.
    """

    labels: tuple[str, ...] | None = None
    class_weights: dict[str, float] | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.class_weights
        if weights is None or weights == BALANCED:
            return
        wanted = f"a dict label -> weight, or {BALANCED!r}"
        self._check("class_weights", weights, isinstance(weights, Mapping) and len(weights) > 0, wanted)
        object.__setattr__(self, "class_weights", self._checked_weights(dict(weights)))  # type: ignore[arg-type]

    def _checked_weights(self, given: dict[Any, Any]) -> dict[str, float]:
        checked = {}
        for label, weight in given.items():
            if isinstance(label, bool) or not isinstance(label, str | int):
                raise ValueError(
                    f"Task {self.name!r}: class_weights must name labels, got {label!r}. (YAML reads no and yes as no "
                    "strings: write them in quotes.)"
                )
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0:
                raise ValueError(
                    f"Task {self.name!r}: class_weights[{label!r}] must be a finite number of 0 or more, got "
                    f"{weight!r}."
                )
            if self.labels is not None and str(label) not in self.labels:
                raise ValueError(
                    f"Task {self.name!r}: class_weights has {label!r}, which is none of its labels. "
                    f"{nearest(str(label), self.labels)}"
                )
            checked[str(label)] = float(weight)  # JSON's keys are strings
        if self.labels is not None and not any(checked.get(name, 1.0) for name in self.labels):
            raise ValueError(
                f"Task {self.name!r}: class_weights={checked!r:.80} is 0 for every label: nothing would be learned."
            )
        return checked

    @property
    def label_weights(self) -> tuple[float, ...] | None:
        return self.weights_in_order()

    def weights_in_order(self) -> tuple[float, ...] | None:
        """`class_weights` in the order of the labels; None: each counts the same."""
        weights = self.class_weights
        if weights is None:
            return None
        if isinstance(weights, str):
            raise ValueError(
                f"Task {self.name!r}: class_weights={weights!r} needs the training data. Make the task by "
                f"{type(self).__name__}.from_dataset(...), or give a dict label -> weight."
            )
        return tuple(weights.get(name, 1.0) for name in self.known("labels", self.labels))

    def label_loss(self, plain: Loss) -> Loss:
        weights = self.weights_in_order()
        if weights is None and not self.label_smoothing:
            return plain
        return LabelLoss(weights=weights, smoothing=self.label_smoothing)

    def binary_loss(self, plain: Loss) -> Loss:
        """The loss where each label holds or not by itself; `plain` where the fields say nothing else."""
        weights = self.weights_in_order()
        if weights is None and not self.label_smoothing:
            return plain
        return BinaryLoss(weights=weights, smoothing=self.label_smoothing)

    def starting(self, biases: Sequence[float]) -> Sequence[float]:
        """Where the head's biases begin: as given, but all alike where weights make labels count as if they occurred
        another number of times."""
        return biases if self.class_weights is None else [0.0] * len(biases)

    def balanced(self, dataset: Any, column: str, *, each_by_itself: bool = False) -> Self:
        """This task with the weights of `balanced` as numbers; as it is where it asks for none.

        Args:
            dataset: the training data.
            column: of the labels: one a row, or a list of them.
            each_by_itself: a row may have any number of labels; a label's rows are balanced against all others.
        """
        if self.class_weights != BALANCED:
            return self
        labels, names = self.known("labels", self.labels), declared_names(dataset, column)
        values: Counter[Any] = Counter()
        for value in dataset[column]:
            several = isinstance(value, list)
            values.update((set(value) if each_by_itself else value) if several else [value])
        counts = self._named(values, names)
        if each_by_itself:
            return replace(self, class_weights=positive_weights(counts, labels, len(dataset)))
        return replace(self, class_weights=balanced_weights(counts, labels))

    def _named(self, values: Mapping[Any, int], declared: Sequence[str] | None) -> Counter[str]:
        """Counts by label names; in the data a label may be its index: a `ClassLabel`'s, or the task's own."""
        known = [declared[v] if declared and isinstance(v, int) and v >= 0 else v for v in values]
        found: Counter[str] = Counter()
        for name, count in zip(label_names(known, self.labels), values.values(), strict=True):
            found[name] += count  # a name and its index are the same label
        return found
