"""A broken row in one of two processes: both stop at the same step with the same words, or both leave it out."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("failing_worker.py")
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint",
            "127.0.0.1:0"]  # fmt: skip


def launch(backbone: str, out: Path, on_nonfinite: str, balancing: str) -> list[dict[str, Any]]:
    """Runs two processes and gives what each wrote."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *TORCHRUN, str(WORKER), backbone, str(out), on_nonfinite, balancing]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert Path(f"{out}.1").exists(), done.stderr[-3000:]
    return [torch.load(f"{out}.{rank}") for rank in (0, 1)]


def test_two_processes_stop_at_the_same_step_with_the_same_words(tiny_backbone: Any, tmp_path: Path) -> None:
    one, two = launch(tiny_backbone(), tmp_path / "out", "stop", "static")
    assert "the loss of task 'long' is inf" in one["raised"] and "row 7 of 'long'" in one["raised"]
    assert one["raised"] == two["raised"] and one["step"] == two["step"]


@pytest.mark.parametrize("balancing", ["static", "pcgrad"])
def test_two_processes_leave_the_same_steps_out(tiny_backbone: Any, tmp_path: Path, balancing: str) -> None:
    one, two = launch(tiny_backbone(), tmp_path / "out", "skip", balancing)
    assert one["raised"] is two["raised"] is None
    assert one["step"] == two["step"] and one["skipped"] == two["skipped"] == 1
    assert all(torch.equal(tensor, two["weights"][name]) for name, tensor in one["weights"].items())
    assert all(bool(tensor.isfinite().all()) for tensor in one["weights"].values())
