"""What a recipe's data are to its tasks, seen before a training: rows, labels, lengths, and a few examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backbone import prepare_tokenizer
from ..bundled import locate_backbone
from ..tasks import Task
from .measures import Lengths, count_labels, encode_inputs, gold_answers, measure_lengths, named_batches

if TYPE_CHECKING:
    from .recipe import Recipe

__all__ = ["Example", "Lengths", "SplitReport", "TaskReport", "inspect_recipe"]


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """A split of a task's data.

    Args:
        rows: how many there are.
        labels: label -> how often, the commonest first; empty for tasks whose answers are no labels.
        unlabelled: rows without a label.
        unknown: rows with a label that no training row has; None where nothing is to compare.
        lengths: subwords of its rows.
    """

    rows: int
    labels: Mapping[str, int]
    unlabelled: int
    unknown: int | None
    lengths: Lengths


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row: as it is, as the model reads it, and its gold answer as the scores see it.

    Args:
        row: the columns that the task reads.
        subwords: the subwords of each of its inputs; long rows have several.
        gold: the answer; None where there is none.
    """

    row: Mapping[str, Any]
    subwords: Sequence[Sequence[str]]
    gold: Any


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """A task's data: its type, split -> report, and rows of its first split."""

    type: str
    splits: Mapping[str, SplitReport]
    examples: Sequence[Example]


def inspect_recipe(recipe: "Recipe", rows: int = 3) -> dict[str, TaskReport]:
    """task -> what its data are. Takes the backbone's tokenizer, and none of its weights.

    Args:
        recipe: the recipe.
        rows: examples of each task.

    Raises:
        ValueError: the data cannot be loaded, or a row cannot be used.
        OSError: the backbone's tokenizer cannot be had.
    """
    from transformers import AutoConfig, AutoTokenizer

    data = recipe.load_data()
    where = locate_backbone(recipe.backbone)
    config = AutoConfig.from_pretrained(where).get_text_config()
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(where), config)
    return {name: _inspect(task, data[name], tokenizer, rows) for name, task in recipe.tasks.items()}


def _inspect(task: Task, splits: Mapping[str, Any], tokenizer: Any, examples: int) -> TaskReport:
    if "train" in splits:
        task = task.learn(splits["train"].with_format(None))
    known: set[str] | None = None
    reports = {}
    for split, rows in splits.items():
        labels = count_labels(task, rows, split)
        if split == "train" and labels.counts:
            known = set(labels.counts)
        reports[split] = SplitReport(
            rows=len(rows),
            labels=dict(sorted(labels.counts.items(), key=lambda pair: (-pair[1], pair[0]))),
            unlabelled=labels.unlabelled,
            unknown=None if known is None or split == "train" else sum(not of <= known for of in labels.of_rows),
            lengths=measure_lengths(task, rows, split, tokenizer),
        )
    found = _examples(task, *next(iter(splits.items())), tokenizer, examples) if splits else []
    return TaskReport(type=task.type, splits=reports, examples=found)


def _examples(task: Task, split: str, rows: Any, tokenizer: Any, number: int) -> list[Example]:
    """Rows from all over the split, which may be sorted."""
    read = dict.fromkeys([*task.inputs().values(), *task.columns()])
    found = []
    for batch in named_batches(rows, number):
        gold, inputs = gold_answers(task, batch, split), encode_inputs(task, batch, tokenizer, split)
        for row, ids, answer in zip(batch[1], inputs, gold, strict=True):
            found.append(
                Example(
                    row={column: row[column] for column in read if column in row},
                    subwords=[[tokenizer.decode([i]) for i in window] for window in ids],
                    gold=answer,
                )
            )
    return found
