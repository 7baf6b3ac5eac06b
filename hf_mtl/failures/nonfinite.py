"""Losses and gradients that are not finite: seen before the weights are touched, and said with task, step and rows."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from torch.nn import Parameter
from transformers import TrainerCallback

from ..many_parameters import ManyParametersMixin
from ..mixing import PlannedBatchSampler
from ..training_args import MultiTaskTrainingArguments
from .rows import blamed, described

__all__ = ["NonFiniteError", "NonFiniteMixin"]

logger = logging.getLogger(__name__)

# Where `TrainerState` keeps how many steps were left out: it is written with every checkpoint.
_SKIPPED = "SkippedSteps"
_NAMED = 3  # parameters in a message


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the weights are those of the step before."""


class NonFiniteMixin(ManyParametersMixin):
    """Looks at the losses and the gradient of every optimizer step before the optimizer does.

    The losses of a step's micro-batches are kept as they are, on their device, and read once for the whole step, with
    the gradient's norm that the trainer has made already. Processes agree by one sum of two numbers.

    A bad step is left out as a whole (`on_nonfinite="skip"`): its micro-batches' gradients are added up by then, over
    all processes too. It counts as a step, so data, schedule and processes stay where they would be.
    """

    args: MultiTaskTrainingArguments
    _sampler: PlannedBatchSampler

    def _begin_guard(self) -> None:
        """For the trainer's `__init__`, behind transformers' own."""
        self._step_losses: list[Mapping[str, Tensor]] = []
        self._finite_losses: bool | None = None  # of this step, once that is known
        self._gradient_norm: Any = None
        self._skipped_in_a_row = 0
        self._left_out = False  # whether the last step was
        self._epoch_began = (0, 0)
        self._at_once = False
        self.add_callback(_GuardCallback(self))

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._step_losses, self._finite_losses, self._skipped_in_a_row = [], None, 0
        # DeepSpeed's engine, and optimizers that step in hooks, change weights inside of the backward.
        self._at_once = self.is_deepspeed_enabled or self.args.steps_in_backward
        if self._at_once and self.args.on_nonfinite == "skip":
            raise ValueError(
                "on_nonfinite='skip' takes a gradient away before the optimizer's step, which DeepSpeed does inside of "
                "the backward: set on_nonfinite='stop'."
            )
        return super()._inner_training_loop(*args, **kwargs)

    def _note_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Keeps the losses of a micro-batch that is trained on."""
        self._step_losses.append({name: loss.detach() for name, loss in losses.items()})
        if self._at_once and not self._losses_are_finite():
            self._stop_or_skip("")
        if self._at_once:
            self._finite_losses = None

    def _losses_are_finite(self) -> bool:
        """Whether all losses of the step so far are, in all processes. Reads the device, the first time in a step."""
        if self._finite_losses is None:
            values = [loss.float().mean() for losses in self._step_losses for loss in losses.values()]
            self._finite_losses = not values or self._agreed(torch.stack(values).isfinite().all())
        return self._finite_losses

    def _agreed(self, finite: Tensor) -> bool:
        """Whether it is so in all processes."""
        if self.args.world_size == 1:
            return bool(finite)
        bad: Any = self.accelerator.reduce((~finite).float(), reduction="sum")
        return not bool(bad)

    def _clip_grad_norm(self, model: Any) -> Any:
        """As transformers' own, but for a norm that is not finite: by that all gradients would be made NaN, and which
        of them are the cause could not be said."""
        learning = self._with_gradient()
        norm = self._plain_norm(learning)
        if norm is None:
            return super()._clip_grad_norm(model)
        finite = torch.where(norm.isfinite(), norm, torch.zeros_like(norm))  # where it is not, nothing is clipped
        torch.nn.utils.clip_grads_with_norm_(learning, self.args.max_grad_norm, finite)
        return norm

    def _plain_norm(self, learning: Iterable[Parameter]) -> Tensor | None:
        """The norm of the gradients, which are unscaled; None: they are not whole, or not there any more."""
        gradients = [p.grad for p in learning if p.grad is not None]
        kind = self.accelerator.distributed_type
        if self._at_once or self.is_fsdp_enabled or kind == DistributedType.XLA:
            return None
        if any(type(gradient) is not Tensor for gradient in gradients):
            return None
        self.accelerator.unscale_gradients()
        return torch.nn.utils.get_total_norm(gradients)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # transformers' own would clip to an infinite norm, which makes all NaN as well
            grad_norm = self._plain_norm(self._with_gradient())
        self._gradient_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self._gradient_norm

    def _norm_is_finite(self) -> Tensor:
        norm = torch.as_tensor(0.0 if self._gradient_norm is None else self._gradient_norm)
        if self.is_fsdp_enabled:
            from torch.distributed.tensor import DTensor

            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return norm.to(self.args.device).isfinite().all()

    def _guard_step(self) -> None:
        """Between the last backward and the optimizer: everything of the step must be finite."""
        what = ""
        if self._finite_losses is None and self._step_losses and self.accelerator.scaler is None:
            # One look at the device for both; where it is not well, which of the two.
            values = torch.stack([loss.float().mean() for losses in self._step_losses for loss in losses.values()])
            if self._agreed(values.isfinite().all() & self._norm_is_finite()):
                return self._done()
        if self._losses_are_finite():
            # Infinite gradients under a loss scaler are its own business: it leaves the step out, and scales less.
            if self.accelerator.scaler is not None or self._agreed(self._norm_is_finite()):
                return self._done()
            what = f"the gradient is not finite (norm {float(self._gradient_norm)}), though all losses are"
        self._stop_or_skip(what)
        return None

    def _done(self) -> None:
        self._step_losses, self._finite_losses, self._skipped_in_a_row, self._left_out = [], None, 0, False

    def _stop_or_skip(self, what: str) -> None:
        args, state = self.args, self.state
        message = self._message(what)
        self._step_losses, self._finite_losses = [], None
        if args.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{message} The weights are those of step {state.global_step}, as they were. Mend or leave out what is "
                "broken, lower learning_rate or set max_grad_norm, train in bf16 or float32 where it is fp16; "
                "on_nonfinite='skip' leaves such steps out."
            )
        self._skipped_in_a_row += 1
        skipped: Any = state.stateful_callbacks
        skipped[_SKIPPED] = skipped.get(_SKIPPED, 0) + 1
        if self._skipped_in_a_row > args.max_skipped_steps:
            raise NonFiniteError(
                f"{message} That makes {self._skipped_in_a_row} steps in a row, more than "
                f"max_skipped_steps={args.max_skipped_steps}: the weights have gone astray, or the data are broken. "
                "Go on from an earlier checkpoint with a lower learning_rate."
            )
        logger.warning("%s The step is left out (on_nonfinite='skip').", message)
        self._left_out = True
        model: Any = self.model
        model.zero_grad()

    def _message(self, what: str) -> str:
        """What is not finite: of losses, in all processes."""
        own = [] if what else self._bad_batches()
        batches: list[str] = gather_object(own) if self.args.world_size > 1 else own
        said = what or "; ".join(batches)
        if what:
            gradients = self._not_finite((name, p.grad) for name, p in self._named() if p.grad is not None)
            tasks = sorted({name for losses in self._step_losses for name in losses})
            said += f", at {gradients}. The step's tasks: {tasks}"
            said += "".join(f"; {self._rows_of(k, try_alone=False)}" for k in range(len(self._step_losses)))
        weights = self._not_finite((name, p.data) for name, p in self._named())
        if weights:
            said += f". The weights themselves are not finite, at {weights}"
        return f"Step {self.state.global_step + 1}: {said}."

    def _bad_batches(self) -> list[str]:
        found = []
        for k, losses in enumerate(self._step_losses):
            bad = {name: float(loss.float().mean()) for name, loss in losses.items()}
            bad = {name: value for name, value in bad.items() if not torch.tensor(value).isfinite()}
            if bad:
                values = ", ".join(f"the loss of task {name!r} is {value}" for name, value in bad.items())
                found.append(f"{values}. Its batch has of {self._rows_of(k, try_alone=True)}")
        return found

    def _rows_of(self, number: int, *, try_alone: bool) -> str:
        """Micro-batch `number` of the running step, in words."""
        step, within = self._epoch_began
        place = within + self.state.global_step - step
        indices = self._sampler.micro_batch(place * self.args.gradient_accumulation_steps + number)
        # A model in pieces cannot be asked by one process alone.
        whole = not self.is_fsdp_enabled and not self.is_deepspeed_enabled
        dataset: Any = self.train_dataset
        return described(dataset, indices, blamed(self, indices) if try_alone and whole else None)

    def _named(self) -> Any:
        model: Any = self.model
        return model.named_parameters()

    def _not_finite(self, tensors: Any) -> str:
        """Names of the first tensors that are not finite."""
        names = [name for name, tensor in tensors if not bool(tensor.isfinite().all())]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `skipped_steps` to a training log, once there are any: steps left out since the training began."""
        kept: Any = self.state.stateful_callbacks
        if "loss" in logs and _SKIPPED in kept:
            logs["skipped_steps"] = kept[_SKIPPED]
        super().log(logs, start_time)


class _GuardCallback(TrainerCallback):
    """Where in the Trainer's loop the guard stands."""

    def __init__(self, trainer: NonFiniteMixin) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        per_epoch = len(self._trainer._sampler) // args.gradient_accumulation_steps
        # A run that goes on inside of an epoch begins there, unless it is told not to skip what was seen.
        within = 0 if args.ignore_data_skip else state.global_step % per_epoch
        self._trainer._epoch_began = (state.global_step, within)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._guard_step()
