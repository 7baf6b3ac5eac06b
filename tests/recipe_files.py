"""A small recipe of three tasks with its data, written into a folder."""

import json
from pathlib import Path
from typing import Any

import yaml
from tiny import RECIPE_DATA, read_jsonl

LABELS = ("card_arrival", "card_linking")
TRAINING = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "use_cpu": True}
TRAINING |= {"disable_tqdm": True}


def some_rows(task: str, split: str, number: int = 8) -> list[dict[str, Any]]:
    """The first rows of the quickstart's data; of the intents two, in turn."""
    rows = read_jsonl(RECIPE_DATA / task / f"{split}.jsonl")
    if task == "intent":
        by_label = [[row for row in rows if row["label"] == label] for label in LABELS]
        rows = [row for pair in zip(*by_label, strict=False) for row in pair]
    return rows[:number]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe_values(folder: Path, backbone: str) -> dict[str, Any]:
    """The values of a recipe whose data lie in the folder."""
    for task in ("intent", "pos", "answer"):
        for split in ("train", "validation", "test"):
            write_jsonl(folder / task / f"{split}.jsonl", some_rows(task, split))

    def data(task: str) -> dict[str, str]:
        return {split: f"{task}/{split}.jsonl" for split in ("train", "validation", "test")}

    return {
        "backbone": backbone,
        "tasks": {
            "intent": {"type": "text-classification", "data": data("intent")},
            "pos": {"type": "token-classification", "data": data("pos")},
            "answer": {"type": "question-answering", "data": data("answer"), "max_length": 64, "stride": 16},
        },
        "adapters": {"type": "lora", "r": 2, "target_modules": "all-linear"},
        "mixing": {"strategy": "uniform"},
        "training": dict(TRAINING),
    }


def write_recipe(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path
