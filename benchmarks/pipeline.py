"""How much longer 8 tasks take in the pipeline than the tokenizer and the bare backbone take.

The same sentences for both, in batches of like length.
Run: `python benchmarks/pipeline.py [FILE ...]`. A file is CoNLL-U, or JSONL with `tokens` or `text`.
Prints both times (seconds, the medians of runs in turns) and their ratio.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_mtl import MultiTaskModel, MultiTaskPipeline, Task, TextClassification, TokenClassification

HERE = Path(__file__).parent.parent / "recipes" / "data" / "pos"
UPOS = [
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM",
    "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X",
]  # fmt: skip
BIO = ["O", *(f"{mark}-{kind}" for kind in ("person", "location", "group", "product") for mark in "BI")]


def sentences(path: Path) -> Iterator[str]:
    """The sentences of a file, as texts."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if path.suffix == ".conllu":
            if line.startswith("# text = "):
                yield line.removeprefix("# text = ")
        else:
            row = json.loads(line)
            yield " ".join(row["tokens"]) if "tokens" in row else row["text"]


def tasks() -> list[Task]:
    """Four tasks that label a text and four that tag its words; untrained, which takes no less time."""
    texts = {"sentiment": 2, "topic": 4, "question": 6, "intent": 77}
    words = {"upos": UPOS, "fine": [f"T{i}" for i in range(50)], "case": ["lower", "upper"], "entities": BIO}
    return [TextClassification(name=n, labels=tuple(f"L{i}" for i in range(k))) for n, k in texts.items()] + [
        TokenClassification(name=name, labels=tuple(labels)) for name, labels in words.items()
    ]


@torch.inference_mode()
def bare(model: Any, texts: Sequence[str], size: int) -> None:
    """The least that must be done: the tokenizer, and the backbone on batches of texts of like length."""
    encoded = model.tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"]
    encoded.sort(key=len)
    for start in range(0, len(encoded), size):
        batch = model.tokenizer.pad({"input_ids": encoded[start : start + size]}, return_tensors="pt")
        model.backbone(**batch)


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes, once. What it gives is kept until then, as who asked would keep it."""
    start = time.perf_counter()
    given = work()
    taken = time.perf_counter() - start
    del given
    return taken


def main() -> None:
    """Warm up, then let the two take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(HERE.glob("*.jsonl")))
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    texts = [text for path in args.files for text in sentences(path)][: args.sentences]
    model = MultiTaskModel.from_backbone(args.backbone, tasks=tasks(), adapters=None)
    pipe = MultiTaskPipeline(model, batch_size=args.batch_size, device="cpu")
    print(f"{len(texts)} sentences, {len(model.tasks)} tasks, batches of {args.batch_size}")

    pipe(texts[:256])
    bare(model, texts[:256], args.batch_size)
    alone, whole = [], []
    for _ in range(args.runs):
        alone.append(seconds(lambda: bare(model, texts, args.batch_size)))
        whole.append(seconds(lambda: pipe(texts)))
    a, b = statistics.median(alone), statistics.median(whole)
    pairs = statistics.median(w / s for w, s in zip(whole, alone, strict=True))
    print(f"tokenizer and backbone {a:8.3f} s")
    print(f"pipeline               {b:8.3f} s")
    print(f"ratio                  {b / a:8.3f}    (of each turn: {pairs:.3f}; wanted: at most 1.10)")


if __name__ == "__main__":
    main()
