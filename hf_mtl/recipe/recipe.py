"""Recipe: a YAML file, checked, as the objects of a training."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from ..adapters import adapter_fields, adapter_from_dict, adapter_to_dict
from ..mixing import MIXING_RULES
from ..modeling import MultiTaskModel
from ..tasks import Task, task_class, task_from_dict
from ..tasks.base import nearest
from ..training_args import MultiTaskTrainingArguments
from .data import SPLITS, TaskData
from .document import dump_document, read_document, set_value
from .runs import Report, Trained, evaluate, train
from .values import check_keys, fit, mapping

__all__ = ["SECTIONS", "Recipe"]

SECTIONS = ("backbone", "tasks", "adapters", "mixing", "balancing", "training")
# `mixing:` in a recipe -> the training argument. They have their own section, so `training:` has not got them.
MIXING = {"strategy": "mixing", "temperature": "temperature", "cap": "cap"}
ADAPTERS = ("lora",)
BALANCING = ("static",)
# Said on the command line, where they change from run to run.
_NOT_TRAINING = {"output_dir", "resume_from_checkpoint", *MIXING.values()}
# Nothing is reported, kept or evaluated on the way unless the recipe says so: that is time, space and accounts.
_TRAINING_DEFAULTS = {"report_to": "none", "save_strategy": "no", "eval_strategy": "no"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training is made of, checked as far as it can be without its data.

    Args:
        backbone: Hub id or folder.
        tasks: name -> task, its labels not yet learned.
        data: name -> where the task's rows are.
        adapters: a `peft.LoraConfig`, or None: the tasks share the whole backbone.
        mixing: training argument -> value, of the mixture.
        balancing: how the tasks' losses become one step.
        training: training argument -> value, all others.
        text: the YAML; with overrides the YAML that says the same as both.
        source: the file it was read from.
    """

    backbone: str
    tasks: Mapping[str, Task]
    data: Mapping[str, TaskData]
    adapters: Any = None
    mixing: Mapping[str, Any] = field(default_factory=dict)
    balancing: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    source: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> "Recipe":
        """Reads and checks a recipe.

        Args:
            path: the YAML file. Relative paths in it start at its folder, or else at the current one.
            overrides: values to set, by their paths: `{"training.learning_rate": 3e-5, "tasks.intent.weight": 2}`.

        Raises:
            ValueError: no such file, no YAML, or a key or value that is not known: names it, and the nearest known.
        """
        path = Path(path)
        values, text = read_document(path)
        check_keys(values, SECTIONS, f"Recipe {str(path)!r}")
        for key, value in (overrides or {}).items():
            check_keys([key.split(".")[0]], SECTIONS, f"Override {key!r}: a recipe")
            set_value(values, key, value)
        if overrides:
            text = dump_document(values, f"{path.name} with {', '.join(overrides)} from the command line")
        tasks = _tasks(values)
        return cls(
            backbone=_backbone(values.get("backbone"), path.parent),
            tasks={name: task for name, (task, _) in tasks.items()},
            data={name: TaskData.from_dict(name, data, path.parent) for name, (_, data) in tasks.items()},
            adapters=_adapters(values.get("adapters")),
            mixing=_mixing(values.get("mixing")),
            balancing=_balancing(values.get("balancing")),
            training=_training(values.get("training")),
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
            output_dir=os.fspath(output_dir), **(_TRAINING_DEFAULTS | dict(self.mixing) | values)
        )

    def load_data(self, splits: Iterable[str] = SPLITS) -> dict[str, dict[str, Any]]:
        """task -> split -> `datasets.Dataset`, for the splits that each task has. Raises as `TaskData.load`."""
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
        return MultiTaskModel.from_backbone(self.backbone, tasks, adapters=self.adapters)

    def train(self, output_dir: str | os.PathLike[str], *, resume: bool = False) -> Trained:
        """Trains, scores and saves a model; see `runs.train`."""
        return train(self, output_dir, resume=resume)

    def evaluate(self, model: MultiTaskModel, split: str = "test", *, batch_size: int | None = None) -> Report:
        """Scores a model on the recipe's data; see `runs.evaluate`."""
        return evaluate(self, model, split, batch_size=batch_size)


def _backbone(value: Any, folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"backbone must be a Hub id or a folder, got {value!r:.60}.")
    beside = folder / Path(value).expanduser()
    return str(beside) if beside.is_dir() else value


def _tasks(values: Mapping[str, Any]) -> dict[str, tuple[Task, Any]]:
    given = mapping(values.get("tasks"), "tasks")
    if not given:
        raise ValueError("tasks is empty: name at least one, as in `tasks: {intent: {type: ..., data: ...}}`.")
    return {name: _task(name, entry) for name, entry in given.items()}


def _task(name: Any, entry: Any) -> tuple[Task, Any]:
    fields = mapping(entry, f"tasks.{name}")
    if "name" in fields:
        raise ValueError(f"tasks.{name} has a key 'name': a task's name is the key that it stands under.")
    if "data" not in fields:
        raise ValueError(f"tasks.{name} has no 'data' (it has {list(fields)}): say where its rows are.")
    data = fields.pop("data")
    if "type" in fields:
        kind = task_class(str(fields["type"]))
        hints = get_type_hints(kind)
        for key in [f.name for f in dataclasses.fields(kind) if f.name in fields]:
            fields[key] = fit(fields[key], hints[key], f"tasks.{name}.{key}")
    return task_from_dict({"name": name, **fields}), data


def _adapters(value: Any) -> Any:
    if value is None:
        return None
    given = mapping(value, "adapters")
    kind = given.pop("type", None)
    if kind not in ADAPTERS:
        raise ValueError(f"adapters.type={kind!r} is not known. {nearest(str(kind), ADAPTERS)} null: no adapters.")
    known = adapter_fields()
    check_keys(given, known, "adapters")
    adapters = adapter_from_dict({key: fit(v, known[key], f"adapters.{key}") for key, v in given.items()})
    adapter_to_dict(adapters)  # refuses what cannot be kept for each task
    return adapters


def _mixing(value: Any) -> dict[str, Any]:
    given = mapping(value, "mixing")
    check_keys(given, MIXING, "mixing")
    strategy = given.get("strategy", "temperature")
    if strategy not in MIXING_RULES:
        raise ValueError(f"mixing.strategy={strategy!r} is not known. {nearest(str(strategy), MIXING_RULES)}")
    hints = get_type_hints(MultiTaskTrainingArguments)
    values = {MIXING[key]: fit(v, hints[MIXING[key]], f"mixing.{key}") for key, v in given.items()}
    if values.get("temperature", 1) < 1:
        raise ValueError(f"mixing.temperature={values['temperature']} must be 1 (proportional to size) or more.")
    if (values.get("cap") or 1) < 1:
        raise ValueError(f"mixing.cap={values['cap']} must be 1 row or more, or null for no cap.")
    return values


def _balancing(value: Any) -> dict[str, Any]:
    given = mapping(value, "balancing")
    check_keys(given, ["method"], "balancing")
    method = given.get("method", "static")
    if method not in BALANCING:
        raise ValueError(
            f"balancing.method={method!r} is not known. {nearest(str(method), BALANCING)} "
            "static: each task's loss counts by its `weight`."
        )
    return given


def _training(value: Any) -> dict[str, Any]:
    given = mapping(value, "training")
    for key, argument in MIXING.items():
        if argument in given:
            raise ValueError(f"training.{argument}: the mixture has its own section, write it as mixing.{key}.")
    if "output_dir" in given or "resume_from_checkpoint" in given:
        raise ValueError("training.output_dir and resume_from_checkpoint come with the command: --output_dir, --resume.")
    known = [f.name for f in dataclasses.fields(MultiTaskTrainingArguments) if f.name not in _NOT_TRAINING]
    check_keys(given, known, "training")
    hints = get_type_hints(MultiTaskTrainingArguments)
    return {key: fit(v, hints[key], f"training.{key}") for key, v in given.items()}
