"""A schedule of freezing: which of the backbone's layers learn from when on."""

import logging
import math
from typing import Any

from transformers import Trainer, TrainerCallback

from .mixing import PlannedBatchSampler
from .training_args import MultiTaskTrainingArguments

__all__ = ["UnfreezingMixin"]

logger = logging.getLogger(__name__)


class UnfreezingMixin(Trainer):
    """The part of `MultiTaskTrainer` that freezes and unfreezes layers, with `args.unfreezing`.

    Gradual unfreezing is of Howard and Ruder 2018 (ULMFiT, arXiv:1801.06146, section 3.3), from the top layer down.
    Optimizer and process groups are made while everything learns, so they know all parameters; what is frozen gets no
    gradient, and with none an optimizer neither moves it nor keeps a state of it.
    """

    args: MultiTaskTrainingArguments
    _sampler: PlannedBatchSampler

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.unfreezing is None:
            return
        model: Any = self.model
        if model.config.adapters is not None:
            raise ValueError("unfreezing is of a backbone that is trained; with adapters all of it is frozen.")
        layers = model.config.text_config.num_hidden_layers
        for time, number in self.args.unfreezing_points():
            if number > layers:
                raise ValueError(f"unfreezing[{time!r}]={number}: the backbone has {layers} layers.")
            model.freeze_layers(layers - number)  # says now what cannot be frozen
        model.freeze_layers(0)
        self.add_callback(_Schedule(self))

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.unfreezing is not None:
            several = self.args.world_size > 1
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                raise ValueError("unfreezing does not work with DeepSpeed and FSDP: train without them.")
            if several and not self.args.ddp_find_unused_parameters:
                raise ValueError(
                    "unfreezing leaves parameters without a gradient, for which several processes need "
                    "ddp_find_unused_parameters=True, the default here."
                )
            model: Any = self.model
            model.freeze_layers(0)
        return super()._inner_training_loop(*args, **kwargs)

    def _layers_learning(self, step: int, max_steps: int) -> int:
        """How many of the top layers learn in an optimizer step."""
        learning = 0
        for time, layers in sorted(self.args.unfreezing_points(), key=lambda point: float(point[0].rstrip("%"))):
            if time.endswith("%"):
                begin = float(time.rstrip("%")) / 100 * max_steps
            else:
                begin = float(time) * self._sampler.plan.steps_per_epoch
            if step >= math.ceil(begin - 1e-9):
                learning = layers
        return learning


class _Schedule(TrainerCallback):
    def __init__(self, trainer: UnfreezingMixin):
        self._trainer = trainer
        self._learning: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._learning = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        learning = self._trainer._layers_learning(state.global_step, state.max_steps)
        if learning != self._learning:
            model: Any = self._trainer.model
            layers = model.config.text_config.num_hidden_layers
            model.freeze_layers(layers - learning)
            logger.info("From step %d on %d of %d layers learn.", state.global_step, learning, layers)
            self._learning = learning

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model: Any = self._trainer.model
        model.freeze_layers(0)
