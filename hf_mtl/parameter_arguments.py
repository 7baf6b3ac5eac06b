"""The training arguments about parameters: their rates, when they learn, when tasks stop, and their average."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.training_args import OptimizerNames

__all__ = ["ParameterArguments"]

# These take their steps during the backward pass, or at one rate for all: there are no groups to give rates to.
_WITHOUT_GROUPS = {
    OptimizerNames.LOMO, OptimizerNames.ADALOMO, OptimizerNames.GALORE_ADAMW_LAYERWISE,
    OptimizerNames.GALORE_ADAMW_8BIT_LAYERWISE, OptimizerNames.GALORE_ADAFACTOR_LAYERWISE,
    OptimizerNames.APOLLO_ADAMW_LAYERWISE,
}  # fmt: skip
_AVERAGING = {
    OptimizerNames.SCHEDULE_FREE_ADAMW, OptimizerNames.SCHEDULE_FREE_RADAM, OptimizerNames.SCHEDULE_FREE_SGD,
}  # fmt: skip


@dataclass
class ParameterArguments:
    """The part of `MultiTaskTrainingArguments` that is about parameters. See docs/training.md."""

    task_patience: int | None = field(
        default=None,
        metadata={
            "help": "A task whose main metric was no better for so many evaluations leaves the mixture; its head and "
            "adapter learn no more. When all have left, the training ends."
        },
    )
    load_best_tasks_at_end: bool = field(
        default=False,
        metadata={
            "help": "Each task ends with the head and adapter of its best evaluation. Only where tasks train nothing "
            "together: with adapters, or all layers frozen."
        },
    )
    learning_rates: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Learning rates in place of learning_rate: of backbone, heads, adapters, embeddings, layers.<i>, "
            "<task>.head, <task>.adapter; on a command line as JSON."
        },
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Each layer's learning rate is so many times that of the layer above it; the embeddings have the "
            "lowest. Adapters by the layer they are in."
        },
    )
    unfreezing: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "From which time on how many of the top layers learn: epochs ('1.5') or parts of the training "
            "('25%%') -> layers. Before the first one only heads do. Without adapters only."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Keeps an exponential moving average of what is trained, by min(ema_decay, (1 + t) / (10 + t)); it "
            "is what is evaluated and saved."
        },
    )

    def unfreezing_points(self) -> list[tuple[str, int]]:
        """`unfreezing`: time -> layers, as it is given."""
        return [(str(time), layers) for time, layers in (self.unfreezing or {}).items()]  # type: ignore[union-attr]

    def _check_parameters(self) -> None:
        args: Any = self
        self._check_stopping(args)
        self._check_rates(args)
        self._check_unfreezing(args)
        decay = self.ema_decay
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"ema_decay={decay!r} must lie between 0 and 1, as 0.999; None averages nothing.")
        if decay is not None and args.optim in _AVERAGING:
            raise ValueError(
                f"ema_decay={decay!r} would average what optim={args.optim.value!r} averages itself: leave one out."
            )

    def _check_stopping(self, args: Any) -> None:
        if self.task_patience is not None and self.task_patience < 1:
            raise ValueError(f"task_patience={self.task_patience} must be 1 evaluation or more; None: no task leaves.")
        for name in ("task_patience", "load_best_tasks_at_end"):
            if getattr(self, name) and args.eval_strategy == "no":
                raise ValueError(f"{name} goes by evaluations: set eval_strategy to 'epoch' or 'steps'.")
        if self.load_best_tasks_at_end and args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end takes all weights of one checkpoint, load_best_tasks_at_end each task's of its "
                "own best evaluation: set one of them to False."
            )
        if (self.task_patience is not None or self.load_best_tasks_at_end) and args.optim in _AVERAGING:
            raise ValueError(
                f"task_patience and load_best_tasks_at_end keep the weights that were scored, and optim="
                f"{args.optim.value!r} trains others than it scores: take another optimizer, ema_decay for an average."
            )
        if self.task_patience is not None and args.optim in _WITHOUT_GROUPS:
            raise ValueError(
                f"task_patience needs gradients that stay until the optimizer's step, and optim={args.optim.value!r} "
                "takes it during the backward pass: take another optimizer."
            )

    def _check_rates(self, args: Any) -> None:
        rates = self.learning_rates
        if rates is not None and not isinstance(rates, Mapping):
            raise ValueError(f"learning_rates={rates!r} must be a dict, or JSON: '{{\"heads\": 1e-3}}'.")
        for name, rate in (rates or {}).items():
            if isinstance(rate, bool) or not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
                raise ValueError(f"learning_rates[{name!r}]={rate!r} must be a number above 0.")
        decay = self.layer_decay
        if decay is not None and not 0 < decay <= 1:
            raise ValueError(f"layer_decay={decay!r} must lie in (0, 1], as 0.9; None: all layers have one rate.")
        if (rates or decay is not None) and args.optim in _WITHOUT_GROUPS:
            raise ValueError(
                f"learning_rates and layer_decay need an optimizer with groups of parameters, and "
                f"optim={args.optim.value!r} has one rate for all: take another one, as 'adamw_torch'."
            )

    def _check_unfreezing(self, args: Any) -> None:
        given = self.unfreezing
        if given is None:
            return
        if not isinstance(given, Mapping) or not given:
            raise ValueError(f'unfreezing={given!r} must be a dict, or JSON: \'{{"1": 2, "50%": 12}}\'.')
        if args.freeze_layers is not None:
            raise ValueError(f"unfreezing says which layers learn when; freeze_layers={args.freeze_layers} too: "
                             "leave one out.")  # fmt: skip
        for time, layers in given.items():
            number = _number(str(time).removesuffix("%"))
            if number is None or number < 0 or (str(time).endswith("%") and number > 100):
                raise ValueError(
                    f"unfreezing has the time {time!r}: give epochs, as '1.5', or a part of the training, as '25%'."
                )
            if isinstance(layers, bool) or not isinstance(layers, int) or layers < 0:
                raise ValueError(f"unfreezing[{time!r}]={layers!r} must be a number of layers, 0 or more.")
        if len({str(time).endswith("%") for time in given}) > 1:
            raise ValueError(f"unfreezing has epochs and parts of the training: {list(given)}. Give one kind of them.")


def _number(text: str) -> float | None:
    digits = text.replace(".", "", 1)
    return float(text) if digits.isascii() and digits.isdigit() else None
