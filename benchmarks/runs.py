"""Runs that take minutes, kept as lines of a file, so that none is made twice; and silence while they are made."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

__all__ = ["keep_run", "quiet_on_one_thread", "read_runs"]


def read_runs(file: Path) -> list[dict[str, Any]]:
    """The runs that were made."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def keep_run(file: Path, run: dict[str, Any]) -> None:
    """Adds a run to the file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(run) + "\n")


def quiet_on_one_thread() -> None:
    """One thread, as processor time is counted; and only the benchmark's own lines."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("hf_mtl").setLevel(logging.ERROR)
