"""What each process of the distributed tests runs: an epoch over two tasks, then its weights and rows to a file.

Usage: distributed_worker.py FOLDER OUT ACCUMULATION, in FOLDER the tiny backbone; in the environment
ADAPTERS=none|lora, BALANCING for a method, SAVE_STEPS for checkpoints, RESUME for the name of one to go on from, ARGS
for training arguments.
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
import torch.distributed as dist
from peft import LoraConfig
from tiny import RECIPE_DATA, read_jsonl

from hf_mtl import (
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TextClassification,
    TokenClassification,
)

folder, out, accumulation = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
adapters = LoraConfig(r=2, target_modules="all-linear") if os.environ["ADAPTERS"] == "lora" else None

datasets.disable_progress_bars()
data = {
    name: datasets.Dataset.from_list(read_jsonl(RECIPE_DATA / name / "train.jsonl", n))
    for name, n in (("intent", 40), ("pos", 24))
}
tasks = [
    TextClassification.from_dataset("intent", data["intent"], dropout=0.0),
    TokenClassification.from_dataset("pos", data["pos"], dropout=0.0),
]
torch.manual_seed(0)
model = MultiTaskModel.from_backbone(str(folder / "backbone"), tasks, adapters=adapters)
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0  # each process draws its own dropout, which no single process could repeat
usual = {
    "mixing": "proportional", "num_train_epochs": 1, "per_device_train_batch_size": 2,
    "tasks_per_step": min(2, accumulation), "logging_steps": 1,
}  # fmt: skip
settings = usual | json.loads(os.environ.get("ARGS", "{}"))
args = MultiTaskTrainingArguments(
    output_dir=str(folder / "out"),
    use_cpu=True,
    gradient_accumulation_steps=accumulation,
    learning_rate=1e-3,
    balancing=os.environ.get("BALANCING", "static"),
    report_to="none",
    save_strategy="steps" if "SAVE_STEPS" in os.environ else "no",
    save_steps=int(os.environ.get("SAVE_STEPS", 500)),
    disable_tqdm=True,
    **settings,
)
uneven = {name: rows.select(range(len(rows) - 1)) for name, rows in data.items()}  # no multiple of the processes
trainer = MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=uneven)
mine: list[tuple[int, list[int]]] = []
sampler = trainer._get_train_sampler()
sampler.set_epoch(0)
starts = {0: 0, 1: 40}
for batch in sampler:
    task = int(batch[0] >= 40)
    # A mixed batch is kept by numbers through both tasks' rows.
    mine.append((-1, batch) if args.batching == "mixed" else (task, [row - starts[task] for row in batch]))
trainer.train(resume_from_checkpoint=str(folder / "out" / os.environ["RESUME"]) if "RESUME" in os.environ else None)
metrics = {k: v for k, v in trainer.evaluate().items() if k.endswith(("accuracy", "score"))}

world: list[list[tuple[int, list[int]]]] = [mine]
if dist.is_initialized():
    world = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(world, mine)
micro_steps = list(zip(*world, strict=True))
if trainer.is_world_process_zero():
    # The rows of each draw, whichever process and micro-step had them.
    size = 4 * 2 // 2
    flat = [(task, row) for step in micro_steps for task, rows in step for row in rows]
    draws = [sorted(flat[i : i + size]) for i in range(0, len(flat), size)]
    torch.save(
        {
            "weights": trainer.model.state_dict(),
            "rows": draws,
            "micro_steps": micro_steps,
            "metrics": metrics,
            "losses": [
                {k: v for k, v in entry.items() if k.startswith(("loss", "train_loss"))}
                for entry in trainer.state.log_history
                if "loss" in entry or "train_loss" in entry
            ],
            "history": trainer.state.stateful_callbacks.get("MixingHistory"),
        },
        out,
    )
if dist.is_initialized():
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an orderly exit
