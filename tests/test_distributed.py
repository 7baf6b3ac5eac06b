"""Two CPU processes (gloo): the same weights as one process that accumulates, and no row lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("distributed_worker.py")
TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "127.0.0.1:0",
]
ACCELERATE_ONE = [
    "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip
ACCELERATE = [
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip


def launch(launcher: list[str], folder: Path, accumulation: int, **env: str) -> dict[str, Any]:
    """Runs the worker and gives what rank 0 wrote."""
    out = folder / f"{len(list(folder.glob('*.pt')))}.pt"
    command = [sys.executable, *launcher, str(WORKER), str(folder), str(out), str(accumulation)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | env, capture_output=True, text=True)
    assert out.exists(), done.stderr[-3000:]
    return torch.load(out)


@pytest.fixture
def folder(tiny_backbone: Any, tmp_path: Path) -> Path:
    (tmp_path / "backbone").symlink_to(Path(tiny_backbone()))
    return tmp_path


def furthest(one: dict[str, Any], two: dict[str, Any]) -> float:
    """The largest difference between two runs' weights."""
    assert one["weights"].keys() == two["weights"].keys()
    return max((one["weights"][n] - two["weights"][n]).abs().max().item() for n in one["weights"])


def assert_same_losses(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Both runs logged the same losses after each optimizer step, and the same mean of them in the end.

    To 5 digits: float32, summed in another order.
    """
    assert len(one["losses"]) == len(two["losses"]) > 1
    for log, (first, second) in enumerate(zip(one["losses"], two["losses"], strict=True), start=1):
        assert first == pytest.approx(second, rel=1e-5), f"log {log}"


@pytest.mark.parametrize(
    ("adapters", "launcher", "processes"),
    [("none", TORCHRUN, 2), ("lora", ACCELERATE, 2), ("lora", ACCELERATE_ONE, 1)],
)
def test_launched_processes_give_the_weights_and_losses_of_one_that_accumulates(
    adapters: str, launcher: list[str], processes: int, folder: Path
) -> None:
    one = launch([], folder, accumulation=4, ADAPTERS=adapters)
    two = launch(launcher, folder, accumulation=4 // processes, ADAPTERS=adapters)
    assert {len(step) for step in two["micro_steps"]} == {processes}
    assert one["rows"] == two["rows"], "the processes saw other rows than the one process"
    assert furthest(one, two) < 1e-5
    assert_same_losses(one, two)
    assert {"loss", "loss_intent", "loss_pos", "train_loss"} == set().union(*one["losses"])
    assert one["metrics"] == pytest.approx(two["metrics"], abs=1e-4)
    # In every micro-step all processes work on the same task, and an epoch mixed in proportion shows every row.
    assert all(len({task for task, _ in step}) == 1 for step in two["micro_steps"])
    seen = {row for step in two["micro_steps"] for task, rows in step for row in rows if task == 0}
    assert seen == set(range(40))


ADAPTIVE = {
    "mixing": "adaptive", "max_tokens_per_batch": 160, "per_device_train_batch_size": 8, "num_train_epochs": 2,
    "eval_strategy": "steps", "eval_steps": 2,
}  # fmt: skip


def test_two_processes_under_a_token_budget_learn_the_same_mixture_and_weights(folder: Path) -> None:
    settings = json.dumps(ADAPTIVE)
    one = launch([], folder, accumulation=4, ADAPTERS="none", ARGS=settings)
    two = launch(TORCHRUN, folder, accumulation=2, ADAPTERS="none", ARGS=settings)
    first, second = ([batch for step in run["micro_steps"] for batch in step] for run in (one, two))
    assert first == second  # the micro-batches, in their order
    assert [entry["step"] for entry in one["history"]] == [entry["step"] for entry in two["history"]]
    assert len(one["history"]) > 2
    assert furthest(one, two) < 1e-5
    assert_same_losses(one, two)


@pytest.mark.parametrize("method", ["pcgrad", "gradnorm", "famo"])
def test_two_processes_balance_as_one_that_accumulates(method: str, folder: Path) -> None:
    one = launch([], folder, accumulation=4, ADAPTERS="none", BALANCING=method)
    two = launch(TORCHRUN, folder, accumulation=2, ADAPTERS="none", BALANCING=method)
    assert one["rows"] == two["rows"]
    assert furthest(one, two) < 1e-5
    assert_same_losses(one, two)


MIXED: dict[str, Any] = {"batching": "mixed", "tasks_per_step": None}


@pytest.mark.parametrize(
    ("adapters", "method", "settings"),
    [
        ("none", "static", {}),
        ("lora", "static", {"max_tokens_per_batch": 160, "per_device_train_batch_size": 8, "logging_steps": 3}),
        ("none", "pcgrad", {}),
        ("none", "famo", {}),
    ],
)
def test_two_processes_with_other_tasks_in_their_batches_give_the_weights_of_one(
    adapters: str, method: str, settings: dict[str, Any], folder: Path
) -> None:
    env = {"ADAPTERS": adapters, "BALANCING": method, "ARGS": json.dumps(MIXED | settings)}
    one = launch([], folder, accumulation=4, **env)
    two = launch(TORCHRUN, folder, accumulation=2, **env)
    first, second = ([rows for step in run["micro_steps"] for _, rows in step] for run in (one, two))
    assert first == second  # the micro-batches, in their order
    present = [[{row >= 40 for row in rows} for _, rows in step] for step in two["micro_steps"]]
    assert any(here != there for here, there in present) and any(len(here | there) == 2 for here, there in present)
    assert furthest(one, two) < 1e-5
    assert_same_losses(one, two)


def test_two_processes_do_not_look_for_a_batch_size_each_by_itself(folder: Path) -> None:
    command = [sys.executable, *TORCHRUN, str(WORKER), str(folder), str(folder / "none.pt"), "1"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ADAPTERS": "none", "ARGS": '{"auto_find_batch_size": true}'}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode and "auto_find_batch_size=True is for one process, and these are 2" in done.stderr


def test_two_processes_resume_to_the_bit(folder: Path) -> None:
    unbroken = launch(TORCHRUN, folder, accumulation=1, ADAPTERS="lora", SAVE_STEPS="3")
    resumed = launch(TORCHRUN, folder, accumulation=1, ADAPTERS="lora", RESUME="checkpoint-3")
    assert furthest(unbroken, resumed) == 0


STOPPING = {
    "task_patience": 1, "load_best_tasks_at_end": True, "eval_strategy": "steps", "eval_steps": 1,
}  # fmt: skip
UNFREEZING = {"unfreezing": {"25%": 1, "50%": 2}, "ema_decay": 0.5, "learning_rates": {"backbone": 1e-4}}


@pytest.mark.parametrize(("adapters", "settings"), [("none", UNFREEZING), ("lora", STOPPING)])
def test_two_processes_stop_tasks_unfreeze_layers_and_average_as_one(
    adapters: str, settings: dict[str, Any], folder: Path
) -> None:
    one = launch([], folder, accumulation=4, ADAPTERS=adapters, ARGS=json.dumps(settings))
    two = launch(TORCHRUN, folder, accumulation=2, ADAPTERS=adapters, ARGS=json.dumps(settings))
    assert one["history"] == two["history"]
    assert furthest(one, two) < 1e-5
    assert_same_losses(one, two)
