"""The documentation names what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification
from hf_mtl.balancing import BALANCING_METHODS, balancing_options
from hf_mtl.tasks import TASK_TYPES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/tasks.md"])
@pytest.mark.parametrize(
    "name", sorted(name for name, kind in TASK_TYPES.items() if kind.__module__.startswith("hf_mtl"))
)
def test_every_task_type_is_in(page: str, name: str) -> None:
    assert f"`{name}`" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BALANCING_METHODS)
def test_every_balancing_method_and_its_options_are_in(name: str) -> None:
    lines = (ROOT / "docs" / "balancing.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"| `{name}` |"))
    assert all(f"`{option}`" in line for option in balancing_options(name) if option != "normalize")


def test_the_loop_of_ones_own_runs_and_learns(tiny_backbone: Any, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("## A loop of your own")[1]
    found = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert found
    tasks = [TextClassification(name=name, labels=("a", "b", "c", "d")) for name in ("topic", "intent")]
    model = MultiTaskModel.from_backbone(tiny_backbone("bert"), tasks, adapters=LoraConfig(target_modules="all-linear"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), batching="mixed", use_cpu=True, report_to="none")
    data = {name: [{"text": "hello", "label": "b"}] * 8 for name in model.tasks}
    known: dict[str, Any] = {"model": model, "args": args, "data": data, "MultiTaskTrainer": MultiTaskTrainer}
    exec(found[1], known)
    assert known["output"].logits["intent"].shape == (2, 4) and known["output"].logits["topic"].shape == (1, 4)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= {f"heads.{name}.classifier.weight" for name in model.tasks}
    assert all(p.grad is None for p in model.parameters())
