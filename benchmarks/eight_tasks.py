"""Eight tasks of seven kinds in one model: kinds of sharing, mixtures and balancing methods beside one another.

    python benchmarks/eight_tasks.py STUDY --data DATA --results RUNS.jsonl [--arms PART ...] [--seeds 0 1 2]

STUDY is `sharing`, `mixtures`, `balancing`, or `alone`: each task by itself, which the last two are compared with. DATA
holds a folder for each data set, with `train.jsonl`, `dev.jsonl` and `test.jsonl` (or `train.conllu` and `dev.conllu`).
Each task has a size of its own, the largest sixteen times the smallest. Within a study every arm has the same rows,
number of steps, batch and scorer. Every run is a line of
RUNS.jsonl, and what is there already is not run again; the table is printed at the end, and alone with `--table`.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
from peft import LoraConfig
from runs import keep_run, quiet_on_one_thread, read_runs
from transformers import PrinterCallback, set_seed

import hf_mtl
from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, Task
from hf_mtl.balancing import BALANCING_METHODS
from hf_mtl.recipe.data import TaskData

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
TEST = 200
# task -> (folder, its type, training rows)
TASKS: dict[str, tuple[str, Any, int]] = {
    "intent_slots": ("snips", hf_mtl.IntentSlots, 800),
    "sentiment": ("sst2", hf_mtl.TextClassification, 800),
    "pos": ("ud_english_ewt_conllu", hf_mtl.TokenClassification, 400),
    "similarity": ("stsb", hf_mtl.SentenceSimilarity, 400),
    "relation": ("semeval2010_task8", hf_mtl.RelationExtraction, 200),
    "question": ("trec", hf_mtl.TextClassification, 200),
    "topics": ("nlupp_multilabel", hf_mtl.MultiLabelClassification, 100),
    "ner": ("wnut17_ner", hf_mtl.TokenClassification, 50),
}
OPTIONS: dict[str, dict[str, Any]] = {"pos": {"tags": "upos"}}

Arm = tuple[dict[str, Any], dict[str, Any]]  # of `from_backbone`, of the training arguments


def _lora(rank: int) -> dict[str, Any]:
    return {"adapters": LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")}


FULL, ADAPTERS = {"learning_rate": 5e-4}, {"learning_rate": 2e-3}
# Of the studies in which adapters have no part: the upper half of the backbone, in less than half of the time.
UPPER: dict[str, Any] = FULL | {"freeze_layers": 3, "cache_frozen_layers": 1.0}
STUDIES: dict[str, dict[str, Arm]] = {
    "sharing": {
        "none (all of the backbone is trained)": ({}, FULL),
        "private, r=8": (_lora(8), ADAPTERS),
        "private, r=2": (_lora(2), ADAPTERS),
        "private, r=32": (_lora(32), ADAPTERS),
        "private, r=8, first_layer=2": (_lora(8) | {"first_layer": 2}, ADAPTERS),
        "private, r=8, first_layer=4": (_lora(8) | {"first_layer": 4}, ADAPTERS),
        "shared, r=8": (_lora(8) | {"sharing": "shared"}, ADAPTERS),
        "shared, r=32": (_lora(32) | {"sharing": "shared"}, {"learning_rate": 1e-3}),  # it does not learn at 2e-3
        "shared+private, r=8": (_lora(8) | {"sharing": "shared+private"}, ADAPTERS),
        "mtl-lora, r=8": (_lora(8) | {"sharing": "mtl-lora"}, ADAPTERS),
        "poly, r=8": (_lora(8) | {"sharing": "poly"}, ADAPTERS),
        "private, r=8, train_backbone": (_lora(8) | {"train_backbone": True}, FULL),
    },
    "mixtures": {
        "proportional": ({}, UPPER | {"mixing": "proportional"}),
        "temperature 2": ({}, UPPER | {"mixing": "temperature", "temperature": 2.0}),
        "temperature 5": ({}, UPPER | {"mixing": "temperature", "temperature": 5.0}),
        "uniform": ({}, UPPER | {"mixing": "uniform"}),
        "annealed": ({}, UPPER | {"mixing": "annealed"}),
        "unimax": ({}, UPPER | {"mixing": "unimax", "max_repeats": 4}),
        "round_robin": ({}, UPPER | {"mixing": "round_robin"}),
        "adaptive": ({}, UPPER | {"mixing": "adaptive", "eval_strategy": "epoch"}),
    },
    "balancing": {
        name: ({}, UPPER | {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "balancing": name})
        for name in sorted(BALANCING_METHODS)
    },
}


def read_rows(name: str, data: Path) -> dict[str, list[dict[str, Any]]]:
    """split -> rows, the same for every arm and seed."""
    folder, _, rows = TASKS[name]
    place = data / folder
    if (place / "train.conllu").is_file():
        kind = hf_mtl.TokenClassification(name="words", tags="upos")
        files = {"train": str(place / "train.conllu"), "validation": str(place / "dev.conllu")}
        found = TaskData.from_dict(kind, files, data).load()
        splits = {"train": [*found["train"]], "dev": [*found["validation"]][::3], "test": [*found["validation"]][1::3]}
    else:
        splits = {
            split: [json.loads(line) for line in (place / f"{split}.jsonl").read_text("utf-8").splitlines()]
            for split in ("train", "dev", "test")
        }
    most = {"train": rows, "dev": 100, "test": TEST}
    return {
        split: [own[k] for k in sorted(random.Random(0).sample(range(len(own)), min(most[split], len(own))))]
        for split, own in splits.items()
    }


def run(arm: Arm, names: list[str], seed: int, data: Path, epochs: float) -> dict[str, Any]:
    """Trains a model of these tasks and scores it on their test rows."""
    rows = {name: read_rows(name, data) for name in names}
    tasks: list[Task] = [
        TASKS[name][1](name=name, max_length=96, **OPTIONS.get(name, {})).learn(
            datasets.Dataset.from_list([row for own in rows[name].values() for row in own])  # few rows lack labels
        )
        for name in names
    ]
    set_seed(seed)
    making, training = arm
    model = MultiTaskModel.from_backbone(BACKBONE, tasks, **making)
    with tempfile.TemporaryDirectory() as folder:
        args = MultiTaskTrainingArguments(
            output_dir=folder, num_train_epochs=epochs, warmup_steps=0.1, seed=seed, report_to="none", use_cpu=True,
            save_strategy="no", disable_tqdm=True, per_device_eval_batch_size=32,
            **{"per_device_train_batch_size": 16} | training,
        )  # fmt: skip
        trainer = MultiTaskTrainer(
            model,
            args,
            train_dataset={name: own["train"] for name, own in rows.items()},
            eval_dataset={name: own["dev"] for name, own in rows.items()},
        )
        trainer.remove_callback(PrinterCallback)
        start = time.process_time()
        trainer.train()
        taken = time.process_time() - start
        trainer.tune()
        dev, test = (trainer.evaluate({name: own[split] for name, own in rows.items()}) for split in ("dev", "test"))
    counts = model.parameter_counts()
    heads = sum(values["head"] for values in counts.values() if "head" in values)
    learned = sum(values["trainable"] for values in counts.values()) - heads
    main = {name: f"eval_{name}_{model.tasks[name].main_metric}" for name in names}
    return {
        "scores": {name: test[key] for name, key in main.items()},
        "dev": {name: dev[key] for name, key in main.items()},
        "parameters": learned,
        "seconds": round(taken, 1),
    }


def arms_of(study: str) -> dict[str, tuple[Arm, list[str]]]:
    """arm -> what it is, and its tasks: all; of study `alone` each by itself."""
    if study == "alone":
        return {name: (({}, UPPER), [name]) for name in TASKS}
    return {name: (arm, list(TASKS)) for name, arm in STUDIES[study].items()}


def table(study: str, runs: list[dict[str, Any]], seeds: list[int]) -> str:
    """Markdown: an arm a row, the mean over tasks, the worst task against its own single model, each task's score."""
    runs = [run for run in runs if run["seed"] in seeds]
    single: dict[str, list[float]] = {}
    for run in runs if study != "sharing" else []:  # there the whole backbone learns
        if run["study"] == "alone":
            single.setdefault(run["arm"], []).append(run["scores"][run["arm"]])
    alone = {name: statistics.mean(single[name]) for name in TASKS if name in single}
    runs = [run for run in runs if run["study"] == study]
    header = ["", "mean", *TASKS, "trained beside heads, a task", "CPU s"]
    if len(alone) == len(TASKS):
        header.insert(2, "worst against alone")
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in STUDIES.get(study, {}):
        own = [run for run in runs if run["arm"] == name]
        if not own:
            continue
        means = {task: statistics.mean(run["scores"][task] for run in own) for task in TASKS}
        cells = [f"{name} ({len(own)} seeds)", _spread([statistics.mean(run["scores"].values()) for run in own])]
        if len(alone) == len(TASKS):
            worst = min(TASKS, key=lambda task: means[task] - alone[task])
            cells.append(f"{means[worst] - alone[worst]:+.3f} ({worst})")
        cells += [f"{means[task]:.3f}" for task in TASKS]
        cells += [f"{own[0]['parameters'] / len(TASKS):,.0f}", f"{statistics.mean(run['seconds'] for run in own):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if len(alone) == len(TASKS):
        cells = ["each task alone", f"{statistics.mean(alone.values()):.4f}", "", *(f"{v:.3f}" for v in alone.values())]
        lines.append(f"| {' | '.join([*cells, '', ''])} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    """Makes the runs that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES, "alone"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines")
    parser.add_argument("--arms", nargs="*", default=[""], help="parts of names; else all")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, help="in place of an arm's own")
    parser.add_argument("--table", action="store_true", help="only print the table of the runs that there are")
    args = parser.parse_args()

    quiet_on_one_thread()
    chosen = {name: arm for name, arm in arms_of(args.study).items() if any(part in name for part in args.arms)}
    made = {(run["study"], run["arm"], run["seed"]) for run in read_runs(args.results)}
    for seed in [] if args.table else args.seeds:
        for name, (arm, tasks) in chosen.items():
            if (args.study, name, seed) in made:
                continue
            rate = {} if args.learning_rate is None else {"learning_rate": args.learning_rate}
            found = run((arm[0], arm[1] | rate), tasks, seed, args.data, args.epochs)
            keep_run(args.results, {"study": args.study, "arm": name, "seed": seed} | found)
            means = " ".join(f"{part} {statistics.mean(found[part].values()):.4f}" for part in ("scores", "dev"))
            print(f"{time.strftime('%H:%M:%S')} {name:40} seed {seed} {means} CPU {found['seconds']:.0f} s", flush=True)
    print(table(args.study, read_runs(args.results), args.seeds))


if __name__ == "__main__":
    main()
