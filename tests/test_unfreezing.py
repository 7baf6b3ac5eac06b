"""Layers that learn from some time on: what moves when, what the optimizer knows, and resuming to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from two_tasks import differing, lora, two_tasks, weights

# 16 steps in two epochs of 8; two layers.
PLAN = {"0.5": 1, "1": 2}


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(adapters: Any = None, **kwargs: Any) -> Any:
        return two_tasks(tiny_backbone("bert"), rows, tmp_path / "out", adapters, **kwargs)

    return trainer


class Watch(TrainerCallback):
    """The weights and what the optimizer keeps a state of, before each step and after the last."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.weights, self.states = trainer, [], []
        trainer.add_callback(self)

    def _look(self) -> None:
        self.weights.append(weights(self.trainer))
        names = {p: name for name, p in self.trainer.model.named_parameters()}
        self.states.append({names[p] for p in self.trainer.optimizer.optimizer.state})

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._look()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._look()

    def moved(self, first: int, last: int) -> set[str]:
        """Which parts differ between two points."""
        names = differing(self.weights[first], self.weights[last])
        parts = ("layer.0.", "layer.1.", "embeddings.", "heads.")
        return {part for part in parts if any(part in name for name in names)}


@pytest.mark.parametrize("unfreezing", [PLAN, {"25%": 1, "50%": 2}])
def test_layers_learn_from_the_time_that_is_said_on(make: Any, unfreezing: Any) -> None:
    trainer = make(unfreezing=unfreezing, weight_decay=0.1)
    watch = Watch(trainer)
    trainer.train()
    assert watch.moved(0, 4) == {"heads."}
    assert not any("backbone" in name for name in watch.states[4])
    assert watch.moved(4, 8) == {"heads.", "layer.1."}
    assert not any("layer.0." in name or "embeddings." in name for name in watch.states[8])
    assert watch.moved(8, 16) == {"heads.", "layer.1.", "layer.0.", "embeddings."}
    assert all(p.requires_grad for p in trainer.model.parameters())


def test_a_constant_schedule_is_freeze_layers(make: Any) -> None:
    one, two = make(unfreezing={"0": 1}, max_steps=4), make(freeze_layers=1, max_steps=4)
    for trainer in (one, two):
        torch.manual_seed(1)
        trainer.train()
    assert differing(weights(one), weights(two)) == []


def test_a_resumed_run_ends_as_the_unbroken_one(make: Any, tmp_path: Path) -> None:
    settings = {"unfreezing": PLAN, "save_strategy": "steps", "save_steps": 3, "ema_decay": 0.9, "layer_decay": 0.5}
    unbroken = make(**settings)
    unbroken.train()
    for step in (3, 6, 9):
        resumed = make(**settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert differing(weights(unbroken), weights(resumed)) == []


@pytest.mark.parametrize(
    ("settings", "adapters", "message"),
    [
        ({"unfreezing": {"1": 2}}, lora(), "with adapters all of it is frozen"),
        ({"unfreezing": {"1": 3}}, None, "has 2 layers"),
        ({"unfreezing": {"1": 1}, "freeze_layers": 1}, None, "leave one out"),
        ({"unfreezing": {"soon": 1}}, None, "the time 'soon'"),
        ({"unfreezing": {"1": 1, "50%": 2}}, None, "Give one kind"),
        ({"unfreezing": {"1": -1}}, None, "0 or more"),
        ({"unfreezing": "1"}, None, "JSON"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(make: Any, settings: Any, adapters: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(adapters, **settings)
