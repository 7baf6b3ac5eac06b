"""The files under recipes/accelerate: accelerate reads each, and each trains where the devices for it are."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
TYPES = {"cpu_2": "MULTI_GPU", "multi_gpu": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED",
         "deepspeed_zero3": "DEEPSPEED"}  # fmt: skip


def launch(name: str | None, backbone: str, folder: Path, *options: str, balancing: str = "static") -> str:
    """Trains two tiny tasks by `accelerate launch` with that file, or options alone; gives what it printed."""
    recipe = {
        "backbone": backbone,
        "tasks": {
            task: {"type": kind, "data": {"train": str(ROOT / "recipes" / "data" / task / "train.jsonl"),
                                          "max_rows": 32}}
            for task, kind in (("intent", "text-classification"), ("pos", "token-classification"))
        },
        "balancing": {"method": balancing},
        "training": {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
                     "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"},
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        *([] if name is None else ["--config_file", str(FOLDER / f"{name}.yaml")]), *options,
        str(ROOT / "recipes" / "finetune.py"), str(file), "--output_dir", str(folder / "out"),
    ]  # fmt: skip
    command += ["--training.use_cpu", "true"] if name == "cpu_2" else []
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=540)
    # gloo's threads may abort an orderly exit, so what counts is what was done before.
    assert (folder / "out" / "model.safetensors").is_file(), done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_there_is_a_file_for_each_way() -> None:
    assert {file.stem for file in FILES} == set(TYPES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_the_file_as_it_is_meant(file: Path) -> None:
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == TYPES[file.stem]
    assert config.num_processes == 2 and not config.use_cpu
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    for part in (config.fsdp_config, config.deepspeed_config):
        assert set(part or {}) <= known  # what no option has would be left out without a word


@pytest.mark.parametrize(
    ("name", "options"), [("cpu_2", ()), (None, ("--cpu", "--num_processes", "1"))], ids=["two", "one"]
)
def test_processes_on_the_cpu_train_by_accelerate_launch(
    name: str | None, options: tuple[str, ...], tiny_backbone: Any, tmp_path: Path
) -> None:
    from hf_mtl import MultiTaskModel

    printed = launch(name, tiny_backbone(), tmp_path, *options)
    assert "The model is in" in printed and printed.count("The model is in") == 1
    assert list(MultiTaskModel.from_pretrained(tmp_path / "out").tasks) == ["intent", "pos"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["multi_gpu", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_a_gpu_trains_by_its_file(name: str, tiny_backbone: Any, tmp_path: Path) -> None:
    from hf_mtl import MultiTaskModel

    if name.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    number = min(2, torch.cuda.device_count())
    launch(name, tiny_backbone(), tmp_path, "--num_processes", str(number))
    model = MultiTaskModel.from_pretrained(tmp_path / "out")
    assert all(bool(p.isfinite().all()) for p in model.parameters())
