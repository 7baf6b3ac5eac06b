"""What the Trainer does in each step with all parameters, looked for once: with many tasks they are thousands.

transformers' Trainer walks through all modules seven times a step. With 128 tasks that takes as long as the step.
"""

from typing import Any

from accelerate.utils import DistributedType
from torch import nn
from transformers import Trainer

from .modeling import MultiTaskModel

__all__ = ["ManyParametersMixin"]

# Those whose parameters are the model's own from the training's first step to its last.
_WHOLE = {DistributedType.NO, *(kind for kind in DistributedType if kind.value.startswith("MULTI_"))}


class ManyParametersMixin(Trainer):
    """The part of `MultiTaskTrainer` that looks for the model's parameters once in a training."""

    _parameters_read: float | None = None

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._parameters_read = None
        whole = self.accelerator.distributed_type in _WHOLE
        with self._own_model().keeping_modules(whole):
            return super()._inner_training_loop(*args, **kwargs)

    def _own_model(self) -> MultiTaskModel:
        """The model without what accelerate has put around it."""
        model: Any = self.model
        return model if isinstance(model, MultiTaskModel) else self.accelerator.unwrap_model(model)

    def _with_gradient(self) -> list[nn.Parameter]:
        return [p for p in self._own_model().every_parameter() if p.grad is not None]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of forward and backward, as transformers counts: six for each token and parameter, without embeddings.

        What is a task's own counts by the mean of all tasks, for a row does not go through all of them.
        """
        if inputs.get("input_ids") is None:
            return 0
        if self._parameters_read is None:
            model = self._own_model()
            counts = model.parameter_counts()
            own = sum(counts[name]["head"] + counts[name]["adapter"] for name in model.tasks)
            own -= sum(m.weight.numel() for m in model.heads.modules() if isinstance(m, nn.Embedding))
            common = model.num_parameters(exclude_embeddings=True) - own
            self._parameters_read = common + own / len(model.tasks)
        return round(6 * inputs["input_ids"].numel() * self._parameters_read)
