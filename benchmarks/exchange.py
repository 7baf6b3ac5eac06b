"""What two processes exchange in an optimizer step: bytes, counted at the calls that send them.

Run: `python benchmarks/exchange.py [--tasks 4] [--backbone NAME]`. One line for each way to train: the bytes that
formulas of docs/scaling.md give, and those counted: gradients that DistributedDataParallel puts together, and all other
sums over processes (rows of gradient methods, losses, what the guard of broken losses asks).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WAYS = {
    "all weights": {},
    "adapters, r=8": {"adapters": True},
    "all weights, pcgrad": {"balancing": "pcgrad"},
}
STEPS = 2


def one_way(backbone: str, tasks: int, way: dict[str, Any], out: str) -> None:
    """In each of the processes: trains some steps and counts what is sent."""
    import datasets
    import torch
    import torch.distributed as dist
    from peft import LoraConfig
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel
    from transformers import TrainerCallback

    from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification

    datasets.disable_progress_bars()
    sent = {"gradients": 0, "other sums": 0}
    plain = dist.all_reduce

    def counting(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        sent["other sums"] += tensor.nbytes
        return plain(tensor, *args, **kwargs)

    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent["gradients"] += bucket.buffer().nbytes
        return allreduce_hook(state, bucket)

    class Hooked(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if isinstance(trainer.model_wrapped, DistributedDataParallel):
                trainer.model_wrapped.register_comm_hook(None, hook)
            dist.all_reduce = counting

    names = [f"task{k}" for k in range(tasks)]
    adapters = LoraConfig(r=8, target_modules="all-linear") if way.get("adapters") else None
    kinds = [TextClassification(name=name, labels=("no", "yes")) for name in names]
    model = MultiTaskModel.from_backbone(backbone, kinds, adapters=adapters)
    rows = [{"text": "a few words", "label": label} for label in ("no", "yes") * 8]
    args = MultiTaskTrainingArguments(
        out, max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=tasks, use_cpu=True,
        mixing="round_robin", report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1000, optim="sgd",
        balancing=way.get("balancing", "static"),
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset=dict.fromkeys(names, rows), callbacks=[Hooked()])
    trainer.train()
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    own = sum(n for name, n in sizes.items() if any(f".{task}." in name for task in names))
    shared = sum(sizes.values()) - own
    expected = 4 * (tasks * shared + own) if way.get("balancing") == "pcgrad" else 4 * (shared + own)
    sent["other sums"] -= sent["gradients"]  # which the hook sends by the same call
    if trainer.is_world_process_zero():
        found = {key: value / STEPS for key, value in sent.items()} | {
            "shared": shared, "of the tasks": own, "expected": expected,
        }  # fmt: skip
        Path(out, "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


def main() -> None:
    """One line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--backbone", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is not None:
        one_way(args.backbone, args.tasks, WAYS[args.way], args.out)
    head = f"{'':22}{'shared':>12}{'of the tasks':>14}{'expected':>14}{'gradients':>14}{'other sums':>14}"
    print(f"{args.tasks} tasks, 2 processes: trained parameters, and bytes that a process puts in each step\n{head}")
    for way in WAYS:
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
                       "--rdzv-endpoint", "127.0.0.1:0", __file__, "--tasks", str(args.tasks), "--backbone",
                       args.backbone, "--way", way, "--out", out]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            result = Path(out, "found.json")
            if not result.is_file():
                raise RuntimeError(done.stderr[-3000:])
            found = json.loads(result.read_text())
        numbers = [found[key] for key in ("shared", "of the tasks", "expected", "gradients", "other sums")]
        print(f"{way:22}" + "".join(f"{n:>{12 if k == 0 else 14},.0f}" for k, n in enumerate(numbers)), flush=True)


if __name__ == "__main__":
    main()
