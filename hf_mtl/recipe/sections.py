"""The sections of a recipe, each checked: what is wrong is named by its path in the file."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from ..adapters import ADAPTERS, adapter_fields, adapter_from_dict, adapter_to_dict, known_sharing
from ..balancing import BALANCING_METHODS, balancing_options
from ..mixing import MIXING_RULES, Mixture
from ..model_card import DataSet
from ..nearest import nearest
from ..tasks import Task, task_class, task_from_dict
from ..training_args import MultiTaskTrainingArguments
from .values import check_keys, fit, mapping

__all__ = [
    "read_adapters",
    "read_backbone",
    "read_balancing",
    "read_card",
    "read_mixing",
    "read_sharing",
    "read_tasks",
    "read_training",
]

# Key of `mixing:` -> training argument. They have a section of their own, so `training:` has not got them.
MIXING = {
    "strategy": "mixing", "temperature": "temperature", "cap": "cap", "share_rows": "share_rows",
    "weights": "mixing_weights", "references": "mixing_references", "max_repeats": "max_repeats",
    "batch_sizes": "batch_sizes", "max_tokens_per_batch": "max_tokens_per_batch", "length_group": "length_group",
    "batching": "batching",
}  # fmt: skip
# Keys of `mixing:` that hold a value a task, and of what kind it is.
_BY_TASK = {"weights": float | str, "references": float, "batch_sizes": int}
# Fields of section `adapters` that are not of the peft config -> type.
SHARING = {"sharing": str, "sharing_options": dict, "first_layer": int, "train_backbone": bool}
# What people call settings of an adapter -> peft's names, of which the likest in letters would be others.
_PEFT_NAMES = {
    "rank": "r", "lora_r": "r", "lora_rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "target": "target_modules", "targets": "target_modules", "modules": "target_modules",
}  # fmt: skip
# Keys of `training:` that may hold a value a task.
_BY_TASK_OR_NUMBER = {"teachers": str, "r_drop": float}
CARD = ("license", "language", "tags", "datasets")
# Keys of `training:` that hold a value a name, and of what kind it is.
_BY_NAME = {"learning_rates": float, "unfreezing": int}
# Said on the command line, where they change from run to run.
_NOT_TRAINING = {"output_dir", "resume_from_checkpoint", *MIXING.values(), "balancing", "balancing_options"}


def read_backbone(value: Any, folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"backbone must be a Hub id or a folder, got {value!r:.60}.")
    return _beside(value, folder)


def _beside(value: str, folder: Path) -> str:
    """A folder beside the recipe where there is such a one; else a folder, or Hub id, as it is."""
    beside = folder / Path(value).expanduser()
    return str(beside) if beside.is_dir() else value


def read_tasks(values: Mapping[str, Any]) -> dict[str, tuple[Task, Any]]:
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


def read_card(value: Any, tasks: Iterable[str]) -> dict[str, Any]:
    """What the model card says that no run can know: licence, language, tags, and where each task's data is from."""
    given = {} if value is None else mapping(value, "card")
    check_keys(given, CARD, "card")
    data = mapping(given.get("datasets") or {}, "card.datasets")
    check_keys(data, tasks, "card.datasets")
    given["datasets"] = {name: mapping(entry, f"card.datasets.{name}") for name, entry in data.items()}
    for name, entry in given["datasets"].items():
        DataSet.of(name, entry)
    return given


def read_adapters(value: Any) -> Any:
    if value is None:
        return None
    given = mapping(value, "adapters")
    kind = given.pop("type", None)
    if kind not in ADAPTERS:
        raise ValueError(f"adapters.type={kind!r} is not known. {nearest(str(kind), ADAPTERS)} null: no adapters.")
    known = adapter_fields(kind)
    check_keys(given, [*known, *SHARING], "adapters", _PEFT_NAMES)
    given = {key: v for key, v in given.items() if key not in SHARING}
    given = {key: fit(v, known[key], f"adapters.{key}") for key, v in given.items()}
    adapters = adapter_from_dict({"peft_type": kind, **given})
    adapter_to_dict(adapters)  # refuses what cannot be kept for each task
    return adapters


def read_sharing(value: Any) -> dict[str, Any]:
    """What section `adapters` says beside peft's fields: who shares them, where they begin, what learns with them."""
    given = {} if value is None else mapping(value, "adapters")
    values = {key: fit(given[key], kind, f"adapters.{key}") for key, kind in SHARING.items() if key in given}
    if given:
        known_sharing(values.get("sharing", "private"), values.get("sharing_options"), read_adapters(value))
    return values


def read_mixing(value: Any, tasks: Iterable[str]) -> dict[str, Any]:
    given = mapping(value, "mixing")
    check_keys(given, MIXING, "mixing")
    strategy = given.setdefault("strategy", "weights") if given.get("weights") else given.get("strategy", "temperature")
    if not isinstance(strategy, str) or strategy not in MIXING_RULES:
        raise ValueError(f"mixing.strategy={strategy!r} is not known. {nearest(str(strategy), MIXING_RULES)}")
    hints = get_type_hints(MultiTaskTrainingArguments)
    for key in [key for key in _BY_TASK if given.get(key) is not None]:
        by_task = mapping(given[key], f"mixing.{key}")
        if not given.get("share_rows"):  # with it, tasks that share their rows have one name together
            check_keys(by_task, tasks, f"mixing.{key}")
        given[key] = {task: fit(v, _BY_TASK[key], f"mixing.{key}.{task}") for task, v in by_task.items()}
    values = {MIXING[key]: fit(v, hints[MIXING[key]], f"mixing.{key}") for key, v in given.items()}
    if values.get("temperature", 1) < 1:
        raise ValueError(f"mixing.temperature={values['temperature']} must be 1 (proportional to size) or more.")
    if values.get("cap") is not None and values["cap"] < 1:
        raise ValueError(f"mixing.cap={values['cap']} must be 1 row or more, or null for no cap.")
    options = {"weights": "mixing_weights", "references": "mixing_references", "max_repeats": "max_repeats"}
    fields = {name: values[a] for name, a in options.items() if a in values}
    Mixture(strategy=strategy, called={name: f"mixing.{name}" for name in ("strategy", *options)}, **fields)
    return values


def read_balancing(value: Any) -> dict[str, Any]:
    given = mapping(value, "balancing")
    method = given.pop("method", "static")
    if method not in BALANCING_METHODS:
        raise ValueError(
            f"balancing.method={method!r} is not known. {nearest(str(method), BALANCING_METHODS)} "
            "static: each task's loss counts by its `weight`."
        )
    known = balancing_options(method)
    check_keys(given, ["method", *known], f"balancing (method {method})")
    options = {key: fit(v, known[key], f"balancing.{key}") for key, v in given.items()}
    return {"balancing": method, "balancing_options": options or None}


def read_training(value: Any, tasks: Iterable[str] = (), folder: Path = Path()) -> dict[str, Any]:
    given = mapping(value, "training")
    for key, argument in MIXING.items():
        if argument in given:
            raise ValueError(f"training.{argument}: the mixture has its own section, write it as mixing.{key}.")
    if "balancing" in given or "balancing_options" in given:
        raise ValueError(
            "training.balancing: it has its own section, write it as `balancing: {method: ...}`, options beside it."
        )
    if "output_dir" in given or "resume_from_checkpoint" in given:
        raise ValueError(
            "training.output_dir and resume_from_checkpoint come with the command: --output_dir, --resume."
        )
    known = [f.name for f in dataclasses.fields(MultiTaskTrainingArguments) if f.name not in _NOT_TRAINING]
    check_keys(given, known, "training")
    hints = get_type_hints(MultiTaskTrainingArguments)
    for key in [key for key in _BY_TASK_OR_NUMBER if isinstance(given.get(key), Mapping)]:
        check_keys(given[key], tasks, f"training.{key}")
        kind = _BY_TASK_OR_NUMBER[key]
        given[key] = {task: fit(v, kind, f"training.{key}.{task}") for task, v in given[key].items()}
    if isinstance(given.get("teachers"), Mapping):
        given["teachers"] = {task: _beside(where, folder) for task, where in given["teachers"].items()}
    for key in [key for key in _BY_NAME if given.get(key) is not None]:
        by_name = mapping(given[key], f"training.{key}")
        given[key] = {str(name): fit(v, _BY_NAME[key], f"training.{key}.{name}") for name, v in by_name.items()}
    return {key: fit(v, hints[key], f"training.{key}") for key, v in given.items()}
