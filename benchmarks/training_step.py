"""A training step of MultiTaskTrainer against a hand-written PyTorch loop on the same batches.

    python benchmarks/training_step.py [STEPS] [ROUNDS]

Three tasks of three kinds (the quickstart's data) on all-MiniLM-L6-v2, adapters and full fine-tuning. The loop by hand
knows nothing of this package: transformers' bare model, linear heads, a low-rank layer of fifteen lines, AdamW,
clipping, a schedule; its batches are padded beforehand. The trainer reads, pads, mixes and logs as always. Both take
turns; printed is the median over rounds of the trainer's time over the loop's. The goal is at most 1.05.
"""

import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig
from torch import nn
from transformers import AutoModel, TrainerCallback, get_linear_schedule_with_warmup

from hf_mtl import (
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from hf_mtl.bundled import locate_backbone

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
DATA = Path(__file__).parent.parent / "recipes" / "data"
KINDS: dict[str, Any] = {"intent": TextClassification, "pos": TokenClassification, "answer": QuestionAnswering}
RANK, ALPHA, BATCH, WARM_UP = 8, 8, 16, 3


class LowRank(nn.Module):
    """A frozen linear layer and a low-rank update for each task."""

    def __init__(self, base: nn.Linear, tasks: list[str]):
        super().__init__()
        self.base, self.task = base, tasks[0]
        self.down = nn.ParameterDict({t: nn.Parameter(torch.randn(RANK, base.in_features) * 0.02) for t in tasks})
        self.up = nn.ParameterDict({t: nn.Parameter(torch.zeros(base.out_features, RANK)) for t in tasks})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = F.linear(x, self.down[self.task])
        return self.base(x) + F.linear(low, self.up[self.task]) * (ALPHA / RANK)


class ByHand(nn.Module):
    """Backbone, heads and losses, written for these three tasks alone."""

    def __init__(self, labels: dict[str, int], adapters: bool):
        super().__init__()
        self.backbone = AutoModel.from_pretrained(locate_backbone(BACKBONE), add_pooling_layer=False)
        self.heads = nn.ModuleDict({t: nn.Linear(self.backbone.config.hidden_size, n) for t, n in labels.items()})
        if adapters:
            self.backbone.requires_grad_(False)
            for module in list(self.backbone.encoder.modules()):
                for name, child in list(module.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(module, name, LowRank(child, list(labels)))

    def forward(self, task: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        for module in self.backbone.modules():
            if isinstance(module, LowRank):
                module.task = task
        mask, labels = batch["attention_mask"], batch["labels"]
        inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
        hidden = F.dropout(self.backbone(**inputs).last_hidden_state, 0.1)
        if task == "intent":
            weights = mask.unsqueeze(-1).float()
            return F.cross_entropy(self.heads[task]((hidden * weights).sum(1) / weights.sum(1)), labels)
        logits = self.heads[task](hidden)
        if task == "pos":
            rows = torch.arange(len(mask)).unsqueeze(1)
            return F.cross_entropy(logits[rows, batch["word_positions"]].flatten(0, 1), labels.flatten())
        logits = logits.masked_fill(mask.unsqueeze(-1) == 0, -1e4)
        return (F.cross_entropy(logits[..., 0], labels[:, 0]) + F.cross_entropy(logits[..., 1], labels[:, 1])) / 2


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


def make_trainer(adapters: bool, steps: int, folder: str) -> MultiTaskTrainer:
    rows = {name: datasets.load_dataset("json", data_files=str(DATA / name / "train.jsonl"))["train"] for name in KINDS}
    tasks = [kind.from_dataset(name, rows[name]) for name, kind in KINDS.items()]
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear") if adapters else None
    args = MultiTaskTrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-4, report_to="none",
        save_strategy="no", disable_tqdm=True, mixing="uniform", logging_steps=10, use_cpu=True,
    )  # fmt: skip
    return MultiTaskTrainer(MultiTaskModel.from_backbone(BACKBONE, tasks, lora), args, train_dataset=rows)


def trainer_seconds(trainer: MultiTaskTrainer) -> float:
    """Seconds of a step after the first few."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    trainer.remove_callback(clock)
    return (clock.times[-1] - clock.times[WARM_UP - 1]) / (len(clock.times) - WARM_UP)


def hand_seconds(model: ByHand, batches: list[tuple[str, dict[str, torch.Tensor]]]) -> float:
    """The same for the loop by hand."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(batches))
    model.train()
    for number, (task, batch) in enumerate(batches):
        if number == WARM_UP:
            start = time.perf_counter()
        model(task, batch).backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / (len(batches) - WARM_UP)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    for adapters in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(adapters, steps, folder)
            names = list(trainer.model.tasks)
            batches = []
            for _, batch in zip(range(steps), trainer.get_train_dataloader(), strict=False):
                batches.append((names[int(batch["task_ids"][0])], batch))
            labels = {"answer": 2} | {n: len(t.labels) for n, t in trainer.model.tasks.items() if n != "answer"}
            model = ByHand(labels, adapters)
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(hand_seconds(model, batches))
                ours.append(trainer_seconds(trainer))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        name = "adapters" if adapters else "full fine-tuning"
        print(
            f"{name:17} trainer {statistics.median(ours) * 1000:7.1f} ms/step, by hand "
            f"{statistics.median(theirs) * 1000:7.1f} ms/step, ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}; goal: at most 1.05)",
            flush=True,
        )


if __name__ == "__main__":
    main()
