"""Makes the small data sets beside this file from larger JSONL copies of their sources.

    python recipes/data/prepare.py SOURCE_FOLDER [--output FOLDER]

SOURCE_FOLDER holds one folder a source, each with `train.jsonl`, `dev.jsonl` and `test.jsonl`, one record a
line: `banking77` {text, label}, `ud_english_ewt` {tokens, upos, ...}, `wnut17_ner` {tokens, tags} and
`squad_v1_small` {id, context, question, answers}. README.md says where each is from, and its licence.

The choice of rows is a pure function of the source files: the same files give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SEED = 0
LARGEST = 3_000_000  # bytes of all files together: a clone should stay small
SPLITS = {"train": "train", "validation": "dev", "test": "test"}  # our name -> the name of the source file


def sample(rows: list[Row], size: int) -> list[Row]:
    """`size` rows chosen with the fixed seed, in their original order."""
    return [rows[i] for i in sorted(random.Random(SEED).sample(range(len(rows)), min(size, len(rows))))]


def sample_per_label(rows: list[Row], size: int) -> list[Row]:
    """At most `size` rows of each label, in their original order: every class is seen, none dominates."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_label[row["label"]].append(i)
    random_state = random.Random(SEED)
    chosen = [i for _, ids in sorted(by_label.items()) for i in random_state.sample(ids, min(size, len(ids)))]
    return [rows[i] for i in sorted(chosen)]


def intent_row(row: Row) -> Row:
    """A banking77 record as the recipe reads it."""
    return {"text": row["text"], "label": row["label"]}


def tagged(column: str) -> Callable[[Row], Row]:
    """A converter that takes the tags of the tokens from `column`."""
    return lambda row: {"tokens": row["tokens"], "tags": row[column]}


def answer_row(row: Row) -> Row:
    """A SQuAD record as the recipe reads it."""
    return {key: row[key] for key in ("id", "context", "question", "answers")}


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """How one shipped data set is made: its source, how many rows of each split, and what to keep of them."""

    source: str
    sizes: dict[str, int]  # rows of each split; with `per_label`, rows of each label in train
    convert: Callable[[Row], Row]
    text: str  # the column that tells two rows apart
    keep: Callable[[Row], bool] = lambda row: True
    per_label: bool = False


DATA_SETS = {
    # 34 is what the rarest of the 77 intents has; 40 leaves the classes near even.
    "intent": DataSet(
        source="banking77",
        sizes={"train": 40, "validation": 400, "test": 1000},
        convert=intent_row,
        text="text",
        per_label=True,
    ),
    "pos": DataSet(
        source="ud_english_ewt",
        sizes={"train": 2000, "validation": 300, "test": 500},
        convert=tagged("upos"),
        text="tokens",
    ),
    "entities": DataSet(
        source="wnut17_ner",
        sizes={"train": 1000, "validation": 200, "test": 400},
        convert=tagged("tags"),
        text="tokens",
    ),
    # Short paragraphs: the time of a training step grows with them, and so does the size of the file.
    "answer": DataSet(
        source="squad_v1_small",
        sizes={"train": 1500, "validation": 150, "test": 300},
        convert=answer_row,
        text="question",
        keep=lambda row: len(row["context"]) <= 700,
    ),
}


def read_rows(path: Path) -> list[Row]:
    """The records of a JSONL file."""
    with path.open(encoding="utf-8") as lines:  # not splitlines(): it also splits inside a record at U+2028
        return [json.loads(line) for line in lines]


def choose(spec: DataSet, folder: Path) -> dict[str, list[Row]]:
    """The rows of each split; training rows whose text is also in validation or test are left out."""
    read = {split: read_rows(folder / spec.source / f"{name}.jsonl") for split, name in SPLITS.items()}
    rows = {split: [spec.convert(row) for row in found if spec.keep(row)] for split, found in read.items()}
    chosen = {split: sample(rows[split], spec.sizes[split]) for split in ("validation", "test")}
    held_out = {json.dumps(row[spec.text]).lower() for found in chosen.values() for row in found}
    train = [row for row in rows["train"] if json.dumps(row[spec.text]).lower() not in held_out]
    chosen["train"] = (sample_per_label if spec.per_label else sample)(train, spec.sizes["train"])
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the small data sets beside this file.")
    parser.add_argument("source", type=Path, help="folder with one folder of JSONL files a source")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="where they are written")
    arguments = parser.parse_args()

    total = 0
    for name, spec in DATA_SETS.items():
        for split, rows in choose(spec, arguments.source).items():
            lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
            content = "".join(lines).encode("utf-8")
            path = arguments.output / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            total += len(content)
            print(f"{name:10} {split:10} {len(rows):5} rows {len(content):9,} bytes")
    print(f"together {total:,} bytes")
    if total > LARGEST:
        raise SystemExit(f"More than {LARGEST:,} bytes together: choose fewer rows in DATA_SETS.")


if __name__ == "__main__":
    main()
