"""Balancing in the trainer: against torchjd on explicit Jacobians of the model, plain autograd, and unbroken runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torchjd import aggregation
from two_tasks import two_tasks

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification

RATE = 0.1

# Three questions that can be asked about a sentence: all losses are means over rows.
QUESTIONS: dict[str, Callable[[str], bool]] = {
    "card": lambda text: "card" in text,
    "long": lambda text: len(text) > 60,
    "asks": lambda text: "?" in text,
}


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    """A trainer by plain SGD over three tiny tasks, without dropout."""

    def trainer(adapters: Any = None, layers: dict[str, int] | None = None, n: int = 24, **kwargs: Any) -> Any:
        texts = [row["text"] for row in rows("intent", "train", 40)]
        data = {}
        for i, (name, question) in enumerate(QUESTIONS.items()):
            own = texts[:n] if kwargs.get("share_rows") else texts[4 * i : 4 * i + n]
            data[name] = datasets.Dataset.from_list([{"text": t, "label": str(question(t))} for t in own])
        layers = layers or {}
        tasks = [
            TextClassification(name=name, labels=("False", "True"), dropout=0.0, layer=layers.get(name, -1))
            for name in data
        ]
        folder = tiny_backbone("bert")  # making it draws random numbers
        torch.manual_seed(0)
        model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 1, "report_to": "none",
            "gradient_accumulation_steps": 3, "learning_rate": RATE, "lr_scheduler_type": "constant", "optim": "sgd",
            "max_grad_norm": 0.0, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "mixing": "uniform",
            "length_group": 1, "logging_steps": 1,
        }  # fmt: skip
        args = MultiTaskTrainingArguments(**(settings | kwargs))
        return MultiTaskTrainer(model, args, train_dataset=data)

    return trainer


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_parameters() if tensor.requires_grad}


def furthest(one: Any, two: Any) -> float:
    a, b = weights(one.model), weights(two.model)
    return max((a[name] - b[name]).abs().max().item() for name in a)


def losses_of_step(trainer: Any) -> dict[str, list[Tensor]]:
    """task -> the losses of its micro-batches in the first optimizer step, with their graphs."""
    losses: dict[str, list[Tensor]] = {}
    batches = iter(trainer.get_train_dataloader())
    for _ in range(trainer.args.gradient_accumulation_steps):
        for name, loss in trainer.model.train()(**next(batches)).task_losses.items():
            losses.setdefault(name, []).append(loss)
    return losses


def steps_taken(trainer: Any) -> dict[str, Tensor]:
    """parameter -> what the optimizer took for its gradient."""
    before = weights(trainer.model)
    trainer.train()
    return {name: (before[name] - after) / RATE for name, after in weights(trainer.model).items()}


ORACLES: dict[str, Any] = {
    "upgrad": aggregation.UPGrad,
    "imtl-g": aggregation.IMTLG,
    "mgda": aggregation.MGDA,
    "config": aggregation.ConFIG,
}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("upgrad", {}),
        ("imtl-g", {"layers": {"asks": 1}}),
        ("mgda", {"gradient_accumulation_steps": 6, "per_device_train_batch_size": 2}),
        ("upgrad", {"share_rows": True, "gradient_accumulation_steps": 1}),
        ("config", {"share_rows": True, "gradient_accumulation_steps": 2}),
        ("upgrad", {"share_rows": True, "gradient_accumulation_steps": 1, "activation_checkpointing": True}),
    ],
)
def test_the_step_is_torchjds_aggregation_of_the_models_jacobian(method: str, settings: Any, make: Any) -> None:
    trainer = make(balancing=method, balancing_options={"normalize": False}, **settings)
    parts = trainer.args.gradient_accumulation_steps
    losses = {name: sum(values) / parts for name, values in losses_of_step(trainer).items()}
    assert len(losses) == 3
    names = list(weights(trainer.model))
    parameters = [trainer.model.get_parameter(name) for name in names]
    grads = {
        task: torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        for task, loss in losses.items()
    }
    shared = [i for i in range(len(names)) if sum(row[i] is not None for row in grads.values()) > 1]
    jacobian = torch.stack(
        [
            torch.cat([(torch.zeros_like(parameters[i]) if row[i] is None else row[i]).flatten() for i in shared])
            for row in (grads[task] for task in QUESTIONS)
        ]
    )
    # torchjd's solvers have small numbers of their own; ours get rows of length about 1.
    scale = jacobian.pow(2).sum(1).mean().sqrt()
    whole = (ORACLES[method]()(jacobian / scale) * scale).split([parameters[i].numel() for i in shared])
    wanted = {names[i]: part.view_as(parameters[i]) for i, part in zip(shared, whole, strict=True)}
    found = steps_taken(trainer)
    for i, name in enumerate(names):
        own = next((row[i] for row in grads.values() if row[i] is not None), torch.zeros(()))
        assert torch.allclose(found[name], wanted.get(name, own), atol=2e-5), name
    assert {name for name in names if name not in wanted and "backbone" in name} == set()


def test_gls_takes_the_step_of_the_geometric_mean(make: Any) -> None:
    trainer = make(balancing="gls", gradient_accumulation_steps=6)
    values = [value for own in losses_of_step(trainer).values() for value in own]
    mean = torch.stack(values).log().mean().exp()
    names = list(weights(trainer.model))
    parameters = [trainer.model.get_parameter(name) for name in names]
    wanted = dict(zip(names, torch.autograd.grad(mean, parameters, allow_unused=True), strict=True))
    for name, found in steps_taken(trainer).items():
        assert torch.allclose(found, torch.zeros(()) if wanted[name] is None else wanted[name], atol=2e-5), name


@pytest.mark.parametrize(("method", "options"), [("cagrad", {"c": 0.0}), ("dwa", {}), ("log-labels", {})])
@pytest.mark.parametrize("settings", [{}, {"share_rows": True}, {"activation_checkpointing": True}])
def test_weights_of_one_are_plain_training(method: str, options: Any, settings: Any, make: Any) -> None:
    # CAGrad's ball of size 0 is the mean, DWA has no rates yet, and all three tasks have two labels.
    plain = make(max_steps=4, max_grad_norm=1.0, **settings)
    balanced = make(max_steps=4, max_grad_norm=1.0, balancing=method, balancing_options=options, **settings)
    plain.train()
    balanced.train()
    assert furthest(plain, balanced) < 1e-5
    logs = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (plain, balanced)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-4)


@pytest.mark.parametrize("method", ["upgrad", "gradnorm", "uncertainty", "famo"])
def test_task_weights_scale_losses_and_rows(method: str, make: Any) -> None:
    found = {}
    for weight in (1.0, 0.0):
        trainer = make(balancing=method)
        task = trainer._tasks["card"]
        trainer._tasks["card"] = type(task)(**{**task.__dict__, "weight": weight})
        found[weight] = steps_taken(trainer)
    heads = {weight: max(v.abs().max() for n, v in s.items() if "heads.card" in n) for weight, s in found.items()}
    assert heads[1.0] > 0 and heads[0.0] == 0


@pytest.mark.parametrize("method", ["upgrad", "gradnorm", "uncertainty"])
def test_more_micro_batches_of_fewer_rows_are_the_same_step(method: str, make: Any) -> None:
    settings = {"tasks_per_step": 3, "max_steps": 3, "balancing": method}
    one = make(gradient_accumulation_steps=3, per_device_train_batch_size=4, **settings)
    two = make(gradient_accumulation_steps=12, per_device_train_batch_size=1, **settings)
    one.train()
    two.train()
    assert furthest(one, two) < 1e-5


@pytest.mark.parametrize("method", ["gradvac", "pcgrad", "graddrop", "gradnorm", "famo", "uncertainty", "dwa", "rlw"])
def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(method: str, make: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "optim": "adamw_torch"}
    settings |= {"balancing": method, "balancing_options": {"window": 2} if method == "dwa" else None}
    unbroken, resumed = make(**settings), make(**settings)
    unbroken.train()
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "balancing.json").read_text())
    assert state["method"] == method and state["state"]["step"] == 4
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert furthest(unbroken, resumed) == 0
    assert resumed._balancing.state_dict() == unbroken._balancing.state_dict()


def test_another_method_begins_anew_on_a_checkpoint_and_says_so(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(max_steps=2, save_strategy="steps", save_steps=2, balancing="famo").train()
    trainer = make(max_steps=4, balancing="pcgrad")
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert trainer._balancing.step == 2
    assert "was written with balancing='famo'; 'pcgrad' begins anew" in caplog.text


def test_a_second_training_begins_with_a_fresh_state(make: Any) -> None:
    trainer = make(max_steps=2, balancing="famo")
    trainer.train()
    trainer.train()
    assert trainer._balancing.step == 2


@pytest.mark.parametrize("method", ["upgrad", "famo"])
def test_bfloat16_autocast_and_activation_checkpointing_train(method: str, make: Any) -> None:
    trainer = make(bf16=True, activation_checkpointing=True, max_steps=6, balancing=method)
    before = weights(trainer.model)
    trainer.train()
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    assert all(not torch.equal(before[n], w) for n, w in weights(trainer.model).items() if "dense.weight" in n)


def test_private_adapters_keep_their_own_gradient_and_the_log_says_that_nothing_is_shared(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear")
    plain, balanced = make(lora, max_steps=3), make(lora, max_steps=3, balancing="pcgrad")
    plain.train()
    assert "nothing to do" not in caplog.text
    balanced.train()
    assert furthest(plain, balanced) == 0
    assert caplog.text.count("balancing='pcgrad' has nothing to do: the tasks ['card', 'long', 'asks']") == 1


@pytest.mark.parametrize("method", ["mgda", "graddrop"])
def test_private_adapters_keep_their_own_gradient_in_mixed_batches(
    method: str, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lora, mixed = LoraConfig(r=2, target_modules="all-linear"), {"batching": "mixed", "max_steps": 3}
    plain, balanced = make(lora, **mixed), make(lora, balancing=method, **mixed)
    start = weights(plain.model)
    plain.train()
    balanced.train()
    moved = max((start[name] - after).abs().max().item() for name, after in weights(plain.model).items())
    assert furthest(plain, balanced) < 1e-6 < 1e-3 < moved
    assert f"balancing='{method}' has nothing to do" in caplog.text


@pytest.mark.parametrize("batching", ["per_task", "mixed"])
def test_adapters_beside_something_shared_are_not_balanced(batching: str, make: Any) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)

    def steps(method: str) -> dict[str, Tensor]:
        trainer = make(lora, balancing=method, batching=batching)
        trainer.model.backbone.embeddings.requires_grad_(True)
        return steps_taken(trainer)

    plain, balanced = steps("static"), steps("mgda")
    moved = {name for name in plain if (plain[name] - balanced[name]).abs().max() > 1e-5}
    assert moved and all("embeddings" in name for name in moved)


def test_what_a_method_reads_of_a_batch_hangs_on_no_number_of_words(
    tiny_backbone: Any, rows: Any, tmp_path: Path
) -> None:
    trainer = two_tasks(tiny_backbone("bert"), rows, tmp_path, balancing="gradnorm", max_steps=1)
    trainer.train()
    (log,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert trainer._balancing._first == pytest.approx({n: log[f"loss_{n}"] for n in ("intent", "pos")}, rel=1e-4)


def test_words_of_short_texts_count_the_same_under_a_geometric_mean(
    tiny_backbone: Any, rows: Any, tmp_path: Path
) -> None:
    # Two batches of one task: the gradient of the logarithm of the mean over all words, times that mean.
    settings = {"balancing": "gls", "optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0.0, "max_steps": 1}
    weights_of = {"mixing": "weights", "mixing_weights": {"intent": 0, "pos": 1}, "lr_scheduler_type": "constant"}
    trainer = two_tasks(tiny_backbone("bert"), rows, tmp_path, **settings, **weights_of)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses, shares = [], []
    batches = iter(trainer.get_train_dataloader())
    for batch in (next(batches), next(batches)):
        losses.append(trainer.model.train()(**batch).task_losses["pos"])
        shares.append(int((batch["labels"] >= 0).sum()) / trainer._labels_per_batch["pos"])
    assert shares[0] != shares[1]
    both = list(zip(losses, shares, strict=True))
    mean = sum(loss.detach() * share for loss, share in both) / sum(shares)
    wanted = mean * sum(loss.log() * share for loss, share in both) / 2
    names = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(wanted, [trainer.model.get_parameter(name) for name in names], allow_unused=True)
    found = steps_taken(trainer)
    for name, grad in zip(names, grads, strict=True):
        assert torch.allclose(found[name], torch.zeros(()) if grad is None else grad, atol=2e-5), name


def test_the_logs_hold_each_tasks_weight(make: Any) -> None:
    trainer = make(balancing="upgrad", max_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert sum(logs[-1][f"weight_{name}"] for name in QUESTIONS) == pytest.approx(3)
    assert all(math.isfinite(log[f"loss_{name}"]) for log in logs for name in QUESTIONS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balancing": "pcgrd"}, r"Unknown balancing 'pcgrd'.*Did you mean 'pcgrad'"),
        ({"balancing": "cagrad", "balancing_options": {"d": 1}}, r"balancing 'cagrad' has no option 'd'"),
        ({"balancing": "cagrad", "balancing_options": {"c": "1"}}, r"option c must be int or float, got '1'"),
        ({"balancing": "cagrad", "balancing_options": "c=1"}, r"balancing_options='c=1' must be a dict"),
        ({"balancing": "graddrop", "balancing_options": {"leak": 2.0}}, r"leak=2.0 must be from 0 to 1"),
        ({"balancing": "pcgrad", "gradient_accumulation_steps": 1}, r"needs several tasks in an optimizer step"),
        ({"balancing": "pcgrad", "tasks_per_step": 1}, r"needs several tasks in an optimizer step"),
        ({"balancing": "pcgrad", "torch_empty_cache_steps": 2}, r"without torch_empty_cache_steps"),
    ],
)
def test_what_cannot_be_balanced_is_refused(settings: Any, message: str, make: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_options_may_be_json_as_on_a_command_line(make: Any) -> None:
    assert make(balancing="cagrad", balancing_options='{"c": 0.25}').args.balancing_options == {"c": 0.25}
