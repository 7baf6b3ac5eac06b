"""Recipe: a YAML file, checked, as the objects of a training."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..modeling import MultiTaskModel
from ..nearest import nearest
from ..tasks import Task
from ..training_args import MultiTaskTrainingArguments
from .data import SPLITS, TaskData
from .document import dump_document, read_document, set_value
from .runs import Report, Trained, evaluate, train
from .sections import (
    read_adapters,
    read_backbone,
    read_balancing,
    read_card,
    read_mixing,
    read_sharing,
    read_tasks,
    read_training,
)
from .values import check_keys

__all__ = ["SECTIONS", "Recipe"]

SECTIONS = ("backbone", "tasks", "adapters", "mixing", "balancing", "training", "card")
# Nothing is reported, kept or evaluated on the way unless the recipe says so: it takes time, space, accounts.
_TRAINING_DEFAULTS = {"report_to": "none", "save_strategy": "no", "eval_strategy": "no"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training is made of, checked as far as it can be without its data.

    Args:
        backbone: Hub id or folder.
        tasks: name -> task, its labels not yet learned.
        data: name -> where the task's rows are.
        adapters: a `peft.LoraConfig` or `IA3Config`, or None: the tasks share the whole backbone.
        sharing: `sharing`, `first_layer` and `train_backbone` of `MultiTaskModel.from_backbone`, where given.
        mixing: training argument -> value, of the mixture.
        balancing: training argument -> value, of the balancing.
        training: training argument -> value, all others.
        card: what the model card says beside the scores: licence, language, tags, sources of the data.
        text: the YAML; with overrides the YAML that says the same as both.
        source: the file it was read from.
    """

    backbone: str
    tasks: Mapping[str, Task]
    data: Mapping[str, TaskData]
    adapters: Any = None
    sharing: Mapping[str, Any] = field(default_factory=dict)
    mixing: Mapping[str, Any] = field(default_factory=dict)
    balancing: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    source: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> "Recipe":
        """Reads and checks a recipe.

        Args:
            path: the YAML file. Relative paths in it start at its folder, or else at the current one.
            overrides: values to set, by their paths: `{"training.seed": 1, "tasks.intent.weight": 2}`.

        Raises:
            ValueError: no such file, no YAML, or an unknown key or value: names it, and the nearest known.
        """
        path = Path(path)
        values, text = read_document(path)
        check_keys(values, SECTIONS, f"Recipe {str(path)!r}")
        for key, value in (overrides or {}).items():
            check_keys([key.split(".")[0]], SECTIONS, f"Override {key!r}: a recipe")
            set_value(values, key, value)
        if overrides:
            text = dump_document(values, f"{path.name} with {', '.join(overrides)} from the command line")
        tasks = read_tasks(values)
        return cls(
            backbone=read_backbone(values.get("backbone"), path.parent),
            tasks={name: task for name, (task, _) in tasks.items()},
            data={name: TaskData.from_dict(task, data, path.parent) for name, (task, data) in tasks.items()},
            adapters=read_adapters(values.get("adapters")),
            sharing=read_sharing(values.get("adapters")),
            mixing=read_mixing(values.get("mixing"), tasks),
            balancing=read_balancing(values.get("balancing")),
            training=read_training(values.get("training"), tasks, path.parent),
            card=read_card(values.get("card"), tasks),
            text=text,
            source=path,
        )

    def training_arguments(self, output_dir: str | os.PathLike[str]) -> MultiTaskTrainingArguments:
        """The training arguments of all sections.

        Raises:
            ValueError: values that do not go together, or an output_dir that is a file.
        """
        if Path(output_dir).exists() and not Path(output_dir).is_dir():
            raise ValueError(f"output_dir={str(output_dir)!r} is a file: give a folder, which need not exist yet.")
        values = {**self.training}
        if values.get("load_best_model_at_end"):  # its checkpoints and scores must come at the same time
            when = values.get("eval_strategy") or values.get("save_strategy") or "epoch"
            values = {"save_strategy": when, "eval_strategy": when} | values
        return MultiTaskTrainingArguments(
            output_dir=os.fspath(output_dir), **(_TRAINING_DEFAULTS | dict(self.mixing) | dict(self.balancing) | values)
        )

    def load_data(self, splits: Iterable[str] = SPLITS) -> dict[str, dict[str, Any]]:
        """task -> split -> `datasets.Dataset`, of the splits that each has. Raises as `TaskData.load`."""
        splits = list(splits)
        loaded = {name: data.load(splits) for name, data in self.data.items()}
        for name, parts in loaded.items():
            for split, rows in parts.items():
                if missing := [c for c in self.tasks[name].columns() if c not in rows.column_names]:
                    raise ValueError(
                        f"Task {name!r}, split {split!r}: the data has no column {missing[0]!r}. "
                        f"{nearest(missing[0], rows.column_names)} Name the right one in the task's fields."
                    )
        return loaded

    def build_tasks(self, datasets: Mapping[str, Mapping[str, Any]]) -> list[Task]:
        """The tasks with what they learn of their training data (label names); what the recipe says stays.

        Args:
            datasets: what `load_data` gave.

        Raises:
            ValueError: a task has no training data.
        """
        for name in self.tasks:
            if "train" not in datasets.get(name, {}):
                raise ValueError(f"Task {name!r} has no training data. Give it under tasks.{name}.data.train.")
        return [task.learn(datasets[name]["train"]) for name, task in self.tasks.items()]

    def build_model(self, tasks: Iterable[Task]) -> MultiTaskModel:
        """A new model over the backbone."""
        return MultiTaskModel.from_backbone(self.backbone, tasks, adapters=self.adapters, **self.sharing)

    def train(self, output_dir: str | os.PathLike[str], *, resume: bool = False) -> Trained:
        """Trains, scores and saves a model; see `runs.train`."""
        return train(self, output_dir, resume=resume)

    def evaluate(self, model: MultiTaskModel, split: str = "test", *, batch_size: int | None = None) -> Report:
        """Scores a model on the recipe's data; see `runs.evaluate`."""
        return evaluate(self, model, split, batch_size=batch_size)
