"""An exponential moving average of what is trained, which is what is evaluated and saved."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback

from .training_args import MultiTaskTrainingArguments

__all__ = ["WeightAverageMixin"]

logger = logging.getLogger(__name__)

_FILE = "weight_average.safetensors"  # in a checkpoint's folder


class WeightAverageMixin(Trainer):
    """The part of `MultiTaskTrainer` that averages weights, with `args.ema_decay`.

    After step t (from 0), `average += (1 - d) * (weight - average)` with d = min(ema_decay, (1 + t) / (10 + t)), in
    float32, from the weights before the first step on. The rule of the decay is that of TensorFlow's
    ExponentialMovingAverage with `num_updates`: a young average does not hang on where the training began.

    While a model is scored or saved its weights are the averages; a checkpoint has the weights beside them. When the
    training ends, the model's weights are the averages.
    """

    args: MultiTaskTrainingArguments
    _left_out: bool  # whether the last step was left out, for it was not finite

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._averages: dict[Tensor, Tensor] = {}  # parameter -> its average
        self._updates = 0
        self._swapped = False
        if self.args.ema_decay is not None:
            self.add_callback(_AfterStep(self))

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._averages, self._updates = {}, 0
        checkpoint = kwargs.get("resume_from_checkpoint")
        path = None if checkpoint is None else Path(checkpoint, _FILE)
        if self.args.ema_decay is not None:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                raise ValueError(
                    f"ema_decay={self.args.ema_decay} needs whole weights in each process, which DeepSpeed and FSDP "
                    "have not: train without it."
                )
            self._averages = {p: p.detach().float().clone() for _, p in self._averaged()}
            if path is not None:
                self._load_average(path)
        elif path is not None and path.is_file():
            raise ValueError(
                f"{path.parent} was written with ema_decay, so its weights are averages, from which a training cannot "
                "go on: set ema_decay again."
            )
        return super()._inner_training_loop(*args, **kwargs)

    def _averaged(self) -> list[tuple[str, torch.nn.Parameter]]:
        model: Any = self.model
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad or p in self._averages]

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.accelerator.optimizer_step_was_skipped or self._left_out:
            return
        decay = min(float(self.args.ema_decay or 0), (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self._averages.values()), [p.float() for p in self._averages], 1 - decay)
        self._updates += 1

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The model's weights are the averages as long as it lasts."""
        if self._swapped or not self._averages:
            yield
            return
        weights = [p.detach().clone() for p in self._averages]
        _copy(list(self._averages), list(self._averages.values()))
        self._swapped = True
        try:
            yield
        finally:
            self._swapped = False
            _copy(list(self._averages), weights)

    def _set_average(self, tensor: Tensor) -> None:
        """A parameter's average is its value."""
        if tensor in self._averages:
            self._averages[tensor].copy_(tensor.detach())

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        scorer: Any = super()
        with self._averaged_weights():
            return scorer._answer(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self._averaged_weights():
            super().save_model(output_dir, _internal_call)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        _copy(list(self._averages), list(self._averages.values()))
        self._averages = {}
        return super()._finalize_training(*args, **kwargs)

    # ------------------------------------------------------------------ checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._averages and self.args.should_save:
            values = {f"weight.{name}": p.detach().contiguous() for name, p in self._averaged()}
            values |= {f"average.{name}": self._averages[p] for name, p in self._averaged()}
            save_file(values, Path(output_dir, _FILE), metadata={"updates": str(self._updates)})

    @torch.no_grad()
    def _load_average(self, path: Path) -> None:
        if not path.is_file():
            logger.warning(
                "%s has no %s, as without ema_decay, or with save_only_model: the average begins anew.",
                path.parent, path.name,
            )  # fmt: skip
            return
        with safe_open(path, framework="pt") as file:
            self._updates = int(file.metadata()["updates"])
            for name, p in self._averaged():
                p.copy_(file.get_tensor(f"weight.{name}"))
                self._averages[p].copy_(file.get_tensor(f"average.{name}"))


class _AfterStep(TrainerCallback):
    def __init__(self, trainer: WeightAverageMixin):
        self._trainer = trainer

    # Not at the step's end, at which others may save (enable_jit_checkpoint) or score before it is this one's turn.
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._update_average()


@torch.no_grad()
def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(into, values, strict=True):
        tensor.copy_(value)
