"""Training on mixed batches against batches of one task: rows per second, padding, and the scores of both.

    python benchmarks/mixed_batches.py [--steps 24] [--rounds 5] [--learn 0] [--batch_size 16]

Eight tasks of four kinds (each of the quickstart's data sets in two halves) with private adapters (r=8) on
all-MiniLM-L6-v2, mixed evenly, one micro-batch a step. Both trainers take turns; printed is the median over rounds of
the ratio of their rows per second of processor time, so run it with OMP_NUM_THREADS=1. `--learn N` then trains each
anew for N steps and prints the mean scores on the validation data.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig

from hf_mtl import (
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
DATA = Path(__file__).parent.parent / "recipes" / "data"
KINDS: dict[str, Any] = {
    "intent": TextClassification,
    "pos": TokenClassification,
    "entities": TokenClassification,
    "answer": QuestionAnswering,
}


def halves(split: str) -> dict[str, Any]:
    """Task -> its rows: every other one of a data set."""
    found = {}
    for name in KINDS:
        rows = datasets.load_dataset("json", data_files=str(DATA / name / f"{split}.jsonl"))["train"]
        for half in range(2):
            found[f"{name}{half}"] = rows.select(range(half, len(rows), 2))
    return found


def made(batching: str, steps: int, batch_size: int, folder: str) -> MultiTaskTrainer:
    train = halves("train")
    tasks = [KINDS[name[:-1]].from_dataset(name, rows) for name, rows in train.items()]
    args = MultiTaskTrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=1e-3, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, mixing="uniform", batching=batching, logging_steps=10,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(BACKBONE, tasks, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    return MultiTaskTrainer(model, args, train_dataset=train, eval_dataset=halves("validation"))


def rows_per_second(trainer: MultiTaskTrainer) -> float:
    begin = time.process_time()
    trainer.train()
    seconds = time.process_time() - begin
    return trainer.args.max_steps * trainer.args.per_device_train_batch_size / seconds


def real_tokens(trainer: MultiTaskTrainer, steps: int) -> float:
    """Real tokens / all tokens of the first batches."""
    real = padded = 0
    for _, batch in zip(range(steps), trainer.get_train_dataloader(), strict=False):
        real += int(batch["attention_mask"].sum())
        padded += batch["attention_mask"].numel()
    return real / padded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--learn", type=int, default=0, help="steps of the training whose scores are printed")
    parser.add_argument("--batch_size", type=int, default=16)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: made(name, args.steps, args.batch_size, folder) for name in ("per_task", "mixed")}
        for name, trainer in trainers.items():
            print(
                f"{name:9} real tokens {real_tokens(trainer, 200):.3f} in 200 batches of {args.batch_size}", flush=True
            )
        speeds: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(args.rounds):
            for name, trainer in trainers.items():
                speeds[name].append(rows_per_second(trainer))
        ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
        print(
            f"rows per second of processor time: per_task {statistics.median(speeds['per_task']):.1f}, mixed "
            f"{statistics.median(speeds['mixed']):.1f}, ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
        for name in trainers if args.learn else ():
            trainer = made(name, args.learn, args.batch_size, folder)
            trainer.train()
            scores = trainer.evaluate()
            own = {task: scores[f"eval_{task}_{t.main_metric}"] for task, t in trainer.model.tasks.items()}
            shown = ", ".join(f"{task} {score:.3f}" for task, score in own.items())
            print(
                f"{name:9} after {args.learn} steps: mean score {scores['eval_mean_score']:.4f} ({shown})", flush=True
            )


if __name__ == "__main__":
    main()
