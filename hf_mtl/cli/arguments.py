"""Arguments -> a command, and its errors -> one line and an exit code. Nothing here is slow to import."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from . import commands

__all__ = ["main"]

_PACKAGE = "hf_mtl"
_USAGE_ERROR, _INTERRUPTED = 2, 130
_OVERRIDES = (
    "Any key of the recipe can be set by its path: --training.learning_rate 3e-5 --mixing.temperature 1 "
    "--tasks.intent.weight 2."
)
# Sections that can be set whole: --adapters null.
_SECTIONS = ("adapters", "balancing", "card", "mixing", "tasks", "training")
_PREDICT = """The input is read by its ending, as a recipe's data are: .jsonl, .json, .csv, .tsv, .parquet, .txt,
.conllu, .conll. A row holds the inputs that a task needs ("text", "text_pair", "question", "context", or the columns
of the training data); a line of JSONL, which stdin must have, may be a string too. Each line of the output is that row
as a JSON object, or {"text": ...}, with one more key, "predictions": {task: answer}, from every task that finds its
inputs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what stands behind `hf-mtl`; None: `sys.argv`.

    Returns:
        The exit code: 0, 2 for what the user can repair (with one line on stderr), 130 for an interrupt.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, overrides = _take_overrides(given) if given[:1] in (["train"], ["evaluate"], ["inspect"]) else (given, [])
    options = _parser().parse_args(given)
    options.overrides = overrides
    try:
        with _logging():
            options.run(options)
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        if options.debug or not isinstance(error, import_module(f"{_PACKAGE}.failures").EXPLAINED):
            raise
        print(f"error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


# ---------------------------------------------------------------------- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-mtl", description="One pretrained backbone, many NLP tasks.", allow_abbrev=False
    )
    version = import_module(_PACKAGE).__version__
    parser.add_argument("--version", action="version", version=f"hf-mtl {version}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="train | evaluate | predict | inspect")

    train = _command(parsers, "train", commands.train, "train a model by a recipe", _OVERRIDES)
    train.add_argument("recipe", metavar="RECIPE.yaml")
    train.add_argument("--output_dir", required=True, metavar="DIR", help="where the model goes")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR, if there is one")
    train.add_argument("--backbone", metavar="NAME", help="another backbone than the recipe's")

    evaluate = _command(parsers, "evaluate", commands.evaluate, "score a model on a recipe's data", _OVERRIDES)
    evaluate.add_argument("model", metavar="DIR", help="folder or Hub id of a trained model")
    evaluate.add_argument("recipe", metavar="RECIPE.yaml")
    evaluate.add_argument("--split", default="test", help="train, validation (or dev) or test (the default)")
    evaluate.add_argument("--output", type=Path, metavar="FILE.json", help="gets all <split>_<task>_<metric>")
    evaluate.add_argument("--batch_size", type=_positive, metavar="N", help="inputs in a batch")

    predict = _command(parsers, "predict", commands.predict, "answer texts, as JSON", _PREDICT)
    predict.add_argument("model", metavar="DIR", help="folder or Hub id of a trained model")
    predict.add_argument("texts", nargs="*", metavar="TEXT")
    predict.add_argument("--input", type=Path, metavar="FILE", help="what to answer, instead of TEXT; -: stdin")
    predict.add_argument("--output", type=Path, metavar="FILE.jsonl", help="gets the answers, not the screen")
    predict.add_argument("--tasks", metavar="A,B", help="the tasks that answer, instead of all that can")
    predict.add_argument(
        "--generation", metavar="OPTIONS", help="how tasks write, instead of as in training: '{num_beams: 4}'"
    )
    predict.add_argument("--batch_size", type=_positive, metavar="N", help="inputs in a batch")

    inspect = _command(
        parsers, "inspect", commands.inspect, "show what a recipe's data are, before training", _OVERRIDES
    )
    inspect.add_argument("recipe", metavar="RECIPE.yaml")
    inspect.add_argument("--rows", type=_positive, default=3, metavar="N", help="examples of each task (3)")
    inspect.add_argument("--backbone", metavar="NAME", help="another backbone than the recipe's")
    return parser


def _command(
    parsers: Any, name: str, run: Callable[[argparse.Namespace], None], about: str, epilog: str
) -> argparse.ArgumentParser:
    command = parsers.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", epilog=epilog, allow_abbrev=False
    )
    command.add_argument("--debug", action="store_true", help="show where an error comes from")
    command.set_defaults(run=run, backbone=None)
    return command


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, got {text!r}")
    return int(text)


def _take_overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """`--a.b value` and `--a.b=value` out of the arguments: argparse would take the value for the recipe."""
    rest: list[str] = []
    found: list[tuple[str, str | None]] = []
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        path, given, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or ("." not in path and path not in _SECTIONS):
            rest.append(argument)
        elif given:
            found.append((path, value))
        else:
            found.append((path, waiting.pop() if waiting and not waiting[-1].startswith("--") else None))
    return rest, found


@contextmanager
def _logging() -> Iterator[None]:
    """Shows what the package logs (where the backbone came from), of several processes the first's."""
    logger = logging.getLogger(_PACKAGE)
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
