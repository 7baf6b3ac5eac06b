"""Each task type beside the ordinary way of training it: the same rows, backbone, budget and scorer, several seeds.

`python benchmarks/task_types.py --data DATA --results RUNS.jsonl [--cases trec snips ...] [--seeds 0 1 2]`

DATA holds a folder for each data set, with `train.jsonl`, `dev.jsonl` and `test.jsonl` (or `train.conllu` and
`dev.conllu`, the latter parted into dev and test). Both ways have a case's learning rate, or in turn those of
`--rates`; the table is of one rate. Every run is a line of RUNS.jsonl, and what is
there already is not run again. The table is printed at the end, and alone with `--table`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from ordinary import Budget, LabelWay, Way
from ordinary.budget import arguments
from ordinary.case import Case, read_rows
from ordinary.cases import CASES, names
from ordinary.soft_labels import softmax
from runs import keep_run, quiet_on_one_thread, read_runs
from transformers import PrinterCallback, set_seed

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, Task
from hf_mtl.bundled import locate_backbone

LOWER_IS_BETTER = ("kl_divergence",)
TEACHER_TEMPERATURE = 2.0


class Ours:
    """A model of one task, fully trained by MultiTaskTrainer.

    Args:
        task: the task.
        case: what is compared.
        budget: what may be spent.
        settings: more training arguments.
        validation: rows that thresholds are chosen on, of task types that have them.
    """

    def __init__(self, task: Task, case: Case, budget: Budget, settings: dict[str, Any], validation: Any):
        self.task, self.case, self.budget, self.settings = task, case, budget, settings
        self.validation = validation
        self.model = MultiTaskModel.from_backbone(budget.backbone, [task])
        self.trainer: MultiTaskTrainer | None = None

    def fit(self, rows: Any) -> None:
        """Encodes the rows and trains on them."""
        args = arguments(self.budget, MultiTaskTrainingArguments, **self.settings)
        self.trainer = MultiTaskTrainer(self.model, args, train_dataset={self.task.name: rows})
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.train()
        self.trainer.tune({self.task.name: self.validation})

    def answer(self, rows: Any) -> list[Any]:
        """A plain answer for each row. The gold answers are not shown."""
        if self.trainer is None:
            raise RuntimeError("fit comes before answer.")
        columns = [*self.task.inputs().values(), *self.case.given]
        shown = [{column: row[column] for column in columns} for row in rows]
        found: Any = self.trainer.predict({self.task.name: shown}).predictions
        return [self.case.plain(prediction) for prediction in found[self.task.name]]


def way_of(case: Case, way: str, rows: dict[str, Any], budget: Budget) -> Way:
    """One of a case's ways, ready to be trained."""
    set_seed(budget.seed)
    if way in case.theirs:
        return case.theirs[way](budget, rows["train"])
    task = case.ours[way](name="task", max_length=budget.max_length).learn(datasets.Dataset.from_list(rows["train"]))
    return Ours(task, case, budget, case.settings.get(way, {}), rows["dev"])


def run(case: Case, way: str, rows: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Trains and answers; scores on both parts, and CPU seconds (loading the model is not counted)."""
    trained = way_of(case, way, rows, budget)
    start = time.process_time()
    trained.fit(rows["train"])
    training = time.process_time() - start
    scores = {}
    for split in ("dev", "test"):
        start = time.process_time()
        answers = trained.answer(rows[split])
        answering = time.process_time() - start
        scores[split] = case.score(answers, [case.gold(row) for row in rows[split]])
    return scores | {"training_seconds": round(training, 1), "test_seconds": round(answering, 1)}


def soft_labels(data: Path, folder: Path, backbone: str) -> None:
    """Writes the distributions of a teacher, an ordinary classifier, for TREC's questions that it has not seen."""
    source, target = data / "trec", folder / "soft_trec"
    if (target / "test.jsonl").is_file():
        return
    parts = {
        split: [json.loads(line) for line in (source / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in ("train", "dev", "test")
    }
    seen, parts["train"] = parts["train"][::2], parts["train"][1::2]
    budget = Budget(backbone=backbone, epochs=2, batch_size=8, rate=1e-4, max_length=128, seed=0)
    set_seed(0)
    teacher = LabelWay(budget, names(seen, "label"))
    teacher.fit(seen)
    target.mkdir(parents=True, exist_ok=True)
    for split, rows in parts.items():
        shares = softmax(teacher.logits(rows) / TEACHER_TEMPERATURE)
        lines = [
            json.dumps({"text": row["text"], "label": [round(x, 6) for x in own]}) + "\n"
            for row, own in zip(rows, shares.tolist(), strict=True)
        ]
        (target / f"{split}.jsonl").write_text("".join(lines), "utf-8")


# ---------------------------------------------------------------------- what is to be run, and what came of it


def plan(
    chosen: Sequence[str], ways: Sequence[str], seeds: Sequence[int], rates: Sequence[float], file: Path
) -> Iterator[tuple[str, str, int, float]]:
    """case, way, seed and rate of the runs that are still to be made."""
    made = {(r["case"], r["way"], r["seed"], r["rate"]) for r in read_runs(file)}
    for seed in seeds:
        for name in chosen:
            case = CASES[name]
            for rate in rates or (case.rate,):
                for way in (*case.theirs, *case.ours):
                    if (not ways or way in ways) and (name, way, seed, rate) not in made:
                        yield name, way, seed, rate


def table(runs: Sequence[dict[str, Any]], seeds: Sequence[int], rates: Sequence[float]) -> str:
    """Markdown: a row for each case, way of ours and metric, mean and standard deviation over the seeds."""
    lines = [
        "| task type | metric | ordinary | hf_mtl | difference | CPU s: training | answering |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        rate = rates[0] if rates else case.rate
        own = [r for r in runs if r["case"] == name and r["rate"] == rate and r["seed"] in seeds]
        by_way = {way: [r for r in own if r["way"] == way] for way in (*case.theirs, *case.ours)}
        base = by_way[next(iter(case.theirs))]
        for way in [*case.ours, *list(case.theirs)[1:]]:
            for metric in case.metrics:
                if base and by_way[way]:
                    lines.append(_line(name, metric, way, base, by_way[way]))
    return "\n".join(lines)


def _line(name: str, metric: str, way: str, base: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    before, after = ({r["seed"]: r["test"][metric] for r in runs} for runs in (base, other))
    gains = [after[seed] - before[seed] for seed in after.keys() & before.keys()]
    if metric in LOWER_IS_BETTER:
        gains = [-gain for gain in gains]
    times = [
        " / ".join(f"{statistics.mean(r[key] for r in runs):.0f}" for runs in (base, other))
        for key in ("training_seconds", "test_seconds")
    ]
    scores = [_spread(list(values.values())) for values in (before, after)]
    cells = [f"{name}, {way}" if way != "hf_mtl" else name, metric, *scores, _spread(gains, sign=True), *times]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], sign: bool = False) -> str:
    mean = f"{np.mean(values):+.4f}" if sign else f"{np.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def main() -> None:
    """Makes the runs that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; a folder of soft labels lies beside")
    parser.add_argument("--cases", nargs="*", default=[], help="parts of names, in their order; else all")
    parser.add_argument("--ways", nargs="*", default=[], help="names of ways; all where none is given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--rates", nargs="*", type=float, default=[], help="learning rates, in place of each case's own"
    )
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--table", action="store_true", help="only print the table of the runs that there are")
    args = parser.parse_args()

    quiet_on_one_thread()
    parts = args.cases or [""]
    chosen = list(dict.fromkeys(name for part in parts for name in CASES if part.lower() in name.lower()))
    if not args.table:
        backbone = locate_backbone(args.backbone)
        soft = args.results.parent
        for name, way, seed, rate in plan(chosen, args.ways, args.seeds, args.rates, args.results):
            case = CASES[name]
            if case.data == "soft_trec":
                soft_labels(args.data, soft, backbone)
            rows = read_rows(case, soft if case.data == "soft_trec" else args.data)
            budget = Budget(
                backbone=backbone,
                epochs=case.epochs,
                batch_size=case.batch_size,
                rate=rate,
                max_length=case.max_length,
                seed=seed,
            )
            found: dict[str, Any] = {"case": name, "way": way, "seed": seed, "rate": rate}
            found |= run(case, way, rows, budget)
            keep_run(args.results, found)
            metric = case.metrics[0]
            print(
                f"{time.strftime('%H:%M:%S')} {name:46} {way:16} seed {seed} rate {rate:.0e} {metric} "
                f"dev {found['dev'][metric]:.4f} test {found['test'][metric]:.4f} "
                f"CPU {found['training_seconds']:.0f} s + {found['test_seconds']:.0f} s",
                flush=True,
            )
    print(table(read_runs(args.results), args.seeds, args.rates))


if __name__ == "__main__":
    main()
