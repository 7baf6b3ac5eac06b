"""What each training step does with all modules and parameters, of which many tasks have thousands."""

import copy
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import IA3Config, LoraConfig
from torch import nn
from transformers import TrainerCallback
from two_tasks import differing, lora, two_tasks, weights

from hf_mtl import JointRelationExtraction, MultiTaskModel, TextClassification
from hf_mtl.adapters import adapter_layers, adapter_parameters, lie_close
from hf_mtl.many_parameters import _WHOLE as WHOLE

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


def test_making_and_loading_grow_as_the_tasks_do(tiny_backbone: Any, tmp_path: Path, monkeypatch: Any) -> None:
    seen = 0
    walk = nn.Module.named_modules

    def named_modules(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        for found in walk(module, *args, **kwargs):
            seen += 1
            yield found

    monkeypatch.setattr(nn.Module, "named_modules", named_modules)
    counts = []
    for number in (8, 32):
        seen = 0
        model = build(tiny_backbone("bert"), number)
        made, seen = seen, 0
        model.save_pretrained(tmp_path)
        seen = 0
        loaded = MultiTaskModel.from_pretrained(tmp_path)
        counts.append((made, seen))
        assert [*loaded.tasks] == [*model.tasks] and loaded.parameter_counts() == model.parameter_counts()
        for layer in adapter_layers(loaded.backbone):
            assert layer.held() == [*model.tasks] == [*layer.lora_dropout]
    assert all(many < 5 * few for few, many in zip(*counts, strict=True)), counts


# ---------------------------------------------------------------- modules that stay


def test_inside_of_keeping_modules_gradients_of_all_parameters_are_taken_away(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"))
    assert model.every_parameter() is not model.every_parameter()
    with model.keeping_modules():
        found = model.every_parameter()
        assert found is model.every_parameter() and found == (*model.parameters(),)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with model.keeping_modules():
            model.zero_grad(set_to_none=False)
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
        model.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        with model.keeping_modules(False):
            assert model.every_parameter() is not model.every_parameter()
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
        assert model.every_parameter() == (*model.parameters(),)
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
        model.train()
        for leaf in (layer.lora_dropout["task1"], layer.lora_A["task1"]):
            leaf.eval()
        model.train()
        # Linear layers are left alone: they do the same in both modes.
        assert layer.lora_dropout["task1"].training and not layer.lora_A["task1"].training
        model.every_parameter()
        other = copy.deepcopy(model)
        other.add_task(TextClassification(name="late", labels=("x", "y")))
        assert len(other.every_parameter()) > len(model.every_parameter())


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_registered_meanwhile_is_known(nested: bool, tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"))
    with model.keeping_modules():
        model.every_parameter(), model.train()
        with model.keeping_modules() if nested else nullcontext():
            model.every_parameter()
            model.backbone.register_parameter("more", nn.Parameter(torch.ones(1)))
            model.heads["task1"].extra = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
            model.heads["task1"].extra.eval()
            model.load_state_dict(model.state_dict(), assign=True)
        assert model.every_parameter() == (*model.parameters(),)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        assert model.train() and all(module.training for module in model.modules())


# ---------------------------------------------------------------- the trainer


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(adapters: Any = None, **kwargs: Any) -> Any:
        return two_tasks(tiny_backbone("bert"), rows, tmp_path / "out", adapters, **kwargs)

    return trainer


class Late(TrainerCallback):
    """Gives the model a parameter after the optimizer is made, and takes dropouts out of training once."""

    def __init__(self, model: Any) -> None:
        self.model, self.norms = model, []

    def on_train_begin(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.model.extra = nn.Parameter(torch.ones(2))
        optimizer.param_groups[0]["params"].append(self.model.extra)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        assert self.model.extra.grad is not None
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def on_step_begin(self, args: Any, state: Any, *more: Any, **kwargs: Any) -> None:
        dropouts = [module for module in self.model.modules() if isinstance(module, nn.Dropout)]
        if state.global_step == 2:
            for dropout in dropouts:
                dropout.eval()
        elif state.global_step > 2:
            assert dropouts and all(dropout.training for dropout in dropouts)


def test_a_callbacks_own_parameter_is_clipped_and_dropout_comes_back(make: Any) -> None:
    trainer = make(LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.3), max_grad_norm=0.5)
    loss_of = trainer.compute_loss

    def compute_loss(model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = loss_of(model, *args, **kwargs)
        return (loss[0] + model.extra.sum(), loss[1]) if isinstance(loss, tuple) else loss + model.extra.sum()

    trainer.compute_loss = compute_loss
    watch = Late(trainer.model)
    trainer.add_callback(watch)
    trainer.train()
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(watch.norms) == len(logged) == 16
    assert min(logged) > 1 and watch.norms == pytest.approx([0.5] * 16, rel=1e-3)  # the extra one alone has 1.4
    assert trainer.model.extra.grad is None


def test_gradients_are_clipped_as_torch_does(make: Any) -> None:
    trainer = make(lora(), max_grad_norm=0.1)
    before: dict[str, torch.Tensor] = {}
    clip = trainer._clip_grad_norm

    def clipping(model: Any) -> Any:
        named = {name: p for name, p in model.named_parameters() if p.grad is not None}
        before.update({name: p.grad.clone() for name, p in named.items()})
        norm = clip(model)
        twins = [nn.Parameter(torch.zeros_like(gradient)) for gradient in before.values()]
        for twin, gradient in zip(twins, before.values(), strict=True):
            twin.grad = gradient
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(twins, 0.1)))
        assert all(torch.allclose(p.grad, t.grad) for p, t in zip(named.values(), twins, strict=True))
        before.clear()
        return norm

    trainer._clip_grad_norm = clipping
    trainer.train()
    assert trainer.state.global_step == 16


def test_models_that_others_cut_up_are_not_kept() -> None:
    kinds = {kind for kind in DistributedType if kind not in WHOLE}
    assert kinds >= {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.XLA, DistributedType.MEGATRON_LM}
    assert {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU} <= WHOLE


class Walks(TrainerCallback):
    """How often each step goes through all of the model's modules."""

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
    monkeypatch.setattr(MultiTaskModel, "keeping_modules", lambda *_: nullcontext())
    monkeypatch.setattr(MultiTaskModel, "zero_grad", nn.Module.zero_grad)
    two = make(adapters, **settings)
    two.train()
    assert differing(weights(one), weights(two)) == []
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "grad_norm" in entry] for t in (one, two)]
    assert norms[0] == norms[1]


def test_heads_tables_of_embeddings_are_not_counted_twice(make: Any) -> None:
    trainer = make(lora())
    for i in range(40):
        trainer.model.add_task(JointRelationExtraction(name=f"joint{i}", labels=("r", "s"), types=("a", "b")))
    layers = [m.base_layer.weight.numel() for m in adapter_layers(trainer.model.backbone)]
    assert trainer.floating_point_ops({"input_ids": torch.zeros(1, 1)}) > 6 * sum(layers)
    assert trainer.floating_point_ops({"labels": torch.zeros(1)}) == 0


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
