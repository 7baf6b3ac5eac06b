"""Rendering: what the template needs, out of the config and what the caller knows."""

import inspect
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path, PurePath
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData

from ..config import MultiTaskConfig
from ..metrics import TaskScores
from ..nearest import nearest
from ..tasks import Task
from .markdown import code, fenced, link, one_line, python_literal, table, text
from .metadata import DECIMALS, HUB_TASKS, DataSet, distinct, eval_results, is_hub_id

__all__ = ["render_card", "write_card"]

LABELS_SHOWN = 3
LONGEST_LABEL = 40  # characters
LONGEST_ANSWER = 160  # characters
# What the card's code asks where nobody gave an example, by the public name of an input.
_SAMPLES: dict[str, Any] = {
    "text": "The Louvre is a museum in Paris.",
    "text_pair": "There are museums in Paris.",
    "question": "Where is the Louvre?",
    "context": "The Louvre is a museum in Paris.",
    "choices": ["In Paris.", "In Rome."],
    "head": [4, 10],  # of the text: "Louvre"
    "tail": [26, 31],  # "Paris"
}
_PEFT_NAMES = {"LORA": "LoRA", "IA3": "IA3"}


def render_card(
    config: MultiTaskConfig,
    *,
    model_id: str | None = None,
    results: TaskScores | None = None,
    baselines: TaskScores | None = None,
    split: str = "test",
    datasets: Mapping[str, str | Mapping[str, Any]] | None = None,
    recipe: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    tags: Sequence[str] = (),
    examples: Mapping[str, tuple[Any, Any]] | None = None,
) -> ModelCard:
    """The model card: metadata for the Hub, with the scores as a `model-index`, and the text below it.

    Args:
        config: the model's config: its tasks, its adapters and its backbone's name.
        model_id: the model's Hub id, as the card's code says it.
        results: task -> metric -> score, 0 to 1; the card has four decimals of it.
        baselines: the same for always giving the commonest answer.
        split: which split of the data the scores are of.
        datasets: task -> its data: a Hub id `owner/name`, another name, or a dict of the fields of `DataSet`
            (`name`, `id`, `config`, `url`, `authors`, `license`, `changes`, `rows`).
        recipe: the YAML that trained the model.
        license: the model's licence, in the Hub's words (`apache-2.0`).
        language: ISO 639 codes.
        tags: more tags for the Hub.
        examples: task -> (what the pipeline was given, what the task answered, or None). Tasks without an
            example get a made-up input.

    Raises:
        ValueError: scores, data or examples of a task that the config lacks, a score that is no finite
            number, or data that `DataSet.of` refuses.
    """
    tasks = config.get_tasks()
    examples = examples or {}
    for what, given in {"datasets": datasets, "examples": examples}.items():
        _check_tasks(what, given or {}, tasks)
    scores = _checked("results", results or {}, tasks)
    chance = _checked("baselines", baselines or {}, tasks)
    data = {name: DataSet.of(name, datasets[name]) for name in tasks if datasets and name in datasets}
    title = _title(model_id, config.backbone_name)
    header = _header(config, title, eval_results(tasks, scores, data, one_line(split)), data)
    header.license = license and one_line(license)
    header.language = [one_line(x) for x in language] if isinstance(language, list) else language and one_line(language)
    header.tags = distinct([*(header.tags or []), *map(one_line, [tags] if isinstance(tags, str) else tags)])
    body = _render(
        title=text(title),
        tasks=[_task(task, examples.get(name)) for name, task in tasks.items()],
        backbone=_backbone(config.backbone_name),
        adapters=_adapters(config.adapters),
        others=_others(config, tasks),
        apart=sorted(set(config.task_adapters or ()) & set(tasks)),
        sharing=text(config.sharing),
        alone=config.sharing == "private" and not config.train_backbone,
        frozen=not config.train_backbone,
        task_table=_task_table(tasks, scores, chance, data),
        score_table=_score_table(scores, chance),
        split=code(split),
        has_scores=bool(scores),
        unscored=[name for name in tasks if name not in scores],
        has_baselines=bool(chance),
        has_labels=any(_labels(task) for task in tasks.values()),
        own_heads=_own_heads(tasks.values()),
        errors=distinct(m for name, values in scores.items() for m in values if m in tasks[name].lower_is_better),
        model=python_literal(model_id or "path/to/this/model"),
        recipe=fenced(recipe, "yaml") if recipe and recipe.strip() else None,
        data={name: dataset.attribution() for name, dataset in data.items()},
    )
    return ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}")


def write_card(folder: str | os.PathLike[str], card: ModelCard) -> Path:
    """Writes the card as the folder's README.md, over the one that may be there, and gives its path."""
    path = Path(folder, "README.md")
    card.save(path)
    return path


def _check_tasks(what: str, given: Mapping[str, Any], tasks: Mapping[str, Task]) -> None:
    for name in given:
        if name not in tasks:
            raise ValueError(f"{what} names a task {name!r} that the config lacks. {nearest(str(name), tasks)}")


def _checked(
    what: str, given: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Task]
) -> dict[str, dict[str, float]]:
    """The scores in the order of the tasks, each task's main metric first; tasks without any are left out."""
    _check_tasks(what, given, tasks)
    found: dict[str, dict[str, float]] = {}
    for name, task in tasks.items():
        values = given.get(name, {})
        for metric, value in values.items():
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"{what}[{name!r}][{metric!r}] must be a finite number, got {value!r}.")
        if values:
            order = sorted(values, key=lambda metric: metric != task.main_metric)
            found[name] = {metric: float(values[metric]) for metric in order}
    return found


def _title(model_id: str | None, backbone: str | None) -> str:
    if model_id:
        return one_line(PurePath(model_id).name) or "multi-task model"
    return f"Multi-task {one_line(PurePath(backbone).name)}" if backbone else "Multi-task model"


def _header(config: MultiTaskConfig, title: str, index: list[Any], data: Mapping[str, DataSet]) -> ModelCardData:
    types = distinct(task.type for task in config.get_tasks().values())
    return ModelCardData(
        library_name="transformers",
        base_model=config.backbone_name if is_hub_id(config.backbone_name) else None,
        pipeline_tag=types[0] if len(types) == 1 and types[0] in HUB_TASKS else None,
        tags=["hf_mtl", "multi-task-learning", *types],
        datasets=distinct(dataset.id for dataset in data.values() if dataset.id) or None,
        metrics=distinct(result.metric_type for result in index) or None,
        model_name=title if index else None,
        eval_results=index or None,
    )


# ---------------------------------------------------------------------- the text


def _render(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_mtl"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja").render(values)


def _backbone(name: str | None) -> str | None:
    if name is None or is_hub_id(name):
        return name and f"the backbone {link(name, f'https://huggingface.co/{name}')}"
    return f"a local backbone, {text(PurePath(name).name)}"  # its folders are nothing for a card


def _adapters(values: Mapping[str, Any] | None) -> str | None:
    if values is None:
        return None
    kind = str(values.get("peft_type", ""))
    rank = f" (r = {values['r']})" if "r" in values else ""
    article = "an" if kind == "IA3" else "a"
    return text(f"{article} {_PEFT_NAMES.get(kind, kind)} adapter{rank}")


def _others(config: MultiTaskConfig, tasks: Iterable[str]) -> list[str]:
    """The tasks that have another adapter than the rest, or none, and which."""
    own = {name: values for name, values in (config.task_adapters or {}).items() if name in tasks}
    alone = "" if config.sharing == "private" else " of its own alone"
    return [f"`{name}` has {'no adapter' if v is None else f'{_adapters(v)}{alone}'}" for name, v in own.items()]


def _own_heads(tasks: Iterable[Task]) -> str:
    """Who has a head: the backbone's language model is the head of tasks that it answers itself."""
    names: dict[bool, list[str]] = {}
    for task in tasks:
        names.setdefault(task.language_model is not None, []).append(f"`{task.name}`")
    written = names.get(True, [])
    if not written:
        return "a head of its own"
    its = f"the backbone's own language model as its head ({', '.join(written)})"
    return f"{its} or a head of its own ({', '.join(names[False])})" if False in names else its.partition(" (")[0]


def _task(task: Task, example: tuple[Any, Any] | None) -> dict[str, Any]:
    inputs = list(task.inputs())
    samples = _SAMPLES | dict(task.sample)
    sample = {name: samples.get(name, "...") for name in inputs}
    given, answer = example or (sample if len(inputs) > 1 else sample[inputs[0]], None)
    shown = python_literal({task.name: answer})
    return {
        "name": task.name,
        "inputs": " and ".join(f"`{name}`" for name in inputs),
        "about": _about(type(task)),
        "example": python_literal(given),
        "answer": None if answer is None else shown[:LONGEST_ANSWER] + "..." * (len(shown) > LONGEST_ANSWER),
    }


def _about(task_type: type[Task]) -> str:
    """A task type in its own words: the first sentence of its docstring, and what that says of the answer."""
    doc = inspect.cleandoc(task_type.__doc__ or "")
    if doc.startswith(f"{task_type.__name__}("):  # the signature, which dataclass puts where there is none
        return ""
    first = re.match(r".*?\.(?=\s|$)", doc, re.DOTALL)
    answer = re.search(r"\bAnswer\b[^\n]*?:.*?(?=\s+Scores\b|\n\n|\Z)", doc, re.DOTALL)
    return one_line(" ".join(found.group() for found in (first, answer) if found))


def _labels(task: Task) -> str:
    labels = task.to_dict().get("labels")
    if not labels or not task.answers_are_labels:
        return ""
    shown = [one_line(label) for label in labels[:LABELS_SHOWN]]
    shown = [code(label[: LONGEST_LABEL - 3] + "..." if len(label) > LONGEST_LABEL else label) for label in shown]
    return f"{len(labels)}: " + ", ".join(shown + ["..."] * (len(labels) > LABELS_SHOWN))


def _task_table(tasks: Mapping[str, Task], scores: TaskScores, chance: TaskScores, data: Mapping[str, DataSet]) -> str:
    main = {name: next(iter(scores.get(name) or chance.get(name) or [""])) for name in tasks}
    columns = {
        "Task": [code(name) for name in tasks],
        "Type": [task.type for task in tasks.values()],
        "Labels": [_labels(task) for task in tasks.values()],
        "Metric": [main[name] and code(main[name]) for name in tasks],
        "Score": [_number(scores.get(name, {}).get(main[name])) for name in tasks],
        "Majority": [_number(chance.get(name, {}).get(main[name])) for name in tasks],
        "Data": [text(data[name].name) if name in data else "" for name in tasks],
    }
    return table(columns, right=("Score", "Majority"))


def _score_table(scores: TaskScores, chance: TaskScores) -> str | None:
    """Every score, where the other table has not got them all."""
    rows = [(name, metric) for name, values in scores.items() for metric in values]
    if len(rows) == len(scores):
        return None
    columns = {
        "Task": [code(name) for name, _ in rows],
        "Metric": [code(metric) for _, metric in rows],
        "Score": [_number(scores[name][metric]) for name, metric in rows],
        "Majority": [_number(chance.get(name, {}).get(metric)) for name, metric in rows],
    }
    return table(columns, right=("Score", "Majority"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{DECIMALS}f}"
