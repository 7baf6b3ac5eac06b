"""What each process of the test on broken rows runs: an epoch over two tasks, one row of which is broken.

Usage: failing_worker.py BACKBONE OUT stop|skip BALANCING. Writes OUT.RANK: what was raised, the weights before and
after, and the steps that were left out.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
import torch.distributed as dist
from tiny import RECIPE_DATA, read_jsonl

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, Regression, TextClassification
from hf_mtl.failures import NonFiniteError

backbone, out, on_nonfinite, balancing = sys.argv[1:]
datasets.disable_progress_bars()
texts = [row["text"] for row in read_jsonl(RECIPE_DATA / "intent" / "train.jsonl", 24)]
scored = [{"text": text, "score": len(text) / 200} for text in texts]
scored[7]["score"] = 1e25
data = {
    "card": datasets.Dataset.from_list([{"text": t, "label": str("card" in t)} for t in texts]),
    "long": datasets.Dataset.from_list(scored),
}
tasks = [
    TextClassification(name="card", labels=("False", "True"), dropout=0.0),
    Regression(name="long", low=0.0, high=1.0, dropout=0.0),
]
torch.manual_seed(0)
model = MultiTaskModel.from_backbone(backbone, tasks)
args = MultiTaskTrainingArguments(
    output_dir=out, use_cpu=True, per_device_train_batch_size=2, gradient_accumulation_steps=2, mixing="uniform",
    num_train_epochs=1, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1, learning_rate=1e-3,
    on_nonfinite=on_nonfinite, balancing=balancing,
)  # fmt: skip
trainer = MultiTaskTrainer(model, args, train_dataset=data)
raised = None
try:
    trainer.train()
except NonFiniteError as error:
    raised = str(error)
torch.save(
    {
        "raised": raised,
        "step": trainer.state.global_step,
        "weights": model.state_dict(),
        "skipped": trainer.state.stateful_callbacks.get("SkippedSteps"),
    },
    f"{out}.{os.environ.get('RANK', 0)}",
)
if dist.is_initialized():
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an orderly exit
