"""MultiTaskTrainingArguments: transformers' own, and how tasks are mixed."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from .aid_arguments import AidArguments
from .balancing import GRADIENT_METHODS, check_balancing
from .mixing import MIXING_RULES, Mixture
from .mixing.batching import check_batching
from .nearest import nearest
from .parameter_arguments import ParameterArguments

__all__ = ["MultiTaskTrainingArguments"]


# transformers' arguments that cannot do here what they say -> (their usual value, what to do instead).
_WITHOUT_EFFECT = {
    "label_smoothing_factor": (0.0, "each head computes its own loss"),
    "train_sampling_strategy": ("random", "the mixture orders the rows; length_group groups them by length"),
    "batch_eval_metrics": (False, "scores are of whole data sets"),
    "eval_do_concat_batches": (True, "scores are of whole data sets"),
}


@dataclass
class MultiTaskTrainingArguments(AidArguments, ParameterArguments, TrainingArguments):
    """`transformers.TrainingArguments` with the mixture of tasks.

    An epoch is as many rows as all tasks have together (each counted up to `cap`); the mixture says how many of them
    are whose. A task that gets more than it has is gone through again, in another order.
    """

    # What transformers reads as JSON where it comes from a command line.
    _VALID_DICT_FIELDS = [  # noqa: RUF012 - a plain list as in the base class; annotated, it would be a field
        *TrainingArguments._VALID_DICT_FIELDS, "mixing_weights", "mixing_references", "batch_sizes",
        "balancing_options", "teachers", "r_drop", "learning_rates", "unfreezing",
    ]  # fmt: skip

    mixing: str = field(
        default="temperature",
        metadata={
            "help": "Which task's rows come how often: proportional, temperature (size ** (1 / T)), uniform, "
            "round_robin, annealed (from proportional towards uniform), unimax (uniform, with a bound on repeats), "
            "weights (your own) or adaptive (by evaluations)."
        },
    )
    temperature: float = field(
        default=2.0,
        metadata={
            "help": "T of the mixture `temperature`: 1 is proportional to size, large is uniform. T5 found 2 best."
        },
    )
    cap: int | None = field(
        default=65536, metadata={"help": "A task counts as no larger than this many rows in the mixture."}
    )
    max_repeats: float = field(
        default=10.0,
        metadata={"help": "Mixture `unimax`: how often a task's rows may be gone through in the whole training."},
    )
    mixing_weights: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Mixture `weights`: task -> a number, or an expression of progress, step, epoch and size such as "
            "'1 - progress'."
        },
    )
    mixing_references: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Mixture `adaptive`: task -> main metric of a model trained for it alone. Without, tasks whose "
            "scores move get more."
        },
    )
    batching: str = field(
        default="per_task",
        metadata={
            "help": "per_task: a batch's rows are all of one task. mixed: each row is of the task that the mixture "
            "draws for it."
        },
    )
    batch_sizes: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Task -> rows of its batches, in place of per_device_train_batch_size."}
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "The most tokens of a batch on a device, padding counted; per_device_train_batch_size (or "
            "batch_sizes) is then the most rows."
        },
    )
    tasks_per_step: int | None = field(
        default=None,
        metadata={
            "help": "How many times an optimizer step draws a task; divides gradient_accumulation_steps, "
            "which it is by default: each micro-batch may be another task's."
        },
    )
    length_group: int | None = field(
        default=None,
        metadata={
            "help": "So many batches of a task have their rows sorted by length together: less padding, less mixed. "
            "1: shuffled. By default a quarter of the batches that the task has, at most 50."
        },
    )

    share_rows: bool = field(
        default=False,
        metadata={
            "help": "Tasks that label the same inputs are one in the mixture: the backbone reads a row once for all of "
            "them, and their losses add up. Without adapters only."
        },
    )

    freeze_layers: int | None = field(
        default=None,
        metadata={
            "help": "The embeddings and so many of the first layers stay as they are, which trains faster. Without "
            "adapters only, with which the whole backbone is frozen."
        },
    )

    cache_frozen_layers: float | None = field(
        default=None,
        metadata={
            "help": "Gigabytes of memory for what frozen layers (freeze_layers) give, so that each text goes through "
            "them in its first epoch alone. Equal up to rounding."
        },
    )

    balancing: str = field(
        default="static",
        metadata={
            "help": "How the losses or gradients of a step's tasks become one: static (each loss by its task's "
            "weight), or a method of docs/balancing.md."
        },
    )
    balancing_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of the balancing method, by name; on a command line as JSON."}
    )
    on_nonfinite: str = field(
        default="stop",
        metadata={
            "help": "What a loss or gradient that is NaN or infinite does: stop (an error that names task, step and "
            "rows, before the weights change) or skip (the optimizer step is left out)."
        },
    )
    max_skipped_steps: int = field(
        default=10, metadata={"help": "With on_nonfinite=skip: more steps than these left out in a row stop."}
    )
    save_backbone: bool = field(
        default=True,
        metadata={
            "help": "False: checkpoints hold adapters and heads alone, and are loaded over the pretrained backbone. "
            "With adapters only."
        },
    )

    def __post_init__(self) -> None:
        if not isinstance(self.mixing, str):
            raise ValueError(
                f"mixing={self.mixing!r} must be the name of a mixture, and its options are arguments of their own: "
                "mixing='temperature', temperature=2.0; mixing='weights', mixing_weights={...}. A function of your own "
                "is the trainer's mixing_rule."
            )
        if self.mixing not in MIXING_RULES:
            raise ValueError(f"Unknown mixing {self.mixing!r}. {nearest(str(self.mixing), MIXING_RULES)}")
        by_score = self.load_best_model_at_end or self.save_strategy == "best"
        if (by_score or self.lr_scheduler_type == "reduce_lr_on_plateau") and self.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "mean_score", True
        for name, (usual, instead) in _WITHOUT_EFFECT.items():
            if getattr(self, name) != usual:
                raise ValueError(f"{name}={getattr(self, name)!r} has no effect on several tasks: {instead}.")
        # Without an accelerator there is nothing to pin memory for, and torch warns of it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        super().__post_init__()  # reads mappings that came as JSON from a command line
        Mixture(**self.mixture_options())
        if self.mixing == "adaptive" and self.eval_strategy == "no":
            raise ValueError("mixing='adaptive' learns from evaluations: set eval_strategy to 'epoch' or 'steps'.")
        self._check_batches()
        self._check_nonfinite()
        if self.ddp_find_unused_parameters is None:
            # The heads and adapters of the tasks that a step has no rows of take no part in it.
            self.ddp_find_unused_parameters = True
        self._check_balancing()
        self._check_aids()
        self._check_parameters()

    @property
    def steps_in_backward(self) -> bool:
        """Whether the optimizer changes weights inside of the backward already."""
        return self.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO) or self.optim.endswith("_layerwise")

    def mixture_options(self) -> dict[str, Any]:
        """What a `Mixture` is made of."""
        return {
            "strategy": self.mixing,
            "temperature": self.temperature,
            "cap": self.cap,
            "max_repeats": self.max_repeats,
            "weights": self.mixing_weights,
            "references": self.mixing_references,
            "called": {"strategy": "mixing", "weights": "mixing_weights", "references": "mixing_references"},
        }

    def batch_limits(self, batch_size: int) -> dict[str, Any]:
        """`batch_sizes` and `max_tokens` of the sampler, less where `auto_find_batch_size` has lowered `batch_size`."""
        part = min(1.0, batch_size / self.train_batch_size)
        sizes, tokens = self._rows_of_batches(), self.max_tokens_per_batch
        return {
            "batch_sizes": {task: max(1, int(n * part)) for task, n in sizes.items()} or None,
            "max_tokens": None if tokens is None else max(1, int(tokens * part)),
        }

    def _rows_of_batches(self) -> dict[str, Any]:
        if isinstance(self.batch_sizes, str):
            raise ValueError(f"batch_sizes={self.batch_sizes!r} must be a dict, or JSON: '{{\"intent\": 8}}'.")
        return self.batch_sizes or {}

    def _check_batches(self) -> None:
        check_batching(self)
        for task, rows in self._rows_of_batches().items():
            if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
                raise ValueError(f"batch_sizes[{task!r}]={rows!r} must be a whole number of rows, 1 or more.")
        tokens = self.max_tokens_per_batch
        if tokens is not None and tokens < 1:
            raise ValueError(f"max_tokens_per_batch={tokens} must be 1 or more, or None for no limit.")
        if self.length_group is not None and self.length_group < 1:
            raise ValueError(
                f"length_group={self.length_group} must be 1 (shuffled) or more batches, or None (by the task's size)."
            )
        gigabytes = self.cache_frozen_layers
        if gigabytes is not None and not gigabytes > 0:
            raise ValueError(f"cache_frozen_layers={gigabytes} must be more than 0 gigabytes, or None to keep nothing.")

    def _check_nonfinite(self) -> None:
        if self.on_nonfinite not in (known := ("stop", "skip")):
            raise ValueError(f"Unknown on_nonfinite {self.on_nonfinite!r}. {nearest(str(self.on_nonfinite), known)}")
        if self.max_skipped_steps < 0:
            raise ValueError(f"max_skipped_steps={self.max_skipped_steps} must be 0 or more.")
        if self.on_nonfinite == "skip" and self.steps_in_backward:
            raise ValueError(
                f"on_nonfinite='skip' takes a gradient away before the optimizer's step, and optim={self.optim!s} does "
                "that inside of the backward: take another optimizer, or on_nonfinite='stop'."
            )

    def _check_balancing(self) -> None:
        if not isinstance(self.balancing, str):
            raise ValueError(
                f"balancing={self.balancing!r} must be the name of a method, and its options go apart: "
                "balancing='cagrad', balancing_options={'c': 0.4}."
            )
        if isinstance(self.balancing_options, str):
            raise ValueError(f"balancing_options={self.balancing_options!r} must be a dict, or JSON: '{{\"c\": 0.4}}'.")
        check_balancing(self.balancing, self.balancing_options)
        if self.balancing == "static":
            return
        draws = self.gradient_accumulation_steps if self.tasks_per_step is None else self.tasks_per_step
        several = draws > 1 or self.share_rows or self.batching == "mixed"
        if not several and self.balancing in GRADIENT_METHODS:
            raise ValueError(
                f"balancing={self.balancing!r} needs several tasks in an optimizer step, and it has one: set "
                "gradient_accumulation_steps to the number of tasks, and leave tasks_per_step out, or batching='mixed'."
            )
        if self.torch_empty_cache_steps is not None or self.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
            raise ValueError(
                f"balancing={self.balancing!r} does its own training step, without torch_empty_cache_steps and the "
                "LOMO optimizers: leave these out, or take balancing='static'."
            )
