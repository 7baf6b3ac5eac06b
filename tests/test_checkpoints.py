"""Checkpoints: whole or not there, whenever a run is killed; and what a resumed run takes of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification, TokenClassification
from hf_mtl.checkpoint_files import SAVING, fault, faults, finish_saves, put_in_place, seal
from hf_mtl.whole_files import written_whole

# How many runs are killed: more of them by hand, as in HF_MTL_KILLS=200.
KILLS = int(os.environ.get("HF_MTL_KILLS", "20"))
SETTINGS = {
    "per_device_train_batch_size": 4, "num_train_epochs": 2, "gradient_accumulation_steps": 2, "logging_steps": 1,
    "save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch", "save_total_limit": 2,
}  # fmt: skip
BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
PLANS: dict[str, dict[str, Any]] = {
    "adapters, adaptive": {"adapters": True, "settings": {"mixing": "adaptive"}, "kills": 7 * KILLS // 20},
    "all balanced": {"masked": True, "settings": {"balancing": "pcgrad", **BEST}, "kills": 5 * KILLS // 20},
    "two processes": {
        "adapters": True, "processes": 2, "kills": 8 * KILLS // 20,
        "settings": {"mixing": "adaptive", "per_device_train_batch_size": 2},
    },
    "one, then two": {
        "chain": 1, "kills": 1, "finish": {"processes": 2, "settings": {"gradient_accumulation_steps": 2}},
        "settings": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "tasks_per_step": 1},
    },
    "two, then one": {
        "chain": 1, "kills": 1, "processes": 2,
        "finish": {"processes": 1, "settings": {"gradient_accumulation_steps": 4}},
        "settings": {"per_device_train_batch_size": 2, "tasks_per_step": 1},
    },
}  # fmt: skip
BROKEN = [name for name in PLANS if "finish" not in PLANS[name]]


@pytest.fixture(scope="module")
def killed(tiny_backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the killed runs of all plans left."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "backbone").symlink_to(Path(tiny_backbone()))
    usual = {"chain": 5, "processes": 1, "seed": KILLS, "adapters": False, "masked": False}
    runs = {name: usual | plan | {"settings": SETTINGS | plan["settings"]} for name, plan in PLANS.items()}
    (folder / "plans.json").write_text(json.dumps({"runs": runs, "saves": max(1, KILLS // 4)}))
    command = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(folder)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", BROKEN)
def test_a_killed_run_ends_with_the_weights_and_logs_of_one_that_was_not(name: str, killed: dict[str, Any]) -> None:
    assert len(killed[name]["kills"]) == PLANS[name]["kills"]
    assert all(chain["weights"] and chain["logs"] and chain["tasks"] for chain in killed[name]["chains"])


@pytest.mark.parametrize("name", BROKEN)
def test_nothing_of_a_killed_save_is_left(name: str, killed: dict[str, Any]) -> None:
    allowed = {f"checkpoint-{step}" for step in range(2, 20, 2)} | {"end", "step"}
    limit = 1 + PLANS[name]["settings"].get("save_total_limit", SETTINGS["save_total_limit"])  # beside the best one
    for chain in killed[name]["chains"]:
        assert set(chain["left"]) <= allowed and len(chain["left"]) <= limit + 2


def test_runs_were_killed_in_saves_and_outside(killed: dict[str, Any]) -> None:
    in_save = [kill["in_save"] for name in BROKEN for kill in killed[name]["kills"]]
    assert 0.2 < sum(in_save) / len(in_save) < 0.9


@pytest.mark.parametrize("name", [name for name in PLANS if "finish" in PLANS[name]])
def test_a_run_that_goes_on_with_another_number_of_processes_keeps_the_tasks_of_each_step(
    name: str, killed: dict[str, Any]
) -> None:
    assert all(kill["saved"] and not kill["ended"] for kill in killed[name]["kills"])
    assert all(chain["tasks"] for chain in killed[name]["chains"])


def test_a_killed_save_pretrained_or_save_task_leaves_whole_files(killed: dict[str, Any]) -> None:
    assert killed["saves"] and all(killed["saves"])


# ---------------------------------------------------------------------- in one process


class Watch(TrainerCallback):
    """Looks at the folder of a run when the checkpoint has been saved."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, list[str]]] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.seen.append((fault(folder / f"checkpoint-{state.global_step}"), there))


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    """A trainer over two tiny tasks; an epoch has 6 steps."""

    def trainer(callbacks: Any = None, **kwargs: Any) -> Any:
        data = {name: datasets.Dataset.from_list(rows(name, "train", n)) for name, n in (("intent", 24), ("pos", 16))}
        data["intent"] = data["intent"].map(lambda row: {"label": "card" if "card" in row["label"] else "other"})
        tasks = [
            TextClassification.from_dataset("intent", data["intent"]),
            TokenClassification.from_dataset("pos", data["pos"]),
        ]
        folder = tiny_backbone()
        torch.manual_seed(0)
        adapters = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)
        model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
        settings = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 8, "max_steps": 6, "report_to": "none",
            "logging_steps": 1, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps",
            "save_steps": 2,
        }  # fmt: skip
        args = MultiTaskTrainingArguments(**(settings | kwargs))
        return MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=data, callbacks=callbacks)

    return trainer


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def logs(trainer: Any) -> list[dict[str, Any]]:
    timed = ("_runtime", "_second", "train_loss")
    return [{k: v for k, v in log.items() if not k.endswith(timed)} for log in trainer.state.log_history]


def test_a_checkpoint_is_in_place_and_whole_when_callbacks_hear_of_it(make: Any) -> None:
    watch = Watch()
    make(callbacks=[watch], save_total_limit=1).train()
    assert watch.seen == [(None, [f"checkpoint-{step}"]) for step in (2, 4, 6)]


def test_the_best_checkpoint_is_known_by_its_name(make: Any, tmp_path: Path) -> None:
    trainer = make(eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, save_total_limit=1)
    trainer.train()
    best = str(tmp_path / "out" / f"checkpoint-{trainer.state.best_global_step}")
    assert trainer.state.best_model_checkpoint == best
    for path in (tmp_path / "out").glob("checkpoint-*"):
        assert SAVING not in (path / "trainer_state.json").read_text()
    assert same(weights(trainer), MultiTaskModel.from_pretrained(best).state_dict())


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_run_that_is_resumed_at_the_end_of_an_epoch_has_its_evaluation_and_logs(make: Any, strategy: str) -> None:
    settings = {
        "max_steps": 8, "save_steps": 6, "mixing": "adaptive", "eval_strategy": strategy, "eval_steps": 6,
        "eval_on_start": True,
    }  # fmt: skip
    unbroken = make(**settings)
    unbroken.train()
    assert [log["step"] for log in unbroken.state.log_history if "rows_pos" in log] == [6, 8]
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(Path(unbroken.args.output_dir, "checkpoint-6")))
    assert same(weights(unbroken), weights(resumed))
    history = [trainer.state.stateful_callbacks["MixingHistory"] for trainer in (unbroken, resumed)]
    assert history[0] == history[1]


def damage(path: Path, how: str) -> None:
    if how == "lacks":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])


DAMAGED = [
    ("model.safetensors", "lacks", "it lacks model.safetensors"),
    ("rng_state.pth", "lacks", "it lacks rng_state.pth"),
    ("checkpoint_files.json", "lacks", "it lacks checkpoint_files.json, the file that a save writes last"),
    ("checkpoint_files.json", "is cut", "its checkpoint_files.json is cut short"),
    ("optimizer.pt", "is cut", r"its optimizer.pt has \d+ bytes and was written with \d+"),
]


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unbroken, resumed = make(save_total_limit=2), make(save_total_limit=2)
    unbroken.train()
    last, kept = tmp_path / "out" / "checkpoint-6", tmp_path / "kept"
    last.rename(kept)
    for name, how, message in DAMAGED:
        shutil.rmtree(last, ignore_errors=True)
        shutil.copytree(kept, last)
        damage(last / name, how)
        good = str(last.with_name("checkpoint-4"))
        with pytest.raises(ValueError, match=f"checkpoint-6' is damaged: {message}. Resume from {good!r}"):
            resumed.train(resume_from_checkpoint=str(last))
    resumed.train(resume_from_checkpoint=True)
    assert "damaged checkpoint-6" in caplog.text
    assert same(weights(unbroken), weights(resumed))
    assert faults(tmp_path / "out") == {4: None, 6: None}  # written again


def test_without_any_whole_checkpoint_nothing_is_resumed(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no complete checkpoint.*Train without resume_from_checkpoint"):
        make().train(resume_from_checkpoint=True)
    make(save_steps=6).train()
    damage(tmp_path / "out" / "checkpoint-6" / "scheduler.pt", "lacks")
    with pytest.raises(ValueError, match=r"no complete checkpoint.*checkpoint-6: it lacks scheduler.pt"):
        make().train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"it lacks scheduler\.pt. There is no complete one before it"):
        make().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    with pytest.raises(ValueError, match="checkpoint-60' is damaged: there is no such folder"):
        make().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-60"))


def test_a_training_that_begins_anew_beside_checkpoints_says_so(make: Any, tmp_path: Path, caplog: Any) -> None:
    make().train()
    assert "of an earlier training" not in caplog.text
    make().train(resume_from_checkpoint=True)
    make(save_strategy="no").train()
    assert "of an earlier training" not in caplog.text
    make(max_steps=2).train()
    assert f"output_dir={str(tmp_path / 'out')!r} has checkpoints of an earlier training, checkpoint-6" in caplog.text
    assert "train(resume_from_checkpoint=True)" in caplog.text


def test_a_save_that_lacked_but_its_renaming_counts_and_a_half_one_goes(make: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unbroken = make()
    unbroken.train()
    (out / SAVING).mkdir()
    (out / "checkpoint-4").rename(out / SAVING / "checkpoint-4")  # as when it was to replace one of that name
    (out / "checkpoint-2").rename(out / SAVING / "checkpoint-2")
    damage(out / SAVING / "checkpoint-2" / "optimizer.pt", "lacks")
    shutil.rmtree(out / "checkpoint-6")
    resumed = make()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.log_history[-1]["step"] == 6 and same(weights(unbroken), weights(resumed))
    assert faults(out) == {4: None, 6: None} and not (out / SAVING).exists()


def test_a_checkpoint_takes_the_place_of_one_of_its_name(tmp_path: Path) -> None:
    for text in ("old", "new"):
        staged = tmp_path / SAVING / "checkpoint-3"
        staged.mkdir(parents=True)
        (staged / "weights").write_text(text)
        seal(staged)
        if text == "old":
            put_in_place(staged, tmp_path / "checkpoint-3")
            (tmp_path / "checkpoint-3" / "of before").touch()
    put_in_place(staged, tmp_path / "checkpoint-3")
    assert (tmp_path / "checkpoint-3" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert not (tmp_path / "checkpoint-3" / "of before").exists()
    finish_saves(tmp_path)
    assert fault(tmp_path / "checkpoint-3") is None


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has these locks")
def test_a_second_training_into_the_folder_is_refused_until_the_first_is_killed(make: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    program = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", program, str(tmp_path / "out" / "_training.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(ValueError, match="Another process is training into output_dir"):
            make().train()
        make(save_strategy="no", max_steps=1).train()  # saves nothing, so is in nobody's way
        other.kill()
    make().train()
    assert not (tmp_path / "out" / "_training.lock").exists()


def test_checkpoints_of_weights_alone_are_whole_too(make: Any, tmp_path: Path) -> None:
    make(save_only_model=True).train()
    assert faults(tmp_path / "out") == {2: None, 4: None, 6: None}
    assert not (tmp_path / "out" / "checkpoint-6" / "optimizer.pt").exists()


def test_a_model_saved_over_another_leaves_the_files_of_the_new_one(make: Any, tmp_path: Path) -> None:
    model = make().model
    for folder, sizes in (("one", ["20KB", "1GB"]), ("many", ["1GB", "20KB"]), ("other", ["20KB", "50KB"])):
        for size in sizes:
            model.save_pretrained(tmp_path / folder, max_shard_size=size)
        (tmp_path / folder / "mine.txt").touch()
        model.save_pretrained(tmp_path / f"{folder} anew", max_shard_size=sizes[-1])
        files = {path.name for path in (tmp_path / folder).iterdir()}
        assert files == {path.name for path in (tmp_path / f"{folder} anew").iterdir()} | {"mine.txt"}
        assert same(model.state_dict(), MultiTaskModel.from_pretrained(tmp_path / folder).state_dict())


def test_a_writer_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(RuntimeError, match="disk"), written_whole(tmp_path) as folder:
        (folder / "config.json").write_text("ne")
        raise RuntimeError("the disk is full")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "old")]
