"""The balancing of tasks in training: one backward a task, and the optimizer step that a method makes of them."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapters import task_of_key
from .balancing import Balancing, GradientBalancing, GradientRows, LossBalancing, make_balancing
from .many_parameters import ManyParametersMixin
from .tasks import Task
from .training_args import MultiTaskTrainingArguments

__all__ = ["BalancedTrainingMixin"]

logger = logging.getLogger(__name__)

_STATE = "balancing.json"  # in a checkpoint's folder


class BalancedTrainingMixin(ManyParametersMixin):
    """The training step of `MultiTaskTrainer` where `args.balancing` is not `static`.

    A micro-batch is backpropagated as soon as it is read, task by task. What its losses or gradients are is kept until
    the last micro-batch of the optimizer step; then the method decides, before gradients are clipped.
    """

    args: MultiTaskTrainingArguments
    _tasks: dict[str, Task]
    _balancing: Balancing | None
    _losses_are_finite: Callable[[], bool]
    _owners: dict[torch.nn.Parameter, str]  # each parameter of a head or an adapter -> its task
    _shares: dict[str, Any]  # task -> what the last batch counts by, where batches do not all count the same

    def _begin_balancing(self, tokenizer: Any) -> None:
        """The method in its first state."""
        args = self.args
        labels = None
        if args.balancing == "log-labels":
            labels = {name: task.number_of_labels(tokenizer) for name, task in self._tasks.items()}
        options: Any = args.balancing_options
        self._balancing = make_balancing(args.balancing, list(self._tasks), options, seed=args.seed, labels=labels)
        self._micro_losses: list[tuple[str, Tensor]] = []
        self._micro_shares: list[Any] = []
        self._shares = {}
        self._rows: GradientRows | None = None

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._begin_balancing(self.processing_class)
        if self._balancing is not None:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                reason = "needs whole gradients in each process"
                if isinstance(self._balancing, LossBalancing):
                    reason = "multiplies whole gradients between the last backward and the optimizer's step"
                raise ValueError(
                    f"balancing={self.args.balancing!r} {reason}, which DeepSpeed and FSDP have not: train without "
                    "them, or with balancing='static'."
                )
            model = self._own_model()
            owners = {parameter: task_of_key(key) for key, parameter in model.named_parameters()}
            self._owners = {parameter: name for parameter, name in owners.items() if name in self._tasks}
            if kwargs.get("resume_from_checkpoint") is not None:
                self._load_balancing(Path(kwargs["resume_from_checkpoint"], _STATE), self._balancing)
        return super()._inner_training_loop(*args, **kwargs)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        method = self._balancing
        if method is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        optimizer: Any = self.optimizer
        optimizer.train()
        inputs = self._prepare_inputs(inputs)
        # DDP averages what all backwards of a step add up to; rows are averaged one by one.
        with self.accelerator.no_sync(model) if isinstance(method, GradientBalancing) else nullcontext():
            with self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            if isinstance(method, GradientBalancing):
                self._collect(outputs.task_losses)
            else:
                self._backpropagate(outputs.task_losses, method)
        self._micro_losses += [(name, value.detach()) for name, value in outputs.task_losses.items()]
        self._micro_shares += [self._shares.get(name) for name in outputs.task_losses]
        if self.accelerator.sync_gradients:
            if self._losses_are_finite():
                self._end_step(method)
            else:  # the guard stops or leaves the step out: the method's state knows nothing of it
                method.step += 1
                if self._rows is not None and self.accelerator.scaler is not None:  # it must see a gradient
                    if self.args.world_size > 1:
                        self._rows.average()
                    self._rows.write_sum([1.0] * len(self._rows.tasks))
                self._rows, self._micro_losses, self._micro_shares = None, [], []
        return loss.detach() / self.current_gradient_accumulation_steps

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self._own_model().every_parameter() if p.requires_grad]

    def _weighted(self, name: str, loss: Tensor) -> Tensor:
        """A task's part of the step's plain loss."""
        weight = self._tasks[name].weight / self.current_gradient_accumulation_steps
        return loss * (weight * self._shares.get(name, 1.0))

    def _backpropagate(self, losses: Mapping[str, Tensor], method: Any) -> None:
        terms = [self._weighted(name, method.term(name, loss)) for name, loss in losses.items()]
        self.accelerator.backward(torch.stack(terms).sum())

    def _collect(self, losses: Mapping[str, Tensor]) -> None:
        """One backward a task; its gradients become its row."""
        if self._rows is None:
            weights = {name: task.weight for name, task in self._tasks.items()}
            self._rows = GradientRows(list(self._tasks), self._trained(), self._owners, weights)
        for number, (name, loss) in enumerate(losses.items(), start=1):
            # Tasks that share rows share the backbone's activations, which the last of them is done with.
            self.accelerator.backward(self._weighted(name, loss), retain_graph=number < len(losses))
            self._rows.collect(name)

    def _end_step(self, method: Balancing) -> None:
        if isinstance(method, LossBalancing):
            factor = method.end_step(self._losses_of_step())
            gradients = [p.grad for p in self._trained() if p.grad is not None]
            if factor != 1.0 and gradients:
                torch._foreach_mul_(gradients, factor)
        elif isinstance(method, GradientBalancing) and self._rows is not None:
            if self.args.world_size > 1:
                self._rows.average()
            if method.step == 0 and len(self._rows.tasks) > 1 and not self._rows.share:
                logger.warning(
                    "balancing=%r has nothing to do: the tasks %s share no parameter that is trained. With adapters "
                    "each task has its own.",
                    self.args.balancing,
                    self._rows.tasks,
                )
            losses = self._losses_of_step() if method.reads_losses else {}
            method.end_step(self._rows, {name: sum(values) / len(values) for name, values in losses.items()})
            self._rows = None
        self._micro_losses, self._micro_shares = [], []

    def _losses_of_step(self) -> dict[str, list[float]]:
        """task -> the losses of its micro-batches, of all processes: each micro-batch's stand together."""
        if any(share is not None for share in self._micro_shares):
            return self._mean_losses_of_step()
        values = torch.stack([value.float() for _, value in self._micro_losses])
        if self.args.world_size > 1:
            # Each process has the same tasks in the same order.
            values = self.accelerator.gather(values).view(self.args.world_size, -1).T
        losses: dict[str, list[float]] = {}
        for (name, _), found in zip(self._micro_losses, values.reshape(len(values), -1).tolist(), strict=True):
            losses.setdefault(name, []).extend(found)
        return losses

    def _mean_losses_of_step(self) -> dict[str, list[float]]:
        """task -> its mean loss over the step's rows or labels, of all processes: once for each batch of it alone."""
        numbers = {name: i for i, name in enumerate(self._tasks)}
        sums = torch.zeros(len(numbers), 3, device=self.args.device)
        one = sums.new_ones(())
        for (name, value), given in zip(self._micro_losses, self._micro_shares, strict=True):
            share = one if given is None else one * given
            sums[numbers[name]] += torch.stack([value.float().mean() * share, share, one])
        found = self.accelerator.reduce(sums, reduction="sum").tolist()
        means = {name: found[i][0] / found[i][1] for name, i in numbers.items() if found[i][1] > 0}
        mixed = self.args.batching == "mixed"
        return {name: [mean] * (1 if mixed else round(found[numbers[name]][2])) for name, mean in means.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log what the tasks of the last step counted by: `weight_<task>`."""
        if "loss" in logs and self._balancing is not None:
            logs |= {f"weight_{name}": weight for name, weight in self._balancing.weights.items()}
        super().log(logs, start_time)

    # ------------------------------------------------------------------ checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._balancing is not None and self.args.should_save:
            state = {"method": self.args.balancing, "state": self._balancing.state_dict()}
            Path(output_dir, _STATE).write_text(json.dumps(state), encoding="utf-8")

    def _load_balancing(self, path: Path, method: Balancing) -> None:
        if not path.is_file():
            logger.warning(
                "%s has no %s, as with balancing='static', or with save_only_model: %r begins anew.",
                path.parent, path.name, self.args.balancing,
            )  # fmt: skip
            return
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["method"] == self.args.balancing:
            method.load_state_dict(kept["state"])
        else:
            logger.warning(
                "%s was written with balancing=%r; %r begins anew.", path.parent, kept["method"], self.args.balancing
            )
