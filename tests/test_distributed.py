"""Two CPU processes (gloo): the same weights as one process that accumulates, and no row lost."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("distributed_worker.py")


def launch(processes: int, folder: Path, accumulation: int, **env: str) -> Path:
    """Runs the worker and gives the file that rank 0 wrote."""
    out = folder / f"{processes}x{accumulation}.pt"
    command = [sys.executable, str(WORKER)]
    if processes > 1:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", str(WORKER),
        ]  # fmt: skip
    command += [str(folder), str(out), str(accumulation)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | env, capture_output=True, text=True)
    assert out.exists(), done.stderr[-3000:]
    return out


@pytest.mark.parametrize("adapters", ["none", "lora"])
def test_two_processes_give_the_weights_of_one_that_accumulates(
    adapters: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    folder = Path(tiny_backbone())
    (tmp_path / "backbone").symlink_to(folder)
    one = torch.load(launch(1, tmp_path, accumulation=4, ADAPTERS=adapters))
    two = torch.load(launch(2, tmp_path, accumulation=2, ADAPTERS=adapters))
    assert one["rows"] == two["rows"], "the processes saw other rows than the one process"
    assert one["weights"].keys() == two["weights"].keys()
    worst = max((one["weights"][n] - two["weights"][n]).abs().max().item() for n in one["weights"])
    assert worst < 1e-5
    assert one["metrics"] == pytest.approx(two["metrics"], abs=1e-4)


def test_in_every_step_all_processes_have_the_same_task(tiny_backbone: Any, tmp_path: Path) -> None:
    (tmp_path / "backbone").symlink_to(Path(tiny_backbone()))
    two = torch.load(launch(2, tmp_path, accumulation=2, ADAPTERS="lora"))
    assert all(len({task for task, _ in step}) == 1 for step in two["micro_steps"])
    seen = {row for step in two["micro_steps"] for task, rows in step for row in rows if task == 0}
    assert seen == set(range(40)), "an epoch must show every row of a task that is mixed in proportion"
