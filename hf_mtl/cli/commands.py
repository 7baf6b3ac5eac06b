"""What the commands do. They import what is slow to import, and they alone print."""

import argparse
import json
import sys
from collections.abc import Iterable
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import answered_line, check_output, naming_lines, read_examples, replacing, to_json

if TYPE_CHECKING:
    from ..modeling import MultiTaskModel
    from ..recipe import Recipe, Report
    from ..tasks import Task

__all__ = ["evaluate", "inspect", "predict", "train"]


def train(options: argparse.Namespace) -> None:
    """Trains a recipe's model, and prints its scores and how to ask it."""
    trained = _recipe(options).train(options.output_dir, resume=options.resume)
    if not trained.is_main:
        return
    print()
    for report in trained.reports.values():
        _print_report(report)
    print(f"The model is in {trained.output_dir}. Ask it:")
    print(f"  hf-mtl predict {trained.output_dir} {_question(trained.model.tasks.values())}")


def evaluate(options: argparse.Namespace) -> None:
    """Prints a saved model's scores, and writes them to a file where asked."""
    check_output(options.output)
    recipe = _recipe(options)
    report = recipe.evaluate(_load(options.model), options.split, batch_size=options.batch_size)
    _print_report(report)
    if options.output is not None:
        with replacing(options.output) as file:
            json.dump(report.metrics, file, indent=2)
            file.write("\n")


def predict(options: argparse.Namespace) -> None:
    """Answers texts, or what a file holds, as they come."""
    if bool(options.texts) == (options.input is not None):
        raise ValueError("Give either texts to answer or --input FILE.")
    if options.input is not None and str(options.input) == "-":
        options.input = Path("/dev/stdin")
    if options.input is not None and (options.input.is_dir() or not options.input.exists()):
        raise ValueError(f"--input {options.input}: no such file.")
    check_output(options.output)
    examples = options.texts if options.input is None else read_examples(options.input)
    generation = None if options.generation is None else _generation(options.generation)
    model = _load(options.model)

    from ..pipeline import MultiTaskPipeline

    tasks = None if options.tasks is None else [name.strip() for name in options.tasks.split(",")]
    said: dict[str, Any] = {"tasks": tasks, "generate_kwargs": generation}
    pipe = MultiTaskPipeline(model, **{name: value for name, value in said.items() if value is not None})
    asked, kept = tee(examples)
    answers = naming_lines(pipe(asked, batch_size=options.batch_size), options.input)
    answered = (answered_line(example, answer) for answer, example in zip(answers, kept, strict=True))
    if options.output is None:
        ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
        for line in answered:
            print(to_json(line, ascii_only=ascii_only))
    else:
        with replacing(options.output) as file:
            file.writelines(to_json(line) + "\n" for line in answered)


def inspect(options: argparse.Namespace) -> None:
    """Prints what a recipe's data are to its tasks."""
    from ..recipe.inspection import inspect_recipe
    from .inspection import report_lines

    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    for line in report_lines(inspect_recipe(_recipe(options), options.rows), ascii_only=ascii_only):
        print(line)


def _question(tasks: Iterable["Task"]) -> str:
    """What a command line asks the tasks: a text, where one of them needs nothing else."""
    texts = [task.sample.get(name, "Some text.") for task in tasks for name in task.inputs() if len(task.inputs()) == 1]
    if not texts:
        return "--input FILE.jsonl"
    return f'"{"Some text." if "Some text." in texts else texts[0]}"'


def _generation(text: str) -> dict[str, Any]:
    from ..recipe import parse_value
    from ..tasks.language_task import check_generation

    options = parse_value(text, f"--generation {text}")
    if not isinstance(options, dict):
        raise ValueError(f"--generation must hold keys and values, as '{{num_beams: 4}}', got {text!r}.")
    check_generation("--generation", options)
    return options


def _recipe(options: argparse.Namespace) -> "Recipe":
    from ..recipe import Recipe, parse_value

    overrides: dict[str, Any] = {} if options.backbone is None else {"backbone": options.backbone}
    for path, value in options.overrides:
        if value is None:
            raise ValueError(f"--{path} needs a value: --{path} VALUE.")
        overrides[path] = parse_value(value, f"--{path} {value}")
    return Recipe.load(options.recipe, overrides)


def _load(name: str) -> "MultiTaskModel":
    """A trained model by its folder or Hub id."""
    from ..bundled import locate_backbone
    from ..modeling import MultiTaskModel

    config = Path(name, "config.json")
    if Path(name).is_dir():
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None
        if kind != MultiTaskModel.config_class.model_type:
            what = f"its config.json is of a {kind!r} model" if config.is_file() else "it has no config.json"
            raise ValueError(f"{name!r} is no folder that `hf-mtl train --output_dir` wrote: {what}.")
    try:
        return MultiTaskModel.from_pretrained(locate_backbone(name, called="Model"))
    except RuntimeError as error:  # transformers' own for weights of other shapes
        raise ValueError(
            f"Model {name!r}: its weights are not of the shapes that config.json says ({error})"
        ) from error


def _print_report(report: "Report") -> None:
    from ..metrics import score_table

    beside = ", beside always giving the commonest answer" if report.baselines else ""
    print(f"Scores on the {report.split} data{beside}")
    print(score_table(report.scores, report.baselines or None, report.errors))
    print(f"mean of the tasks' main metrics: {report.metrics[f'{report.split}_mean_score']:.4f}\n")
