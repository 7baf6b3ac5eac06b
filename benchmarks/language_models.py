"""Tasks of language models beside the ordinary way of training each: the same rows, start, budget and scorer.

`python benchmarks/language_models.py DATA --results RUNS.jsonl [--cases translation ...] [--seeds 0 1 2]`

DATA holds `multi30k_en_de`, `dialogsum_small` and `ag_news` with `train.jsonl` and `test.jsonl`. T5 and GPT-2 are tiny
and random, with a tokenizer trained on the rows: the question is whether a task learns as it should, not how well such
a model writes. Masked tokens are those of the backbone given. The ordinary way is transformers' Trainer with its own
collators; what it trained is read by our model and scored like ours.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from ordinary.budget import Budget, arguments, trained
from runs import keep_run, read_runs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    GPT2Config,
    PreTrainedTokenizerFast,
    PrinterCallback,
    T5Config,
    set_seed,
)

from hf_mtl import (
    FillMask,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    Summarization,
    Task,
    TextGeneration,
    Translation,
)
from hf_mtl.bundled import locate_backbone

T5 = T5Config(d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.1, decoder_start_token_id=0,
              pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {"hf_mtl": {}, "hf_mtl, random order": {"length_group": 1}}
GPT2 = GPT2Config(n_embd=128, n_layer=2, n_head=4, n_positions=256, bos_token_id=2, eos_token_id=2, pad_token_id=0)


@dataclass(frozen=True)
class Case:
    """One comparison; `start` is a tiny model's config, or None for the backbone given."""

    data: str
    task: Task
    kind: Any
    start: Any
    train: int
    epochs: float
    rate: float
    max_length: int = 64


CASES = {
    "translation (Multi30k)": Case(
        "multi30k_en_de", Translation(name="it", text="source", max_target_length=40),
        AutoModelForSeq2SeqLM, T5, 4000, 4, 2e-3,
    ),
    "summarization (DialogSum)": Case(
        "dialogsum_small", Summarization(name="it", text="source", max_target_length=40, max_length=256),
        AutoModelForSeq2SeqLM, T5, 600, 6, 2e-3, 256,
    ),
    "text-generation (AG News)": Case(
        "ag_news", TextGeneration(name="it", max_length=96), AutoModelForCausalLM, GPT2, 3000, 3, 2e-3, 96
    ),
    "fill-mask (AG News)": Case(
        "ag_news", FillMask(name="it", whole_words=False, max_length=64), AutoModelForMaskedLM, None, 800, 3, 3e-4
    ),
}  # fmt: skip


def start_of(case: Case, rows: list[dict[str, Any]], backbone: str, seed: int) -> str:
    """A folder with the model that both ways begin from: the masked model's head, too, is the same."""
    folder = tempfile.mkdtemp()
    set_seed(seed)
    if case.start is None:
        case.kind.from_pretrained(backbone).save_pretrained(folder)
        AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
        return folder
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    texts = [text for row in rows for text in row.values() if isinstance(text, str)]
    tokenizer.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=3000, special_tokens=specials, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=256
    )
    fast.save_pretrained(folder)
    case.start.vocab_size = len(fast)
    case.kind.from_config(case.start).save_pretrained(folder)
    return folder


def ordinary(case: Case, folder: str, rows: list[dict[str, Any]], budget: Budget) -> str:
    """Trains by transformers' own Trainer; the folder of what came out."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = case.kind.from_pretrained(folder)
    cut: dict[str, Any] = {"truncation": True, "max_length": case.max_length}
    collator: Callable[[Any], Any]
    if case.kind is AutoModelForSeq2SeqLM:
        task: Any = case.task
        inputs = tokenizer([row[task.text] for row in rows], **cut)
        targets = tokenizer(
            text_target=[row[task.target] for row in rows], truncation=True, max_length=task.max_target_length
        )
        features = datasets.Dataset.from_dict(dict(inputs) | {"labels": targets["input_ids"]})
        collator = DataCollatorForSeq2Seq(tokenizer, model)
    else:
        features = datasets.Dataset.from_dict(dict(tokenizer([row["text"] for row in rows], **cut)))
        masked = case.kind is AutoModelForMaskedLM
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=masked, mlm_probability=0.15 if masked else None)
    out = tempfile.mkdtemp()
    trained(model, features, collator, budget).save_model(out)
    tokenizer.save_pretrained(out)
    return out


def score(case: Case, folder: str, test: list[dict[str, Any]], budget: Budget) -> dict[str, float]:
    """The scores of a plain transformers checkpoint, by our evaluation."""
    model = MultiTaskModel.from_backbone(folder, [case.task])
    return trainer_of(model, budget, None, test).evaluate()


def trainer_of(model: MultiTaskModel, budget: Budget, train: Any, test: Any, **settings: Any) -> MultiTaskTrainer:
    """Our trainer, quiet."""
    made = MultiTaskTrainer(
        model, arguments(budget, MultiTaskTrainingArguments, **settings),
        train_dataset={"it": train} if train else None, eval_dataset={"it": test},
    )  # fmt: skip
    made.remove_callback(PrinterCallback)
    return made


def run(case: Case, way: str, data: Path, backbone: str, seed: int) -> dict[str, Any]:
    """One training and its scores."""
    train, test = (rows_of(data / case.data / f"{split}.jsonl") for split in ("train", "test"))
    train, test = train[: case.train], test[:200]
    folder = start_of(case, train, backbone, seed)
    budget = Budget(
        backbone=folder, epochs=case.epochs, batch_size=32, rate=case.rate, max_length=case.max_length, seed=seed
    )
    set_seed(seed)
    start = time.process_time()
    if way == "before":
        found = score(case, folder, test, budget)
    elif way == "ordinary":
        out = ordinary(case, folder, train, budget)
        start, taken = time.process_time(), time.process_time() - start
        found = score(case, out, test, budget)
    else:
        model = MultiTaskModel.from_backbone(folder, [case.task])
        trainer = trainer_of(model, budget, train, test, **WAYS[way])
        trainer.train()
        taken = time.process_time() - start
        found = trainer.evaluate()
    taken = 0.0 if way == "before" else taken
    return {name[8:]: value for name, value in found.items() if name.startswith("eval_it_")} | {"seconds": taken}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(runs: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds."""
    for case in dict.fromkeys(run["case"] for run in runs):
        for way in dict.fromkeys(run["way"] for run in runs):
            own = [run["found"] for run in runs if (run["case"], run["way"]) == (case, way)]
            cells = [
                f"{name} {statistics.mean(values):.4g} ± {statistics.stdev(values) if len(values) > 1 else 0:.2g}"
                for name in (own[0] if own else ())
                if (values := [found[name] for found in own])
            ]
            print(f"{case:28} {way:9} ({len(own)})  {'  '.join(cells)}")


def main() -> None:
    """Makes the runs that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="parts of names")
    parser.add_argument("--ways", nargs="+", default=["before", "ordinary", *WAYS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = read_runs(args.results)
    for seed in args.seeds:
        for name, case in CASES.items():
            for way in args.ways:
                known = any((run["case"], run["way"], run["seed"]) == (name, way, seed) for run in runs)
                if known or not any(part in name for part in args.cases):
                    continue
                found = run(case, way, args.data, str(locate_backbone(args.backbone)), seed)
                runs.append({"case": name, "way": way, "seed": seed, "found": found})
                keep_run(args.results, runs[-1])
                print(name, way, seed, found, flush=True)
    table(runs)


if __name__ == "__main__":
    main()
