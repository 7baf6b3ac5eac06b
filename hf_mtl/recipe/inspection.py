"""What a recipe's data are to its tasks, seen before a training: rows, labels, lengths, and a few examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backbone import prepare_tokenizer
from ..bundled import locate_backbone
from ..language_model import kind_needed
from ..tasks import Task
from .measures import Lengths, count_labels, gold_answers, measure_lengths, named_batches, read_rows

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
        targets: subwords of the texts that are to be written; None where none are, or the input goes on into them.
    """

    rows: int
    labels: Mapping[str, int]
    unlabelled: int
    unknown: int | None
    lengths: Lengths
    targets: Lengths | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row: as it is, as the model reads it, and its gold answer as the scores see it.

    Args:
        row: the columns that the task reads.
        subwords: the subwords of each of its inputs; long rows have several.
        targets: the subwords that are to be written, of each of them; empty for tasks that do not write.
        gold: the answer; None where there is none.
    """

    row: Mapping[str, Any]
    subwords: Sequence[Sequence[str]]
    targets: Sequence[Sequence[str]]
    gold: Any


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """A task's data.

    Args:
        type: the task's type.
        splits: split -> report.
        examples: rows of its first split.
        unread: columns of the training data that the task could read, and does not.
    """

    type: str
    splits: Mapping[str, SplitReport]
    examples: Sequence[Example]
    unread: Sequence[str] = ()


def inspect_recipe(recipe: "Recipe", rows: int = 3) -> dict[str, TaskReport]:
    """task -> what its data are. Takes the backbone's tokenizer, and none of its weights.

    Args:
        recipe: the recipe.
        rows: examples of each task.

    Raises:
        ValueError: the data cannot be loaded, a row cannot be used, or a task not on this backbone.
        OSError: the backbone's tokenizer cannot be had.
    """
    from transformers import AutoConfig, AutoTokenizer

    data = recipe.load_data()
    where = locate_backbone(recipe.backbone)
    config = AutoConfig.from_pretrained(where).get_text_config()
    kind_needed(recipe.tasks.values(), config)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(where), config, recipe.tasks.values())
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
        lengths, targets = measure_lengths(task, rows, split, tokenizer)
        reports[split] = SplitReport(
            rows=len(rows),
            labels=dict(sorted(labels.counts.items(), key=lambda pair: (-pair[1], pair[0]))),
            unlabelled=labels.unlabelled,
            unknown=None if known is None or split == "train" else sum(not of <= known for of in labels.of_rows),
            lengths=lengths,
            targets=targets,
        )
    found = _examples(task, *next(iter(splits.items())), tokenizer, examples) if splits else []
    unread = task.unread_columns(splits["train"].column_names) if "train" in splits else ()
    return TaskReport(type=task.type, splits=reports, examples=found, unread=unread)


def _examples(task: Task, split: str, rows: Any, tokenizer: Any, number: int) -> list[Example]:
    """Rows from all over the split, which may be sorted."""
    columns = dict.fromkeys([*task.inputs().values(), *task.columns()])
    found = []
    for batch in named_batches(rows, number):
        gold, read = gold_answers(task, batch, split), read_rows(task, batch, tokenizer, split)
        for row, own, answer in zip(batch[1], read, gold, strict=True):
            found.append(
                Example(
                    row={column: row[column] for column in columns if column in row},
                    subwords=_decoded(own.inputs, tokenizer),
                    targets=_decoded(own.targets, tokenizer),
                    gold=answer,
                )
            )
    return found


def _decoded(windows: Sequence[Sequence[int]], tokenizer: Any) -> list[list[str]]:
    return [[tokenizer.decode([i]) for i in window] for window in windows]
