"""A task's head in the form that transformers' own classes have."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["PlainHead"]


@dataclass(frozen=True, kw_only=True)
class PlainHead:
    """One linear layer on hidden states of the last layer, or the backbone's own head of a language model.

    Args:
        model: the auto class of transformers that answers such tasks.
        reads: `tokens`: the layer is on every token; `first`, `last`: on that token of a text; `choices`: on the
            first token of each choice; `language`: there is no layer, a language model answers.
        weight: `[outputs, width]` of the layer.
        bias: `[outputs]` of the layer; None: it has none.
        labels: what the outputs stand for; None where they have no names.
        problem: `problem_type` of a config, which says the loss.
    """

    model: str
    reads: str
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    labels: Sequence[str] | None = None
    problem: str | None = None
