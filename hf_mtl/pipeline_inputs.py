"""What a pipeline is given: which examples there are in it, and which of them an error is about."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .tasks import RowError, Task

__all__ = ["examples_in", "naming_example", "nobody_answers", "whole_number"]


def examples_in(inputs: Any) -> Iterable[Any] | None:
    """The examples in the inputs; None where they are one example."""
    if isinstance(inputs, Iterable):
        if isinstance(inputs, np.ndarray):
            return inputs.tolist() if inputs.ndim else None
        return None if isinstance(inputs, (str, bytes, Mapping)) else inputs
    if isinstance(inputs, torch.utils.data.Dataset):  # indexed, but it need not be iterable: a KeyDataset is not
        return (inputs[i] for i in range(len(inputs)))  # type: ignore[arg-type]
    return None


def whole_number(name: str, value: Any) -> int | None:
    """The value of a parameter that counts something, or None; raises ValueError for anything else."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}.")
    return value


@contextmanager
def naming_example(examples: int | Sequence[int], first: int | None) -> Iterator[None]:
    """Puts into an error which of the inputs it is about, where there are several."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, RowError) and not isinstance(examples, int):
            examples = examples[error.row]
        if first is None or not isinstance(examples, int):
            raise
        raise ValueError(f"inputs[{first + examples}]: {error}") from error


def nobody_answers(tasks: Iterable[Task], example: Any) -> ValueError:
    """The error that says what an example has, and what each of the tasks needs."""
    needs = ", ".join(f"{task.name!r} needs {list(task.inputs())}" for task in tasks)
    given = f"has {list(example)}" if isinstance(example, Mapping) else f"is one {type(example).__name__}"
    return ValueError(f"No task can answer the input, which {given}: {needs}. Give a dict with these names.")
