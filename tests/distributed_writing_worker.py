"""What each process of the distributed test of writing runs: an evaluation, its scores and answers to a file.

Usage: distributed_writing_worker.py FOLDER OUT, in FOLDER the model (`model`) and the rows of its tasks (`rows.json`).
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
import torch.distributed as dist

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
datasets.disable_progress_bars()
data = {name: datasets.Dataset.from_list(rows) for name, rows in json.loads((folder / "rows.json").read_text()).items()}
args = MultiTaskTrainingArguments(
    output_dir=str(folder / "out"), use_cpu=True, per_device_eval_batch_size=2, report_to="none", disable_tqdm=True
)
trainer = MultiTaskTrainer(MultiTaskModel.from_pretrained(folder / "model"), args, eval_dataset=data)
metrics = trainer.evaluate()
predictions = trainer.predict(data).predictions
if trainer.is_world_process_zero():
    world = dist.get_world_size() if dist.is_initialized() else 1
    torch.save({"metrics": metrics, "predictions": predictions, "world": world}, out)
if dist.is_initialized():
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an orderly exit
