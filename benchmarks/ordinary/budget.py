"""What the ways of training share: rows go in, answers come out, and one spends no more than another."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PrinterCallback, Trainer, TrainingArguments

__all__ = ["Budget", "Rows", "Way", "arguments", "logits_of", "trained"]

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may spend, the same for both ways.

    Args:
        backbone: a folder, or an id that the Hub or its cache has.
        epochs: passes over the training rows.
        batch_size: rows of a step.
        rate: the greatest learning rate; the first tenth of the steps rises to it, the rest falls to 0.
        max_length: most subwords of an input.
        seed: of the head, the order of rows and dropout.
    """

    backbone: str
    epochs: float
    batch_size: int
    rate: float
    max_length: int
    seed: int


class Way(Protocol):
    """A way of training for a task and of answering."""

    def fit(self, rows: Rows) -> None:
        """Encodes the rows and trains on them."""

    def answer(self, rows: Rows) -> list[Any]:
        """A plain answer for each row."""


def arguments(budget: Budget, kind: type[TrainingArguments] = TrainingArguments, **more: Any) -> Any:
    """Training arguments of a budget. AdamW, linear decay and the clipping of gradients are transformers' defaults."""
    return kind(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=budget.epochs,
        per_device_train_batch_size=budget.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=budget.rate,
        warmup_steps=0.1,
        seed=budget.seed,
        save_strategy="no",
        report_to="none",
        logging_steps=100_000,
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **more,
    )


def trained(model: Any, features: Any, collator: Any, budget: Budget, trainer: type[Trainer] = Trainer) -> Trainer:
    """Transformers' own Trainer after its training."""
    made = trainer(model=model, args=arguments(budget), train_dataset=features, data_collator=collator)
    made.remove_callback(PrinterCallback)
    made.train()
    return made


def logits_of(trainer: Trainer, features: Any) -> Any:
    """The logits of features in their order; those of words are padded with -100."""
    found: Any = trainer.predict(features).predictions
    return found if isinstance(found, tuple) else np.asarray(found)
