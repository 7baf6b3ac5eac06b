"""One comparison: a data set, our task, the ordinary way, and the scorer of both; and the rows that both are given."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hf_mtl
from hf_mtl.recipe.data import TaskData

from .budget import Budget, Rows, Way

__all__ = ["Case", "Scores", "read_rows"]

Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison. The first of `ours` and of `theirs` are what the difference is between.

    Args:
        data: the folder of the rows.
        ours: way -> a task of hf_mtl; called with `name` and `max_length`, and learned from the training rows.
        theirs: way -> an ordinary way, of a budget and the training rows.
        plain: a prediction of the task -> the plain answer that the scorer knows.
        gold: a row -> its gold answer.
        score: answers and gold answers -> metric -> value.
        metrics: what the table shows; the first is compared.
        settings: way -> training arguments of its own.
        given: columns that an answer needs beside the task's own inputs.
        train: how many training rows.
        test: how many test rows at most.
        epochs: passes over the training rows.
        batch_size: rows of a step.
        max_length: most subwords.
        rate: the learning rate.
        change: a row of the file -> the row of the task; None leaves it out.
    """

    data: str
    ours: dict[str, Callable[..., hf_mtl.Task]]
    theirs: dict[str, Callable[[Budget, Rows], Way]]
    plain: Callable[[Any], Any]
    gold: Callable[[dict[str, Any]], Any]
    score: Callable[[list[Any], list[Any]], Scores]
    metrics: tuple[str, ...]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    train: int = 500
    test: int = 500
    epochs: float = 3
    batch_size: int = 8
    max_length: int = 128
    rate: float = 3e-4
    change: Callable[[dict[str, Any]], dict[str, Any] | None] = field(default=lambda row: row)


def read_rows(case: Case, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """split -> rows: the same for both ways and every seed. Of `dev` 100: for rates and thresholds."""
    place = folder / case.data
    if (place / "train.conllu").is_file():
        files = {"train": str(place / "train.conllu"), "validation": str(place / "dev.conllu")}
        kind = hf_mtl.TokenClassification(name="words", tags="upos")
        found = TaskData.from_dict(kind, files, folder).load()
        dev = list(found["validation"])
        rows = {"train": list(found["train"]), "dev": dev[::3], "test": dev[1::3] + dev[2::3]}
    else:
        rows = {
            split: [json.loads(line) for line in (place / f"{split}.jsonl").read_text("utf-8").splitlines()]
            for split in ("train", "dev", "test")
        }
    most = {"train": case.train, "dev": 100, "test": case.test}
    for split, own in rows.items():
        changed = [row for row in map(case.change, own) if row is not None]
        count = min(most[split], len(changed))
        rows[split] = [changed[k] for k in sorted(random.Random(0).sample(range(len(changed)), count))]
    return rows
