"""Parts of speech, features, lemmas and trees in one model, beside a classification of texts: scores and speed.

The set-up is that of MaChAmp's figures in docs/results.md: the same sentences, backbone and epochs.
Run: `python benchmarks/ud.py TRAIN.conllu DEV.conllu [--texts TEXTS.jsonl]`, TEXTS with `text` and `label`.
Prints the scores on DEV, the sentences a CPU second in training and in prediction.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from hf_mtl import (
    DependencyParsing,
    Lemmatization,
    MorphologicalTagging,
    MultiTaskModel,
    MultiTaskPipeline,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    Task,
    TextClassification,
    TokenClassification,
)
from hf_mtl.recipe.data import TaskData


def main() -> None:
    """Train, score, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("dev")
    parser.add_argument("--texts", help="JSONL for a classification task beside the others")
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--freeze_layers", type=int)
    parser.add_argument("--cache_frozen_layers", type=float, default=None, help="GB")
    parser.add_argument("--unfreezing", type=json.loads, help="JSON: '{\"1\": 3}'")
    parser.add_argument("--heads_rate", type=float, help="learning rate of the heads")
    parser.add_argument("--attention_dropout", type=float, help="in place of the backbone's own")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    data = read("ud", {"train": args.train, "validation": args.dev, "max_rows": {"train": args.rows}})
    tasks: list[Task] = [
        TokenClassification.from_dataset("upos", data, tags="upos"),
        MorphologicalTagging.from_dataset("feats", data),
        Lemmatization.from_dataset("lemma", data),
        DependencyParsing.from_dataset("tree", data),
    ]
    train = {task.name: data["train"] for task in tasks}
    if args.texts:
        texts = read("texts", {"train": args.texts, "max_rows": args.rows})["train"]
        tasks.append(TextClassification.from_dataset("texts", texts))
        train["texts"] = texts
    dropout = {} if args.attention_dropout is None else {"attention_probs_dropout_prob": args.attention_dropout}
    model = MultiTaskModel.from_backbone(args.backbone, tasks, **dropout)
    with tempfile.TemporaryDirectory() as folder:
        settings = MultiTaskTrainingArguments(
            output_dir=folder, num_train_epochs=args.epochs, learning_rate=args.learning_rate, warmup_steps=0.1,
            per_device_train_batch_size=32, per_device_eval_batch_size=32, mixing="proportional", share_rows=True,
            report_to="none", save_strategy="no", use_cpu=True, seed=args.seed, disable_tqdm=True, logging_steps=200,
            freeze_layers=args.freeze_layers, unfreezing=args.unfreezing, cache_frozen_layers=args.cache_frozen_layers,
            learning_rates=None if args.heads_rate is None else {"heads": args.heads_rate},
        )  # fmt: skip
        dev = {name: data["validation"] for name in train if name != "texts"}
        trainer = MultiTaskTrainer(model, settings, train_dataset=train, eval_dataset=dev)
        start = time.process_time()
        trainer.train()
        taken = time.process_time() - start
        scores = trainer.evaluate()
    for name, metric in (
        ("upos", "accuracy"),
        ("lemma", "accuracy"),
        ("feats", "accuracy"),
        ("tree", "uas"),
        ("tree", "las_strict"),
    ):
        print(f"{name:6} {metric:10} {scores[f'eval_{name}_{metric}']:.4f}")
    pace = args.epochs * len(data["train"]) / taken
    read_texts = args.epochs * sum(len(rows) for rows in train.values() if rows is not data["train"])
    print(f"training   {pace + read_texts / taken:8.1f} sentences and texts a CPU second ({taken:.0f} s)")
    pipe = MultiTaskPipeline(model, batch_size=32, device="cpu")
    rows = [{"text": tokens} for tokens in data["validation"]["tokens"]]
    names = [task.name for task in tasks if task.name != "texts"]
    pipe(rows[:32], tasks=names)
    start = time.process_time()
    pipe(rows, tasks=names)
    print(f"prediction {len(rows) / (time.process_time() - start):8.1f} sentences a CPU second")


def read(name: str, source: dict[str, Any]) -> dict[str, Any]:
    """split -> rows of a source."""
    kind = TokenClassification(name=name, tags="upos") if name == "ud" else TextClassification(name=name)
    return TaskData.from_dict(kind, source, Path.cwd()).load()


if __name__ == "__main__":
    main()
