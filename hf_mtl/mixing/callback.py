"""What the sampler has to hear of while the Trainer trains."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from .planned import PlannedBatchSampler
from .report import describe_epoch
from .state import Evaluation

__all__ = ["MixtureCallback", "record_in_mixture"]

logger = logging.getLogger(__name__)

# Where `TrainerState` keeps the evaluations: it is written with every checkpoint.
_HISTORY = "MixingHistory"


def record_in_mixture(
    sampler: PlannedBatchSampler, state: Any, scores: Mapping[str, float], left: Sequence[str] = ()
) -> None:
    """Tells the sampler what an evaluation found, and keeps it in the trainer's state.

    Args:
        sampler: the sampler in use.
        state: the trainer's state.
        scores: unit of the mixture -> its score.
        left: units that leave the mixture.
    """
    evaluation = sampler.record(scores, left)
    entry = {"step": evaluation.step, "scores": dict(scores)} | ({"left": list(left)} if left else {})
    state.stateful_callbacks[_HISTORY] = [*state.stateful_callbacks.get(_HISTORY, []), entry]


class MixtureCallback(TrainerCallback):
    """Tells the sampler its epoch and what evaluations find; logs what an epoch is, and at its end what was seen.

    The epoch: when a run resumes inside one, accelerate's skipping loader hides it. The evaluations: those during
    training, where the rule learns from them; they are kept in the trainer's state, so in its checkpoints. What was
    seen: `rows_<task>`, rows since the start of the training with repeats, and `passes_<task>`, how often that is all.

    Args:
        sampler: gives the sampler that is in use.
        metrics: unit of the mixture -> the main metrics of its tasks, as they are named in `evaluate`'s answer.
        log: where the numbers of an epoch go.
    """

    def __init__(
        self,
        sampler: Callable[[], PlannedBatchSampler],
        metrics: Callable[[], Mapping[str, list[str]]],
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self._sampler = sampler
        self._metrics = metrics
        self._log = log
        self._training = False
        self._begun = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training, self._begun = True, state.global_step
        sampler = self._sampler()
        sampler.restore([Evaluation(**entry) for entry in state.stateful_callbacks.get(_HISTORY, [])])
        if state.is_world_process_zero:
            logger.info("%s", describe_epoch(sampler))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._sampler().set_epoch(int(state.epoch or 0))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sampler = self._sampler()
        seen = sampler.rows_seen(state.global_step)
        rows: dict[str, float] = {f"rows_{task}": number for task, number in seen.items()}
        passes = {f"passes_{task}": round(number / sampler.sizes[task], 4) for task, number in seen.items()}
        due = control.should_log  # which a log takes back, and losses are still to be logged
        self._log(rows | passes)
        control.should_log = due

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        sampler = self._sampler() if self._training else None
        if sampler is None or not sampler.plan.mixture.learns:
            return
        if state.global_step == self._begun > 0:
            return  # eval_on_start of a resumed run: the unbroken one has not evaluated here, or it is in the history
        scores: dict[str, float] = {}
        for unit, names in self._metrics().items():
            found = [metrics[name] for name in names if math.isfinite((metrics or {}).get(name, math.nan))]
            if found:
                scores[unit] = sum(found) / len(found)
        # The processes must plan the same, so they take the scores of one.
        (scores,) = broadcast_object_list([scores])
        if scores:
            record_in_mixture(sampler, state, scores)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = False
