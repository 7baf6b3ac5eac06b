"""Distributions over labels: a Trainer whose loss is the KL divergence, as distillation is usually written."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Trainer

from .budget import Rows
from .sequence_classification import SequenceWay

__all__ = ["SoftLabelWay", "softmax"]


class DivergenceTrainer(Trainer):
    """The loss is the KL divergence of the prediction from the row's distribution."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the batch."""
        gold = inputs.pop("labels", None)
        outputs = model(**inputs)
        if gold is None:
            raise ValueError("The batch has no labels.")
        loss = F.kl_div(F.log_softmax(outputs.logits, dim=-1), gold.to(torch.float32), reduction="batchmean")
        return (loss, outputs) if return_outputs else loss


class SoftLabelWay(SequenceWay):
    """A distribution over labels for each row; the rows have them as lists in the order of the labels."""

    trainer_class = DivergenceTrainer

    def gold(self, row: dict[str, Any]) -> list[float]:
        """The distribution."""
        return row[self.label]

    def answer(self, rows: Rows) -> list[list[float]]:
        """A distribution for each row."""
        return softmax(self.logits(rows)).tolist()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
