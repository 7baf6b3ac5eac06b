"""What the Hub reads of a card: ids, data sets, and the scores as a model-index."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult

from ..metrics import TaskScores
from ..nearest import nearest
from ..tasks import Task
from .markdown import link, one_line, text

__all__ = ["HUB_TASKS", "DataSet", "distinct", "eval_results", "is_hub_id"]

# The tags of the Hub's tasks on text (huggingface.co/tasks) that may be a model's pipeline_tag.
HUB_TASKS = {
    "feature-extraction",
    "fill-mask",
    "multiple-choice",
    "question-answering",
    "sentence-similarity",
    "summarization",
    "text-classification",
    "text-generation",
    "text-ranking",
    "token-classification",
    "translation",
    "zero-shot-classification",
}
# Metrics that are a kind of one that the Hub knows (huggingface.co/metrics). The others are their own type.
_HUB_METRICS = {
    "f1_macro": "f1",
    "has_answer_exact_match": "exact_match",
    "has_answer_f1": "f1",
    "no_answer_accuracy": "accuracy",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "rougeLsum": "rouge",
    "token_accuracy": "accuracy",
}
DECIMALS = 4

# The client's rules for ids of repositories, whose own check can only raise.
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.|\.git$))(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]*\w)?", re.ASCII)
_DATA_FILE = re.compile(r".*\.(?:arrow|conllu?|csv|jsonl?|parquet|tsv|txt)(?:\.gz)?", re.IGNORECASE)


def is_hub_id(name: str | None) -> bool:
    """Whether the name can be a repository's id and is no folder here, which would come before the Hub."""
    return name is not None and len(name) <= 96 and bool(_HUB_ID.fullmatch(name)) and not os.path.isdir(name)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The data of a task, as the card names it.

    Args:
        name: as people say it.
        id: its id on the Hub.
        config: its configuration there.
        url: where it is from.
        authors: who made it.
        license: its licence.
        changes: what was done to it.
        rows: split -> number of rows.
    """

    name: str
    id: str | None = None
    config: str | None = None
    url: str | None = None
    authors: str | None = None
    license: str | None = None
    changes: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, task: str, value: str | Mapping[str, Any]) -> "DataSet":
        """What a user said of a task's data: a name (`owner/name` is a Hub id), or a dict of the fields.

        Raises:
            ValueError: an unknown field, no name, an id that the Hub cannot have, or a url not of the web.
        """
        if isinstance(value, str):
            on_hub = "/" in value and is_hub_id(value) and not _DATA_FILE.fullmatch(value)
            # The folders of somebody's machine are nothing for a card.
            value = {
                "name": os.path.basename(value) if os.path.isabs(value) else value,
                "id": value if on_hub else None,
            }
        known = [f.name for f in fields(cls)]
        for key in value:
            if key not in known:
                raise ValueError(f"datasets[{task!r}] has no field {key!r}. {nearest(str(key), known)}")
        given = {key: what for key, what in value.items() if what is not None}
        if not given.get("name", given.get("id")):
            raise ValueError(f"datasets[{task!r}] has no 'name': say what the data is called.")
        if not _HUB_ID.fullmatch(str(given.get("id", "ok"))):
            raise ValueError(
                f"datasets[{task!r}]: id must be a data set's id on the Hub, owner/name, got {given['id']!r}."
            )
        url = str(given.get("url", "https://"))
        if not url.startswith(("https://", "http://")):
            raise ValueError(f"datasets[{task!r}]: url must begin with https:// or http://, got {url!r}.")
        return cls(**{"name": given.get("id"), **given})

    def type(self, task: str) -> str:
        """The model-index's `type`: the Hub id, and for data that is not there something as short."""
        return self.id or re.sub(r"[^\w.]+", "-", one_line(self.name).lower()).strip("-") or task

    def attribution(self) -> str:
        """A sentence or two: name, configuration, authors, licence, changes, numbers of rows."""
        url = self.url or (f"https://huggingface.co/datasets/{self.id}" if self.id else None)
        named = [link(self.name, quote(one_line(url), safe="/:?#@!$&'*+,;=%~")) if url else text(self.name)]
        named += [f"configuration {text(self.config)}"] if self.config else []
        named += [f"by {text(self.authors)}"] if self.authors else []
        named += [f"licence {text(self.license)}"] if self.license else []
        parts = [", ".join(named)]
        parts += [f"Changes: {text(self.changes).rstrip('.')}"] if self.changes else []
        parts += ["Rows: " + ", ".join(f"{n:,} {text(s)}" for s, n in self.rows.items())] if self.rows else []
        return ". ".join(parts) + "."


def eval_results(
    tasks: Mapping[str, Task], scores: TaskScores, data: Mapping[str, DataSet], split: str
) -> list[EvalResult]:
    """A result for each task and metric, tasks and metrics in the order of `scores`."""
    results: list[EvalResult] = []
    taken: set[tuple[str, str, str | None]] = set()
    for task, values in scores.items():
        where = data.get(task, DataSet(name=task))
        kind, dataset, config = (
            tasks[task].type,
            one_line(where.type(task)),
            where.config and one_line(where.config),
        )
        # A model-index has one entry for a type, data set and configuration: two tasks with the same ones
        # would become one there, with the scores of both.
        while (kind, dataset, config) in taken:
            config = f"{config}-{task}" if config else task
        taken.add((kind, dataset, config))
        results += [
            EvalResult(
                task_type=kind,
                task_name=task,
                dataset_type=dataset,
                dataset_name=one_line(where.name) or task,
                dataset_config=config,
                dataset_split=split,
                metric_type=_HUB_METRICS.get(metric, one_line(metric)),
                metric_name=one_line(metric),
                metric_value=round(value, DECIMALS),
            )
            for metric, value in values.items()
        ]
    return results


def distinct(values: Iterable[str]) -> list[str]:
    """The values without repeats, in their order."""
    return list(dict.fromkeys(values))
