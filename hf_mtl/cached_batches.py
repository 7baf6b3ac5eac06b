"""Batches larger than memory, for tasks whose rows meet in the loss alone, as vectors."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .tasks import TaskOutput

__all__ = ["output_in_parts"]


def output_in_parts(
    model: Any,
    name: str,
    labels: torch.Tensor,
    groups: torch.Tensor,
    mask: torch.Tensor,
    inputs: Mapping[str, Any],
) -> TaskOutput:
    """A task's output and, by it, its gradient, with the activations of one part of the batch in memory at a time.

    After Gao et al. 2021 (GradCache, arXiv:2101.06983): a part is embedded and only its vectors are kept; the loss is
    taken of all vectors; with the gradient of its vectors the part is embedded again, from the same state of the
    random numbers, and the gradient goes on into the model. There each of this is a pass written by hand. Here a part
    is an activation checkpoint, so that one `backward` does it as for any batch, and who watches it (the scaling of
    16 bits, accumulation, processes that add up their gradients) sees nothing unusual.

    Args:
        model: a `MultiTaskModel`.
        name: a task with `examples_in_memory`, whose head has a `loss(vectors, labels)`.
        labels: of the task's examples.
        groups: `[examples, inputs]` the rows of each example, -1 where it has no more.
        mask: `[rows, seq]` the attention mask of the task's rows.
        inputs: the backbone's other inputs, tensors `[rows, ...]` each.
    """

    def vectors(groups: torch.Tensor) -> torch.Tensor:
        real = groups >= 0
        rows = groups[real]
        own = torch.full_like(groups, -1).masked_scatter(real, torch.arange(len(rows), device=rows.device))
        given = {key: value[rows] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
        return model.head(name, model.encode([name], mask[rows], **given), mask[rows], groups=own).logits

    # Reentrant checkpoints would start a backward within the backward, which a group of processes cannot follow.
    parts = groups.to(mask.device).split(model.tasks[name].examples_in_memory)
    run: Callable[[torch.Tensor], torch.Tensor] = vectors
    if len(parts) > 1:
        run = partial(checkpoint, vectors, use_reentrant=False)
    found = torch.cat([run(part) for part in parts])
    return TaskOutput(model.heads[name].loss(found, labels), found)
