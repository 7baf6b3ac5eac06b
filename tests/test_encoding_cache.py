"""The encoding's cache: a second start of the program finds what the first has encoded, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # this file is also what the processes run

import datasets
import numpy as np
import pytest
from tiny import RECIPE_DATA, read_jsonl
from transformers import AutoConfig, AutoTokenizer

from hf_mtl.backbone import prepare_tokenizer
from hf_mtl.data import encode_dataset
from hf_mtl.tasks import task_class

OWN = Path(__file__).parent / "data"
# task type -> rows, and fields. The first three learn their labels, the last but one nothing.
SAMPLE: dict[str, tuple[Path, dict[str, Any]]] = {
    "text-classification": (RECIPE_DATA / "intent" / "train.jsonl", {}),
    "token-classification": (RECIPE_DATA / "pos" / "train.jsonl", {}),
    "lemmatization": (OWN / "trees.jsonl", {}),
    "question-answering": (RECIPE_DATA / "answer" / "train.jsonl", {"stride": 16, "max_length": 96}),
    "sentence-embedding": (RECIPE_DATA / "answer" / "train.jsonl", {"text": "question", "positive": "context"}),
}


def start(folder: Path, backbone: str, **fields: Any) -> dict[str, dict[str, Any]]:
    """Encodes all of the sample in a new process: task type -> how often `encode` was called, and the cache's file."""
    env = os.environ | {"HF_DATASETS_CACHE": str(folder), "PYTHONHASHSEED": "random", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, backbone, str(folder), json.dumps(fields)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_a_second_start_encodes_nothing_and_another_max_length_all(
    kind: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    first, second = (start(tmp_path, tiny_backbone(kind)) for _ in range(2))
    assert all(found["calls"] == 1 and found["files"] for found in first.values())
    assert all(found["calls"] == 0 for found in second.values())
    assert {k: found["files"] for k, found in first.items()} == {k: found["files"] for k, found in second.items()}
    assert {k: found["features"] for k, found in first.items()} == {k: v["features"] for k, v in second.items()}
    if kind == "bert":
        third = start(tmp_path, tiny_backbone(kind), max_length=90)
        assert all(found["calls"] == 1 for found in third.values())
        assert all(third[k]["files"] != found["files"] for k, found in first.items())


@pytest.mark.parametrize("kind", sorted(SAMPLE))
def test_the_data_set_holds_what_encode_gives(kind: str, tiny_backbone: Any) -> None:
    path, fields = SAMPLE[kind]
    rows = read_jsonl(path, 30)
    tokenizer = prepared(tiny_backbone())
    task = task_class(kind).from_dataset("it", rows, **fields)
    stored = encode_dataset(task, 0, rows, tokenizer, "train").features
    given = task.encode(rows, tokenizer)
    assert [plain(feature) for feature in stored] == [plain(feature) for feature in given]
    # datasets' own choice for these, which files and batches are as large as.
    assert "int32" in str(stored.features["input_ids"]) and "int8" in str(stored.features["token_type_ids"])


def plain(value: Any) -> Any:
    """Arrays and tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def prepared(folder: str) -> Any:
    return prepare_tokenizer(AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder))


def main() -> None:
    """One start of a program: the rows from files, the tokenizer from its folder, the labels learned."""
    backbone, folder, changed = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    datasets.disable_progress_bars()
    tokenizer = prepared(backbone)
    answers = {}
    for kind, (path, fields) in SAMPLE.items():
        small = Path(folder, f"{kind}.jsonl")
        if not small.exists():
            small.write_text("".join(json.dumps(row) + "\n" for row in read_jsonl(path, 30)))
        rows = datasets.load_dataset("json", data_files=str(small))["train"]
        calls: list[int] = []

        class Counted(task_class(kind)):  # type: ignore[misc]
            def encode(self, rows: Any, tokenizer: Any, calls: list[int] = calls) -> Any:
                calls.append(len(rows))
                return super().encode(rows, tokenizer)

        task = Counted.from_dataset("it", rows, **(fields | changed))
        features = encode_dataset(task, 0, rows, tokenizer, "train").features
        answers[kind] = {
            "calls": len(calls),
            "files": [Path(file["filename"]).name for file in features.cache_files],
            "features": json.dumps(features[:]),
        }
    sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
