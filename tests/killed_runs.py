"""Trains a run that nothing stops, then kills (SIGKILL) runs of the same and resumes them until they have finished.

Usage: killed_runs.py FOLDER, in FOLDER the tiny backbone, and `plans.json`: name -> a plan:

- `kills`: how many runs are killed; `chain`: after how many of them the next one may finish, which ends a chain;
- `processes`: of each run; `seed`: of the choice of moments; `settings`: training arguments;
- `adapters`: whether there are any; `masked`: whether a masked language model is one of the tasks;
- `finish`: what of this is otherwise in the run that may finish.

Writes `found.json`: name -> for each kill the step before and whether it fell into a save; for each chain whether
weights, logs and the tasks of each step equal those of the unbroken run, and what its folder holds. Then kills
processes that save a model over itself, `saves` of them: for each whether all files that they left are whole. The
processes are forked off one that has done the slow imports and built the model.
"""

import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import evaluate  # noqa: F401 - as slow as the rest, and needed in every run
import sklearn.metrics  # noqa: F401
import torch
import torch.distributed as dist
from peft import LoraConfig
from safetensors.torch import load_file
from tiny import RECIPE_DATA, read_jsonl
from tqdm import tqdm
from transformers import TrainerCallback

from hf_mtl import (
    FillMask,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TextClassification,
    TokenClassification,
)

SAVING = "_saving"


class Heartbeat(TrainerCallback):
    """Lets those outside know how far the run is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.path.write_text(str(state.global_step))


def build(folder: Path, plan: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A model, and data for its tasks."""
    data = {
        name: datasets.Dataset.from_list(read_jsonl(RECIPE_DATA / name / "train.jsonl", n))
        for name, n in (("intent", 24), ("pos", 16))
    }
    data["intent"] = data["intent"].map(lambda row: {"label": "card" if "card" in row["label"] else "other"})
    tasks: list[Any] = [
        TextClassification.from_dataset("intent", data["intent"]),
        TokenClassification.from_dataset("pos", data["pos"]),
    ]
    if plan["masked"]:
        data["words"] = data["intent"].select_columns("text")
        tasks.append(FillMask(name="words"))
    adapters = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1) if plan["adapters"] else None
    torch.manual_seed(0)
    return MultiTaskModel.from_backbone(str(folder / "backbone"), tasks, adapters=adapters), data


def train(built: tuple[Any, dict[str, Any]], out: Path, plan: dict[str, Any]) -> None:
    """One run, from the last checkpoint if there is any; then its weights and logs to a file."""
    model, data = built
    args = MultiTaskTrainingArguments(
        output_dir=str(out), use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=1e-2, **plan["settings"]
    )
    trainer = MultiTaskTrainer(
        model, args, train_dataset=data, eval_dataset={"intent": data["intent"]}, callbacks=[Heartbeat(out / "step")]
    )
    trainer.train(resume_from_checkpoint=any(out.glob("checkpoint-*")))
    if trainer.is_world_process_zero():
        logs = [_lasting(entry) for entry in trainer.state.log_history]
        torch.save({"weights": model.state_dict(), "logs": logs}, out / "end")
    if dist.is_initialized():
        dist.barrier()


def _lasting(entry: dict[str, Any]) -> dict[str, Any]:
    """A log without what hangs on the clock, or is of this process alone."""
    return {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_second", "train_loss"))}


def start(plan: dict[str, Any], out: Path, act: Callable[[], None]) -> list[int]:
    """Forks the processes of a run, in a group of their own, and gives their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group: list[int] = []
    for rank in range(plan["processes"]):
        child = os.fork()
        if child == 0:
            os.setpgid(0, group[0] if group else 0)
            log = os.open(out.parent / f"{out.name}-{rank}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            tqdm.set_lock(threading.RLock())  # its own is all processes', and who is killed would hold it for ever
            if plan["processes"] > 1:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(plan["processes"]),
                    "LOCAL_WORLD_SIZE": str(plan["processes"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            try:
                act()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)  # gloo's threads may abort an orderly exit
        os.setpgid(child, group[0] if group else child)
        group.append(child)
    return group


def wait(group: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in group]


def steps(out: Path) -> int:
    text = (out / "step").read_text() if (out / "step").exists() else ""
    return int(text) if text else 0


def kill_somewhere(
    out: Path, group: list[int], choose: random.Random, in_save: bool, duration: float, least: int
) -> dict[str, Any]:
    """Waits for a moment that is drawn, kills the run there, and says where it was; or that it had ended before."""
    begun, ahead = steps(out), choose.randint(least, 4)
    saves = choose.choice([0, 0, 1])  # to pass over
    was_there = False
    while os.waitid(os.P_PID, group[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        there = (out / SAVING).exists()
        saves -= was_there and not there
        was_there = there
        if (there and saves <= 0) if in_save else steps(out) >= begun + ahead:
            break
        time.sleep(0.001)
    time.sleep(choose.uniform(0, duration))
    if len(group) > 1 and choose.random() < 0.5:  # one goes before the others
        os.kill(choose.choice(group), signal.SIGKILL)
        time.sleep(choose.uniform(0, 0.05))
    os.killpg(group[0], signal.SIGKILL)
    ended = all(status == 0 for status in wait(group))
    return {
        "ended": ended,
        "step": steps(out),
        "in_save": (out / SAVING).exists(),
        "saved": any(out.glob("checkpoint-*")),
    }


def watch(out: Path, group: list[int]) -> float:
    """How long a save takes, of a run until its end."""
    took, there, began = [], False, 0.0
    while os.waitid(os.P_PID, group[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if (out / SAVING).exists() != there:
            there, now = not there, time.monotonic()
            took += [] if there else [now - began]
            began = now
        time.sleep(0.001)
    return sorted(took)[len(took) // 2]


def tasks_of_steps(logs: list[dict[str, Any]]) -> list[Any]:
    """Step, and the tasks that it was of, of each log of a training loss."""
    return [[log["step"], sorted(key for key in log if key.startswith("loss_"))] for log in logs if "loss" in log]


def kill_and_resume(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What a plan finds."""
    choose, built = random.Random(plan["seed"]), build(folder, plan)
    last = plan | plan.get("finish", {})
    last["settings"] = plan["settings"] | last["settings"]
    gc.collect()
    gc.freeze()  # or each run would look through all of this, and copy it

    def begin(out: Path, plan: dict[str, Any] = plan) -> list[int]:
        out.mkdir(exist_ok=True)
        return start(plan, out, lambda: train(built, out, plan))

    def end(out: Path, group: list[int]) -> Any:
        if any(wait(group)):
            sys.exit((folder / f"{out.name}-0.log").read_text())
        return torch.load(out / "end")

    unbroken = folder / "unbroken"
    group = begin(unbroken)
    duration = watch(unbroken, group)
    whole = end(unbroken, group)
    kills: list[dict[str, Any]] = []
    chains: list[dict[str, Any]] = []
    while len(kills) < plan["kills"]:
        out = folder / f"chain{len(chains)}"
        for number in range(len(kills), min(len(kills) + plan["chain"], plan["kills"])):
            in_save = number % 2 == 0 and "finish" not in plan
            least = 3 if "finish" in plan else 1  # by then there is a checkpoint
            kill = kill_somewhere(out, begin(out), choose, in_save, duration if in_save else 0.02, least)
            if kill["ended"]:
                break
            kills.append(kill)
        found = end(out, begin(out, last))
        chains.append({
            "weights": all(torch.equal(found["weights"][name], value) for name, value in whole["weights"].items()),
            "logs": found["logs"] == whole["logs"],
            "tasks": tasks_of_steps(found["logs"]) == tasks_of_steps(whole["logs"]),
            "left": sorted(path.name for path in out.iterdir()),
        })  # fmt: skip
    return {"kills": kills, "chains": chains}


def kill_saves(folder: Path, number: int) -> list[bool]:
    """Kills processes that save a model and a task over themselves; whether all that they leave can be read."""
    choose = random.Random(0)
    model, _ = build(folder, {"adapters": True, "masked": False})
    one, many = {name: value.clone() for name, value in model.state_dict().items()}, folder / "model"
    model.save_pretrained(many, max_shard_size="100KB")
    model.save_task("pos", folder / "task")

    def save() -> None:
        while True:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)
            model.save_pretrained(many, max_shard_size="100KB")
            model.save_task("pos", folder / "task")

    whole = []
    for _ in range(number):
        (child,) = start({"processes": 1}, folder / "save", save)
        time.sleep(choose.uniform(0.02, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files = [*many.glob("*.safetensors"), *folder.glob("task/**/*.safetensors")]
        found = sum(len(load_file(path)) for path in files)
        loaded = MultiTaskModel.from_pretrained(many)
        whole.append(found > len(one) and loaded.state_dict().keys() == one.keys())
    return whole


def main() -> None:
    folder = Path(sys.argv[1])
    tqdm.set_lock(threading.RLock())  # also that of its subclasses, as none has been used
    datasets.disable_progress_bars()
    found = {}
    plans = json.loads((folder / "plans.json").read_text())
    for name, plan in plans["runs"].items():
        own = folder / name
        own.mkdir()
        (own / "backbone").symlink_to(folder / "backbone")
        found[name] = kill_and_resume(own, plan)
    found["saves"] = kill_saves(folder, plans["saves"])
    (folder / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
