"""Learning rates by part and layer: the groups that the optimizer gets, and steps in proportion to them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from two_tasks import lora, two_tasks, weights

from hf_mtl.recipe.sections import read_training

RATES = {"backbone": 1e-4, "heads": 1e-2, "pos.head": 3e-2}


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(adapters: Any = None, kind: str = "bert", **kwargs: Any) -> Any:
        return two_tasks(tiny_backbone(kind), rows, tmp_path / "out", adapters, **kwargs)

    return trainer


def rates(trainer: Any) -> dict[str, float]:
    """Trained parameter -> its rate in the optimizer."""
    of = {p: float(group["lr"]) for group in trainer.create_optimizer().param_groups for p in group["params"]}
    return {name: of[p] for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_parts_and_tasks_have_their_own_rates(make: Any) -> None:
    found = rates(make(learning_rates=RATES))
    assert {rate for name, rate in found.items() if name.startswith("backbone.")} == {1e-4}
    assert {rate for name, rate in found.items() if name.startswith("heads.intent.")} == {1e-2}
    assert {rate for name, rate in found.items() if name.startswith("heads.pos.")} == {3e-2}


def test_adapters_have_a_rate_by_task_and_the_rest_keeps_learning_rate(make: Any) -> None:
    found = rates(make(lora(), learning_rates={"adapters": 3e-4, "pos.adapter": 5e-4}))
    assert {rate for name, rate in found.items() if ".lora_" in name and ".intent." in name} == {3e-4}
    assert {rate for name, rate in found.items() if ".lora_" in name and ".pos." in name} == {5e-4}
    assert {rate for name, rate in found.items() if name.startswith("heads.")} == {1e-2}


@pytest.mark.parametrize("kind", ["bert", "mpnet", "deberta-v2"])
def test_layer_decay_is_lowest_in_the_embeddings(make: Any, kind: str) -> None:
    found = rates(make(kind=kind, layer_decay=0.5, learning_rates={"backbone": 1e-3}))
    for name, rate in found.items():
        if "backbone." in name:
            layer = next((i for i in (0, 1) if f"layer.{i}." in name), None)
            assert rate == pytest.approx({None: 2.5e-4, 0: 5e-4, 1: 1e-3}[layer]), name
        else:
            assert rate == 1e-2


def test_layer_decay_is_by_the_layer_an_adapter_is_in(make: Any) -> None:
    found = rates(make(lora(), layer_decay=0.1))
    assert [rate for name, rate in found.items() if "layer.0." in name] == pytest.approx([1e-3] * 24)
    assert {rate for name, rate in found.items() if "layer.1." in name} == {1e-2}


def test_a_layer_that_is_named_has_the_rate_as_it_is_said(make: Any) -> None:
    found = rates(make(layer_decay=0.5, learning_rates={"layers.0": 7e-3, "embeddings": 1e-6}))
    assert {rate for name, rate in found.items() if "layer.0." in name} == {7e-3}
    assert {rate for name, rate in found.items() if "embeddings." in name} == {1e-6}
    assert {rate for name, rate in found.items() if "layer.1." in name} == {1e-2}


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop", "adamw_torch_fused"])
def test_what_decays_and_what_the_optimizer_is_are_transformers_own(make: Any, optim: str) -> None:
    plain = make(optim=optim, weight_decay=0.1).create_optimizer()
    trainer = make(optim=optim, weight_decay=0.1, learning_rates=RATES, layer_decay=0.9)
    ours = trainer.create_optimizer()
    assert type(ours) is type(plain)
    names = {p: name for name, p in trainer.model.named_parameters()}
    decays = {names[p]: group["weight_decay"] for group in ours.param_groups for p in group["params"]}
    usual = set(trainer.get_decay_parameter_names(trainer.model))
    assert {name for name, decay in decays.items() if decay} == usual & set(decays)
    rest = [group.keys() - {"rate_of"} for group in ours.param_groups]
    assert all(keys == plain.param_groups[0].keys() for keys in rest)


def test_one_step_of_sgd_is_the_rate_times_the_plain_step_and_the_schedule_scales_all(make: Any) -> None:
    settings = {"optim": "sgd", "max_steps": 3, "max_grad_norm": 0.0, "lr_scheduler_type": "linear"}
    one = {"learning_rate": 1.0, "max_steps": 1, "lr_scheduler_type": "constant"}
    plain = make(**(settings | one))
    before = weights(plain)
    torch.manual_seed(1)
    plain.train()
    ours = make(**(settings | one | {"learning_rates": RATES}))
    torch.manual_seed(1)
    ours.train()
    for name, moved in weights(ours).items():
        rate = 1e-4 if name.startswith("backbone") else 3e-2 if name.startswith("heads.pos") else 1e-2
        wanted = before[name] + rate * (weights(plain)[name] - before[name])
        assert torch.allclose(moved, wanted, atol=1e-6), name
    scheduled = make(**(settings | {"learning_rates": RATES}))
    scheduled.train()
    logged = [entry for entry in scheduled.state.log_history if "loss" in entry]
    for label, rate in (("backbone", 1e-4), ("heads", 1e-2), ("pos.head", 3e-2)):
        found = [entry[f"learning_rate_{label}"] for entry in logged]
        assert found == pytest.approx([rate * 2 / 3, rate / 3, 0.0])


def test_a_resumed_run_has_the_same_rates_and_weights(make: Any, tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rates": RATES, "layer_decay": 0.5}
    unbroken = make(**settings)
    unbroken.train()
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(unbroken).items())
    assert [g["lr"] for g in unbroken.optimizer.param_groups] == [g["lr"] for g in resumed.optimizer.param_groups]


@pytest.mark.parametrize(
    ("rates", "adapters", "message"),
    [
        ({"head": 1e-3}, None, "'head', which is nothing that is trained.*'heads'"),
        ({"backbone": 1e-3}, lora(), "'backbone', which is nothing that is trained"),
        ({"post.head": 1e-3}, None, "'pos.head'"),
        ({"layers.2": 1e-3}, None, "'layers.2', which is nothing"),
    ],
)
def test_names_of_nothing_that_is_trained_are_refused(make: Any, rates: Any, adapters: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(adapters, learning_rates=rates).create_optimizer()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rates": {"heads": 0}}, "must be a number above 0"),
        ({"learning_rates": "heads"}, "JSON"),
        ({"layer_decay": 1.5}, "must lie in"),
        ({"layer_decay": 0.9, "optim": "galore_adamw_layerwise"}, "one rate for all"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_given_optimizer_is_not_cut(make: Any) -> None:
    trainer = make(layer_decay=0.9)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="SGD was given"):
        trainer.create_optimizer()


def test_a_recipe_gives_rates_and_times_as_numbers() -> None:
    found = read_training({"learning_rates": {"heads": "1e-3"}, "unfreezing": {1: 2, 2.5: "4"}, "layer_decay": "0.9"})
    assert found == {"learning_rates": {"heads": 1e-3}, "unfreezing": {"1": 2, "2.5": 4}, "layer_decay": 0.9}
    with pytest.raises(ValueError, match=r"training\.learning_rates\.heads must be a number"):
        read_training({"learning_rates": {"heads": "fast"}})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"learning_rates": RATES}, {}),
        ({}, {"layer_decay": 0.5}),
        ({"freeze_layers": 1}, {}),
        ({}, {"freeze_layers": 1}),
    ],
    ids=["rates", "decay", "frozen", "more frozen"],
)
def test_a_run_resumed_with_other_groups_is_told_what_has_to_be_the_same(
    make: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    make(max_steps=2, save_strategy="steps", save_steps=1, **before).train()
    with pytest.raises(ValueError, match=r"checkpoint-2' has the optimizer's state of other parameters.*freeze_layers"):
        make(max_steps=4, save_strategy="steps", save_steps=1, **after).train(resume_from_checkpoint=True)
