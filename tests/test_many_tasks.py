"""What each training step does with all modules and parameters, of which many tasks have thousands."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig
from torch import nn
from transformers import TrainerCallback
from two_tasks import differing, lora, two_tasks, weights

from hf_mtl import MultiTaskModel, TextClassification
from hf_mtl.adapters import adapter_layers, adapter_parameters, lie_close

# A matrix of 16 KB: far more than a parameter's own object.
LARGE = LoraConfig(r=128, target_modules="all-linear", lora_dropout=0.1)


def tasks(count: int) -> list[TextClassification]:
    return [TextClassification(name=f"task{i}", labels=("x", "y")) for i in range(count)]


def build(folder: str, count: int = 3, adapters: Any = LARGE, **kwargs: Any) -> MultiTaskModel:
    return MultiTaskModel.from_backbone(folder, tasks(count), adapters=adapters, **kwargs)


def learning(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if ".lora_" in name]


# ---------------------------------------------------------------- where parameters are

# On how many pages of memory parameters' objects are, over how many they are.
PAGES = """
import sys
from test_many_tasks import build, learning
from hf_mtl.adapters import inject

def pages(parameters):
    return len({parameter._cdata // 4096 for parameter in parameters}) / len(parameters)

model = build(sys.argv[1], 64)
inject.lie_close = lambda *_: None
print(pages(learning(model)), pages(learning(build(sys.argv[1], 64))))
"""


def test_adapters_parameters_are_neighbours_in_memory(tiny_backbone: Any) -> None:
    # By itself: between what other tests have left there is room for some.
    done = subprocess.run(
        [sys.executable, "-c", PAGES, tiny_backbone("bert")],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    close, loose = map(float, done.stdout.split()[-2:])
    assert close < 0.2 and close < loose / 2, done.stdout


@pytest.mark.parametrize(
    ("adapters", "kwargs"),
    [
        (LARGE, {}),
        (LoraConfig(r=2, target_modules="all-linear", use_dora=True), {}),
        (IA3Config(target_modules=["query", "dense"], feedforward_modules=["dense"]), {}),
        (LoraConfig(r=2, target_modules=["query", "word_embeddings"]), {}),
        (LARGE, {"sharing": "mtl-lora"}),
    ],
    ids=["lora", "dora", "ia3", "embedding", "mtl-lora"],
)
def test_parameters_made_anew_are_over_the_same_values(adapters: Any, kwargs: Any, tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"), adapters=adapters, **kwargs)
    before = dict(model.named_parameters())
    known = {name: dict(vars(p)) for name, p in before.items()}
    lie_close(adapter_layers(model.backbone))
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    moved = {name for name, p in after.items() if p is not before[name]}
    assert moved == {name for name in before if ".lora_" in name or ".ia3_" in name}
    for name in moved:
        old, new = before[name], after[name]
        assert type(new) is nn.Parameter and new.data_ptr() == old.data_ptr() and new.stride() == old.stride()
        assert new.requires_grad == old.requires_grad and vars(new) == known[name] and new.is_leaf


def test_parameters_that_others_may_hold_stay_what_they_are(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"))
    first, second, third, fourth, *_ = learning(model)
    first.grad = torch.ones_like(first)
    second.register_post_accumulate_grad_hook(lambda _: None)
    third.register_hook(lambda gradient: gradient)
    fourth.ds_id = 3
    one, two = ([*adapter_layers(model.backbone)][i].lora_A["task0"] for i in (3, 4))
    two.weight = before = one.weight  # one parameter at two places
    lie_close(adapter_layers(model.backbone))
    assert all(now is held for now, held in zip(learning(model), (first, second, third, fourth), strict=False))
    assert one.weight is two.weight is not before


def test_a_new_task_leaves_the_others_parameters_to_their_optimizer(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"))
    before = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.add_task(TextClassification(name="late", labels=("x", "y")))
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in before.items())
    assert all(p.requires_grad for p in adapter_parameters(model.backbone, "late"))


# ---------------------------------------------------------------- modules that stay


def test_inside_of_keeping_modules_gradients_of_all_parameters_are_taken_away(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"))
    assert model.every_parameter() is not model.every_parameter()
    with model.keeping_modules():
        found = model.every_parameter()
        assert found is model.every_parameter() and found == [*model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with model.keeping_modules():
            model.zero_grad(set_to_none=False)
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
        model.zero_grad()
        assert all(p.grad is None for p in model.parameters())
    model.register_parameter("more", nn.Parameter(torch.ones(1)))
    assert any(p is model.more for p in model.every_parameter())


@pytest.mark.parametrize("change", ["add", "remove", "attach"])
def test_a_task_that_comes_or_goes_meanwhile_is_known(change: str, tiny_backbone: Any, tmp_path: Path) -> None:
    model = build(tiny_backbone("bert"))
    model.save_task("task1", tmp_path)
    with model.keeping_modules():
        model.every_parameter(), model.train()
        if change == "add":
            model.load_task(tmp_path, name="late")
        elif change == "remove":
            model.remove_task("task1")
        else:
            model.attach_adapter("task1", tmp_path / "adapter")
        assert model.every_parameter() == [*model.parameters()]
        model.eval()
        assert not any(module.training for module in model.modules())


def test_inside_of_keeping_modules_every_module_is_set_to_training_and_back(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"), 3, LARGE)
    layer: Any = next(adapter_layers(model.backbone))
    layer.lora_dropout["task0"].eval()
    with model.keeping_modules():
        for mode in (True, True, False, False, True):
            model.train(mode)
            assert all(module.training is mode for module in model.modules())
        for part in (model.backbone, layer, layer.lora_dropout, model.heads["task1"]):
            part.eval()
            model.train()
            assert all(module.training for module in model.modules())
        model.backbone.eval()
        model.eval()
        assert not any(module.training for module in model.modules())
        other = copy.deepcopy(model)
    with model.keeping_modules():
        model.train(), model.every_parameter()
        other = copy.deepcopy(model)
        other.add_task(TextClassification(name="late", labels=("x", "y")))
        assert len(other.every_parameter()) > len(model.every_parameter())


# ---------------------------------------------------------------- the trainer


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(adapters: Any = None, **kwargs: Any) -> Any:
        return two_tasks(tiny_backbone("bert"), rows, tmp_path / "out", adapters, **kwargs)

    return trainer


class Walks(TrainerCallback):
    """How often each step goes through all of the model's modules, or sets a leaf of an adapter to training."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.now = 0
        walk = nn.Module.named_modules

        def named_modules(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.now += module is model
            return walk(module, *args, **kwargs)

        monkeypatch.setattr(nn.Module, "named_modules", named_modules)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(self.now)
        self.now = 0


@pytest.mark.parametrize("settings", [{}, {"balancing": "gls"}, {"max_grad_norm": 0.0}], ids=str)
def test_no_step_but_the_first_goes_through_all_modules(settings: Any, make: Any, monkeypatch: Any) -> None:
    trainer = make(lora(), **settings)
    watch = Walks(trainer.model, monkeypatch)
    trainer.add_callback(watch)
    trainer.train()
    assert len(watch.steps) == 16 and watch.steps[0] > 0  # looked for once
    assert watch.steps[1:] == [0] * 15


@pytest.mark.parametrize("adapters", [None, lora()], ids=["all", "adapters"])
def test_weights_are_those_of_transformers_own_ways(adapters: Any, make: Any, monkeypatch: Any) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 5}
    one = make(adapters, **settings)
    one.train()
    monkeypatch.setattr(MultiTaskModel, "keeping_modules", lambda _: copy.copy(torch.enable_grad()))
    monkeypatch.setattr(MultiTaskModel, "zero_grad", nn.Module.zero_grad)
    two = make(adapters, **settings)
    two.train()
    assert differing(weights(one), weights(two)) == []
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "grad_norm" in entry] for t in (one, two)]
    assert norms[0] == norms[1]


def test_operations_are_counted_by_what_a_row_goes_through(make: Any) -> None:
    trainer = make(lora(), num_train_epochs=1)
    tokens = 0
    step = trainer.training_step

    def counting(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal tokens
        tokens += inputs["input_ids"].numel()
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = counting
    trainer.train()
    bare = own = 0
    tables = {m.weight for m in trainer.model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in trainer.model.named_parameters():
        if any(f".{task}." in name for task in ("intent", "pos")):
            own += parameter.numel()
        elif parameter not in tables:
            bare += parameter.numel()
    assert trainer.state.total_flos == pytest.approx(6 * tokens * (bare + own / 2))
