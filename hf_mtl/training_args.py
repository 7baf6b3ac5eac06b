"""MultiTaskTrainingArguments: transformers' own, and how tasks are mixed."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from .mixing import MIXING_RULES
from .nearest import nearest

__all__ = ["MultiTaskTrainingArguments"]


# transformers' arguments that cannot do here what they say -> (their usual value, what to do instead).
_WITHOUT_EFFECT = {
    "label_smoothing_factor": (0.0, "each head computes its own loss"),
    "train_sampling_strategy": ("random", "the mixture orders the rows; length_grouped=True groups them by length"),
    "batch_eval_metrics": (False, "scores are of whole data sets"),
    "eval_do_concat_batches": (True, "scores are of whole data sets"),
}


@dataclass
class MultiTaskTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the mixture of tasks.

    An epoch is as many rows as all tasks have together (each counted up to `cap`); the mixture says how many of them
    are whose. A task that gets more than it has is gone through again, in another order.
    """

    mixing: str = field(
        default="temperature",
        metadata={"help": "Which task's rows come how often: proportional, uniform or temperature (size ** (1 / T))."},
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
    tasks_per_step: int | None = field(
        default=None,
        metadata={
            "help": "How many times an optimizer step draws a task; divides gradient_accumulation_steps, "
            "which it is by default: each micro-batch may be another task's."
        },
    )
    length_grouped: bool = field(
        default=True, metadata={"help": "Batches of rows of similar length, within each task: less padding."}
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

    def __post_init__(self) -> None:
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
        super().__post_init__()
        if self.ddp_find_unused_parameters is None:
            # The heads and adapters of the tasks that a step has no rows of take no part in it.
            self.ddp_find_unused_parameters = True
