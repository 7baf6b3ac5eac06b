"""The training arguments about aids to the loss: teachers, and two passes that must agree."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AidArguments"]

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")


@dataclass
class AidArguments:
    """The part of `MultiTaskTrainingArguments` that is about aids to the loss. See docs/training.md."""

    teachers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Task -> Hub id or folder of a trained MultiTaskModel whose answers it learns from beside its "
            "labels."
        },
    )
    teacher_weight: float | None = field(
        default=None,
        metadata={
            "help": "The share of a target that is the teacher's, from 0 to 1. By default it falls evenly from 1 at "
            "the begin of the training to 0 at its end (BAM's annealing)."
        },
    )
    teacher_temperature: float = field(
        default=1.0, metadata={"help": "By what a teacher's and its student's logits are divided to be compared."}
    )
    r_drop: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Each training row is read twice, under two dropouts, and how far the two are apart counts so much "
            "in the loss (R-Drop): a number, or task -> number."
        },
    )

    def paths_of_teachers(self) -> dict[str, Any]:
        """`teachers` as a dict."""
        if isinstance(self.teachers, str):
            raise ValueError(f'teachers={self.teachers!r} must be a dict, or JSON: \'{{"intent": "folder"}}\'.')
        return dict(self.teachers or {})

    def r_drop_of(self, tasks: Sequence[str]) -> dict[str, float]:
        """`r_drop` of each of these tasks, where one number stands for all of them; those of 0 left out."""
        value: Any = self.r_drop
        if value is None:
            return {}
        given = dict(value) if isinstance(value, Mapping) else dict.fromkeys(tasks, value)
        return {name: float(alpha) for name, alpha in given.items() if float(alpha)}

    def _check_aids(self) -> None:
        self.paths_of_teachers()
        value: Any = self.r_drop
        if isinstance(value, str) and _NUMBER.fullmatch(value):  # as a command line has it
            value = self.r_drop = float(value)  # type: ignore[assignment]
        for name, alpha in value.items() if isinstance(value, Mapping) else [] if value is None else [("", value)]:
            number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
            if not number or not 0 <= alpha < math.inf:
                where = f"r_drop[{name!r}]" if name else "r_drop"
                raise ValueError(
                    f"{where}={alpha!r} must be a number of 0 or more, or a dict task -> number; on a command line "
                    "JSON: '{\"intent\": 1.0}'."
                )
        if self.teacher_weight is not None and not 0 <= self.teacher_weight <= 1:
            raise ValueError(
                f"teacher_weight={self.teacher_weight!r} must be from 0 to 1, or None: falling from 1 to 0."
            )
        if not 0 < self.teacher_temperature < math.inf:
            raise ValueError(f"teacher_temperature={self.teacher_temperature!r} must be a number above 0.")
