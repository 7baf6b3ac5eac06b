"""How long many large tasks take to open, from files to the first training step, and what memory they hold.

Run: `python benchmarks/memory.py [--tasks 100] [--rows 1000000] [--each] [--folder DIR]`. `--rows` is of all tasks
together, or of each (`--each`). The rows are made and encoded first, in a process of their own, and kept in the folder
for the next run; what is measured is the second opening of the same data, by the path of every training: `datasets`
-> `MultiTaskTrainer` -> a step of training. The same is done with one task of a few rows, and the difference printed.

Memory is that of one process: `anonymous`, what is its own and cannot be dropped, and `private` (USS), which also
counts pages of mapped files that only it has read, and that the system takes back when it needs them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = [
    "the", "a", "card", "bank", "my", "account", "please", "how", "do", "I", "get", "it", "lost", "new", "money",
    "transfer", "not", "work", "still", "when", "will",
]  # fmt: skip


def memory() -> dict[str, float]:
    """MiB of this process: resident and its own, and of private pages."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value) / 1024
    return {"anonymous": fields["Anonymous"], "private": fields["Private_Clean"] + fields["Private_Dirty"]}


def make_rows(folder: Path, tasks: int, rows: int) -> None:
    """Data sets on disk, of texts with a label: all of one text's length in words by a fixed rule."""
    import datasets
    import numpy as np

    datasets.disable_progress_bars()
    random = np.random.default_rng(0)
    for k in range(tasks):
        path = folder / f"task{k}"
        if path.exists():
            continue
        lengths = random.integers(3, 25, rows)
        words = random.integers(0, len(WORDS), int(lengths.sum()))
        ends = np.cumsum(lengths)
        texts = [" ".join(WORDS[w] for w in words[e - n : e]) for n, e in zip(lengths, ends, strict=True)]
        labels = random.integers(0, 2, rows).tolist()
        names = datasets.ClassLabel(names=["no", "yes"])
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features).save_to_disk(str(path))


def open_all(folder: Path, tasks: int, backbone: str) -> dict[str, float]:
    """Opens the data, takes one training step, and gives seconds and MiB."""
    import datasets

    from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification

    datasets.disable_progress_bars()
    names = [f"task{k}" for k in range(tasks)]
    model = MultiTaskModel.from_backbone(
        backbone, [TextClassification(name=name, labels=("no", "yes")) for name in names]
    )
    with tempfile.TemporaryDirectory() as out:
        args = MultiTaskTrainingArguments(
            out, max_steps=1, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True,
            save_strategy="no", learning_rate=0.0, optim="sgd",
        )  # fmt: skip
        start = time.perf_counter()
        data = {name: datasets.load_from_disk(str(folder / name)) for name in names}
        opened = time.perf_counter() - start
        trainer = MultiTaskTrainer(model, args, train_dataset=data)
        made = time.perf_counter() - start
        trainer.train()
        stepped = time.perf_counter() - start
        found = {"opened": opened, "trainer": made, "first step": stepped} | memory()
        sampler = trainer._sampler
        for stream in sampler.streams:  # as after a while of training: each task has drawn
            stream.draw(0)
        return found | {f"{name} later": value for name, value in memory().items()}


def measured(folder: Path, tasks: int, backbone: str) -> dict[str, float]:
    """`open_all` in a process of its own."""
    code = [sys.executable, __file__, "--folder", str(folder), "--tasks", str(tasks), "--backbone", backbone, "--open"]
    done = subprocess.run(code, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Makes, encodes, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--each", action="store_true", help="--rows is of each task")
    parser.add_argument("--folder", type=Path, help="keeps the data; a temporary one without")
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--open", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        print(json.dumps(open_all(args.folder, args.tasks, args.backbone)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        rows = args.rows if args.each else args.rows // args.tasks
        many, few = folder / f"{args.tasks}x{rows}", folder / "1x64"
        start = time.perf_counter()
        for place, tasks, number in ((many, args.tasks, rows), (few, 1, 64)):
            make_rows(place, tasks, number)
            measured(place, tasks, args.backbone)  # encodes
        print(f"{args.tasks} tasks of {rows:,} rows: made and encoded in {time.perf_counter() - start:.1f} s")
        large, small = (measured(p, n, args.backbone) for p, n in ((many, args.tasks), (few, 1)))
        for name, value in large.items():
            unit = "MiB" if name.startswith(("anonymous", "private")) else "s"
            print(f"{name:20} {value:8.1f} {unit:4} {value - small[name]:8.1f} over one small task")


if __name__ == "__main__":
    main()
