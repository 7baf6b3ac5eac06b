"""How fast each task type encodes its rows, beside the bare tokenizer.

    python benchmarks/encoding.py [TYPE ...] [--data FOLDER] [--rows N] [--turns N] [--backbone NAME]

Printed for each type: seconds of the tokenizer's own batch call over the same texts (the medians of turns), and its
time over that of `task.encode` (labels included), and over that of `encode_dataset` into an empty cache. 1 is as fast
as the tokenizer; the goal of `task.encode` is at least 0.8.

FOLDER holds rows as `<task type>.jsonl`; types that it lacks take the repository's own rows, which are fewer.
`TOKENIZERS_PARALLELISM=true` lets the tokenizer use all cores; without it one is used.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before the tokenizer is made

import datasets
from transformers import AutoConfig, AutoTokenizer

from hf_mtl.backbone import prepare_tokenizer
from hf_mtl.bundled import locate_backbone
from hf_mtl.data import encode_dataset
from hf_mtl.tasks import task_class
from hf_mtl.tasks.word_tasks import WordTask

ROOT = Path(__file__).parent.parent
QUICKSTART, OWN = ROOT / "recipes" / "data", ROOT / "tests" / "data"
# task type -> the repository's rows, and the fields that fit them.
ROWS: dict[str, tuple[Path, dict[str, Any]]] = {
    "text-classification": (QUICKSTART / "intent" / "train.jsonl", {}),
    "soft-label-classification": (QUICKSTART / "intent" / "train.jsonl", {}),
    "multi-label-classification": (OWN / "intents.jsonl", {}),
    "regression": (QUICKSTART / "answer" / "train.jsonl", {}),
    "sentence-similarity": (QUICKSTART / "answer" / "train.jsonl", {}),
    "sentence-embedding": (QUICKSTART / "answer" / "train.jsonl", {}),
    "multiple-choice": (QUICKSTART / "answer" / "train.jsonl", {}),
    "question-answering": (QUICKSTART / "answer" / "train.jsonl", {"max_length": 384}),
    "token-classification": (QUICKSTART / "pos" / "train.jsonl", {}),
    "intent-slots": (QUICKSTART / "entities" / "train.jsonl", {}),
    "relation-extraction": (OWN / "relations.jsonl", {}),
    "joint-relation-extraction": (OWN / "joint_relations.jsonl", {}),
    "dependency-parsing": (OWN / "trees.jsonl", {}),
    "lemmatization": (OWN / "trees.jsonl", {}),
    "morphological-tagging": (OWN / "trees.jsonl", {}),
}
MAX_LENGTH = 128


def as_needed(kind: str, row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row of other data in the columns of a type that the repository has no rows for."""
    if kind == "soft-label-classification" and isinstance(row["label"], str):
        return row | {"label": {row["label"]: 0.75, "none of them": 0.25}}
    if kind in ("regression", "sentence-similarity") and "score" not in row:
        return {"text": row["question"], "text_pair": row["context"], "score": number % 7}
    if kind == "sentence-embedding" and "positive" not in row:
        return {"text": row.get("text", row.get("question")), "positive": row.get("text_pair", row.get("context"))}
    if kind == "multiple-choice" and "choices" not in row:
        return {"question": row["question"], "choices": [*row["context"].split(". ")[:4], "none"], "label": 0}
    if kind == "intent-slots" and "intent" not in row:
        return row | {"intent": "short" if len(row["tokens"]) < 12 else "long"}
    return row


def read(kind: str, folder: Path | None, number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    path, fields = ROWS[kind]
    if folder is not None and (folder / f"{kind}.jsonl").is_file():
        path = folder / f"{kind}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:number]
    rows = [as_needed(kind, json.loads(line), i) for i, line in enumerate(lines)]
    if kind in ("text-classification", "soft-label-classification", "regression", "sentence-similarity"):
        fields = fields | ({"text_pair": "text_pair"} if "text_pair" in rows[0] else {})
    return rows, fields


def bare_call(task: Any, rows: list[dict[str, Any]], tokenizer: Any) -> Callable[[], Any]:
    """The tokenizer's own call that the type needs: on texts, on pairs, on words, or on windows of a context."""
    limit: dict[str, Any] = {"truncation": True, "max_length": task.limit(tokenizer), "verbose": False}
    if isinstance(task, WordTask) or task.type == "relation-extraction":
        words = [row["tokens"] for row in rows]
        return lambda: tokenizer(words, is_split_into_words=True, **limit)
    if task.type == "question-answering":
        questions, contexts = ([row[column] for row in rows] for column in ("question", "context"))
        windows = {"return_overflowing_tokens": True, "return_offsets_mapping": True, "stride": task.stride}
        return lambda: tokenizer(questions, contexts, **(limit | windows | {"truncation": "only_second"}))
    if task.type == "multiple-choice":
        first = [row["question"] for row in rows for _ in row["choices"]]
        second = [choice for row in rows for choice in row["choices"]]
        return lambda: tokenizer(first, second, **limit)
    if task.type == "sentence-embedding":  # texts by themselves
        names = [column for column in ("text", "positive") if column in rows[0]]
        texts = [row[name] for row in rows for name in names]
        return lambda: tokenizer(texts, **limit)
    texts = [row["text"] for row in rows]
    pairs = [row["text_pair"] for row in rows] if getattr(task, "text_pair", None) else None
    return lambda: tokenizer(texts, pairs, **limit)


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes, once. What it gives is kept until then, as who asked would keep it.

    On one core what counts is the processor's time: others may use the machine.
    """
    clock = time.process_time if os.environ["TOKENIZERS_PARALLELISM"] == "false" else time.perf_counter
    gc.collect()
    start = clock()
    given = work()
    taken = clock() - start
    del given
    return taken


def measure(kind: str, rows: list[dict[str, Any]], fields: dict[str, Any], tokenizer: Any, turns: int) -> None:
    """Warms up, lets the three take turns, and prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = datasets.load_dataset("json", data_files=str(path), cache_dir=folder)["train"]
        task = task_class(kind).from_dataset("it", data, **({"max_length": MAX_LENGTH} | fields))
        bare = bare_call(task, rows, tokenizer)
        times: list[tuple[float, float, float]] = []
        for _ in range(turns + 1):  # the first warms up
            data.cleanup_cache_files()
            work = (bare, lambda: task.encode(rows, tokenizer), lambda: encode_dataset(task, 0, data, tokenizer, "t"))
            times.append(tuple(map(seconds, work)))
    ratios = [statistics.median(turn[0] / turn[i] for turn in times[1:]) for i in (1, 2)]
    alone = statistics.median(turn[0] for turn in times[1:])
    print(f"{kind:27} {len(rows):6} {alone:10.3f} {ratios[0]:10.2f} {ratios[1]:14.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="task types; all where none is named")
    parser.add_argument("--data", type=Path, help="folder of <task type>.jsonl")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    args = parser.parse_args()
    if unknown := set(args.types) - set(ROWS):
        sys.exit(f"No rows are known for {sorted(unknown)}. Known: {sorted(ROWS)}.")

    datasets.disable_progress_bars()
    where = locate_backbone(args.backbone)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(where), AutoConfig.from_pretrained(where))
    print(f"{'task type':27} {'rows':>6} {'tokenizer':>10} {'encode':>10} {'encode_dataset':>14}")
    for kind in args.types or ROWS:
        rows, fields = read(kind, args.data, args.rows)
        measure(kind, rows, fields, tokenizer, args.turns)


if __name__ == "__main__":
    main()
