"""A recipe run: all data checked, then trained, scored and saved; or a saved model scored again."""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import set_seed
from transformers.trainer_utils import SaveStrategy

from ..checkpoint_files import faults
from ..data import encode_dataset
from ..disk import check_writable
from ..evaluation import baseline_score
from ..model_card import write_card
from ..modeling import MultiTaskModel
from ..nearest import nearest
from ..tasks import Task
from ..trainer import MultiTaskTrainer
from ..training_args import MultiTaskTrainingArguments
from .data import SPLITS
from .data_options import ALSO

if TYPE_CHECKING:
    from .recipe import Recipe

__all__ = ["Report", "Trained", "evaluate", "train"]

logger = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]
Data = Mapping[str, Mapping[str, Any]]

# What of a recipe's training arguments bears on answering.
_EVALUATION = (
    "per_device_eval_batch_size", "eval_accumulation_steps", "use_cpu", "bf16", "fp16", "bf16_full_eval",
    "fp16_full_eval", "tf32", "dataloader_num_workers", "dataloader_pin_memory", "disable_tqdm", "seed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """Scores on one split.

    Args:
        split: its name.
        scores: task -> metric -> score.
        baselines: the same for always giving the commonest training answer, where that is at hand.
        metrics: `<split>_<task>_<metric>`, `<split>_<task>_loss` and `<split>_mean_score`.
        errors: task -> its metrics that are better when lower.
    """

    split: str
    scores: Scores
    baselines: Scores
    metrics: dict[str, float]
    errors: Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves.

    Args:
        model: the trained model.
        trainer: its trainer.
        reports: split -> scores, of the splits that there are beside the training data.
        output_dir: where the model is.
        is_main: whether this process is the one that saved it.
    """

    model: MultiTaskModel
    trainer: MultiTaskTrainer
    reports: dict[str, Report]
    output_dir: Path
    is_main: bool


def train(recipe: "Recipe", output_dir: str | os.PathLike[str], *, resume: bool = False) -> Trained:
    """Trains the recipe's model, scores it on the validation and test data, and saves it with its card.

    All rows of all splits are encoded before the training begins, and before anything is written.

    Args:
        recipe: the recipe.
        output_dir: gets the model, its tokenizer, its card and the recipe; and checkpoints, where asked for.
        resume: go on from the last complete checkpoint there; where none has been written yet, begin at the start.

    Raises:
        ValueError: the data, or anything else of the recipe, cannot be used; or checkpoints of another run are there.
        OSError: the backbone cannot be had.
    """
    args = recipe.training_arguments(output_dir)
    _check_folder(Path(output_dir), resume)
    check_writable("output_dir", output_dir)
    with args.main_process_first(desc="loading the data"):
        data = recipe.load_data()
    tasks = recipe.build_tasks(data)
    set_seed(args.seed)
    model = recipe.build_model(tasks)
    with args.main_process_first(desc="encoding the data"):
        _encode_all(model, data)
    trainer = MultiTaskTrainer(
        model, args, train_dataset=_split(data, "train"), eval_dataset=_split(data, "validation") or None
    )
    trainer.train(resume_from_checkpoint=resume and _something_to_resume(trainer))
    if trainer.eval_dataset is not None:
        trainer.tune()
    reports = {split: _report(trainer, model.tasks, split, data) for split in SPLITS[1:] if _split(data, split)}
    for report in reports.values():
        trainer.log(dict(report.metrics))
    trained = Trained(
        model=model,
        trainer=trainer,
        reports=reports,
        output_dir=Path(output_dir),
        is_main=trainer.is_world_process_zero(),
    )
    _save(recipe, trained, data)
    return trained


def evaluate(recipe: "Recipe", model: MultiTaskModel, split: str = "test", *, batch_size: int | None = None) -> Report:
    """Scores a model on a split of the recipe's data: the recipe names the columns, the labels are the model's own.

    Args:
        recipe: says where the data are.
        model: a trained model; it may have more tasks than the recipe.
        split: `train`, `validation` (or `dev`) or `test`.
        batch_size: rows in a batch; None: as the recipe says.

    Raises:
        ValueError: no task has the split, the model lacks a task, or the data cannot be used.
    """
    split = ALSO.get(split, split)
    tasks = {name: _reading_columns_of(model.task(name), task) for name, task in recipe.tasks.items()}
    data = _evaluation_data(recipe, split)
    values = {key: value for key, value in recipe.training.items() if key in _EVALUATION}
    if batch_size is not None:
        values["per_device_eval_batch_size"] = batch_size
    with tempfile.TemporaryDirectory() as nowhere:  # the trainer makes its folder, whatever it is to do
        args = MultiTaskTrainingArguments(output_dir=nowhere, report_to="none", save_strategy="no", **values)
        before = dict(model.tasks)
        try:
            for task in tasks.values():
                model.replace_task(task)
            return _report(MultiTaskTrainer(model, args), model.tasks, split, data)
        finally:
            for name in tasks:
                model.replace_task(before[name])


def _reading_columns_of(task: Task, said: Task) -> Task:
    """The model's task, with the columns that the recipe's names, and what that says of answering."""
    if task.type != said.type:
        raise ValueError(f"Task {task.name!r} is of type {said.type!r} in the recipe, and {task.type!r} in the model.")
    columns = {*said.columns(), *said.inputs().values()}
    named = {field.name: getattr(said, field.name) for field in fields(said) if field.name != "name"}
    changed: dict[str, Any] = {k: value for k, value in named.items() if isinstance(value, str) and value in columns}
    defaults = {field.name: field.default for field in fields(said)}
    changed |= {k: named[k] for k in said.of_answering if named[k] != defaults[k]}
    return replace(task, **changed)


def _evaluation_data(recipe: "Recipe", split: str) -> dict[str, dict[str, Any]]:
    """task -> the split, and the training rows for the baselines where they are at hand."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known. {nearest(split, [*SPLITS, *ALSO])}")
    data = {name: source.load([split]) for name, source in recipe.data.items()}
    if not any(data.values()):
        there = {name: source.names() for name, source in recipe.data.items()}
        raise ValueError(f"No task of the recipe has a split {split!r}. There are {there}.")
    for name, parts in data.items():
        if parts and recipe.data[name].there("train"):
            parts |= recipe.data[name].load(["train"])
    return data


def _check_folder(folder: Path, resume: bool) -> None:
    """Says at once what a folder must not have. Which checkpoint a run goes on from, the trainer finds out."""
    found = faults(folder)
    if found and not resume:  # runs are not mixed: a later resume would take whosever checkpoint is last
        raise ValueError(
            f"output_dir {str(folder)!r} has checkpoints of another run, checkpoint-{max(found)} the last. Go on from "
            "it (--resume; in Python Recipe.train(..., resume=True), or the trainer's resume_from_checkpoint=True), "
            "train into another folder, or delete them first."
        )


def _something_to_resume(trainer: MultiTaskTrainer) -> bool:
    """Whether there is a checkpoint to go on from; says so where there is none.

    Who starts a killed job again by the same command need not know how far it had come.
    """
    if trainer.has_checkpoints():
        return True
    if trainer.is_world_process_zero():
        said = f"There is no checkpoint-* in {trainer.args.output_dir!r} yet: the training begins at the start."
        if trainer.args.save_strategy == SaveStrategy.NO:
            said += " Nor will one be kept: for that the recipe says training.save_strategy: epoch, or steps."
        logger.warning(said)
    return False


def _split(data: Data, split: str) -> dict[str, Any]:
    return {name: parts[split] for name, parts in data.items() if split in parts}


def _encode_all(model: MultiTaskModel, data: Data) -> None:
    """Encodes every split under its own name: errors come here, and the trainer finds the results again."""
    for number, (name, task) in enumerate(model.tasks.items()):
        for split, rows in data[name].items():
            if encode_dataset(task, number, rows, model.tokenizer, split).labelled and split != "train":
                task.require_scorers()


def _report(trainer: MultiTaskTrainer, tasks: Mapping[str, Task], split: str, data: Data) -> Report:
    rows = _split(data, split)
    output = trainer.predict(rows, metric_key_prefix=split)
    gold: Any = output.label_ids
    found: Any = output.predictions
    if not gold:
        raise ValueError(f"Split {split!r} of the tasks {list(rows)} has no labels: there is nothing to score.")
    labelled = [name for name in gold if "train" in data[name]]
    baselines = {name: baseline_score(tasks[name], data[name]["train"], rows[name]) for name in labelled}
    return Report(
        split=split,
        scores={name: tasks[name].score(found[name], gold[name]) for name in gold},
        baselines={name: scores for name, scores in baselines.items() if scores is not None},
        metrics=dict(output.metrics or {}),
        errors={name: tasks[name].lower_is_better for name in gold},
    )


def _save(recipe: "Recipe", trained: Trained, data: Data) -> None:
    """The card, the recipe, and last the model, by the trainer, which then pushes to the Hub where asked."""
    config: Any = trained.model.config
    said = recipe.card.get("datasets", {})
    config.card_data = dict(recipe.card) | {
        "recipe": recipe.text,
        "datasets": {
            name: _described(said.get(name) or recipe.data[name].label(), parts) for name, parts in data.items()
        },
    }
    if trained.reports:
        last = list(trained.reports.values())[-1]  # the test split's where there is one
        config.card_data |= {"split": last.split, "results": last.scores, "baselines": last.baselines}
    if trained.is_main:
        write_card(trained.output_dir, trained.model.card())
        copy = trained.output_dir / "recipe.yaml"
        if recipe.source is None or not (copy.exists() and copy.samefile(recipe.source)):
            copy.write_text(recipe.text, encoding="utf-8")
    trained.trainer.save_model()


def _described(label: str | Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": label} if isinstance(label, str) else dict(label)
    return named | {"rows": {split: len(rows) for split, rows in parts.items()}}
