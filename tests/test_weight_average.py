"""The moving average of the weights: torch's own numbers, what is scored and saved, and resuming to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from two_tasks import differing, lora, two_tasks, weights

DECAY = 0.6


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(adapters: Any = None, **kwargs: Any) -> Any:
        return two_tasks(tiny_backbone("bert"), rows, tmp_path / "out", adapters, **kwargs)

    return trainer


class Torchs(TrainerCallback):
    """torch's average of the same weights, by the same decay."""

    def __init__(self, model: Any) -> None:
        def average(mean: Any, value: Any, number: Any) -> Any:
            t = int(number) - 1  # torch's first update copies the weights, here those before the training
            return torch.lerp(mean, value, 1 - min(DECAY, (1 + t) / (10 + t)))

        self.model = model
        self.average = AveragedModel(model, avg_fn=average)
        self.average.update_parameters(model)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.average.update_parameters(self.model)


@pytest.mark.parametrize("adapters", [None, lora()])
def test_the_average_is_torchs(make: Any, adapters: Any) -> None:
    trainer = make(adapters, ema_decay=DECAY, max_steps=12)
    torchs = Torchs(trainer.model)
    trainer.add_callback(torchs)
    plain = make(adapters, max_steps=12)
    torch.manual_seed(1)
    trainer.train()
    torch.manual_seed(1)
    plain.train()
    wanted = dict(torchs.average.module.named_parameters())
    last = dict(plain.model.named_parameters())
    for name, p in trainer.model.named_parameters():
        assert torch.allclose(p, wanted[name], rtol=1e-5, atol=1e-7), name
    moved = [name for name, p in trainer.model.named_parameters() if not torch.equal(p, last[name])]
    assert moved, "the average should not be the last weights"


def test_scored_and_saved_are_the_averages_and_training_goes_on_from_the_weights(make: Any, tmp_path: Path) -> None:
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make(ema_decay=DECAY, **settings)
    trainer.train()
    found = trainer.evaluate()
    last = [entry for entry in trainer.state.log_history if "eval_pos_loss" in entry][1]
    assert found["eval_pos_loss"] == last["eval_pos_loss"]
    saved = type(trainer.model).from_pretrained(tmp_path / "out" / "checkpoint-4")
    assert differing(weights(trainer), dict(saved.state_dict())) == []
    scored = make()
    scored.model.load_state_dict(saved.state_dict())
    assert scored.evaluate()["eval_pos_loss"] == pytest.approx(last["eval_pos_loss"], abs=1e-6)
    # The weights themselves are those of a training without an average, to the bit.
    kept = load_file(tmp_path / "out" / "checkpoint-4" / "weight_average.safetensors")
    plain = make(**settings)
    plain.train()
    for name, p in plain.model.named_parameters():
        assert torch.equal(kept[f"weight.{name}"], p), name


@pytest.mark.parametrize("settings", [{}, {"balancing": "pcgrad", "save_only_model": False}])
def test_a_resumed_run_has_the_average_of_the_unbroken_one(make: Any, settings: Any, tmp_path: Path) -> None:
    settings |= {"ema_decay": DECAY, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    unbroken = make(**settings)
    unbroken.train()
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert differing(weights(unbroken), weights(resumed)) == []


class Sigterm(TrainerCallback):
    """Asks for a checkpoint, as the signal does, so that it is written at the end of the third step."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            (jit,) = [c for c in self.trainer.callback_handler.callbacks if isinstance(c, JITCheckpointCallback)]
            jit.jit_manager.is_checkpoint_requested = True

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer


def test_a_checkpoint_that_is_written_when_a_run_is_told_to_end_has_the_steps_average(
    make: Any, tmp_path: Path
) -> None:
    settings = {"ema_decay": DECAY, "max_steps": 6, "save_strategy": "steps", "save_steps": 100}
    unbroken = make(**settings)
    unbroken.train()
    ended = make(**settings, enable_jit_checkpoint=True)
    ended.add_callback(Sigterm(ended))
    ended.train()
    assert ended.state.global_step == 3
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert differing(weights(unbroken), weights(resumed)) == []


def test_a_checkpoint_of_the_model_alone_says_what_begins_anew(make: Any, tmp_path: Path, caplog: Any) -> None:
    settings = {
        "ema_decay": DECAY, "balancing": "famo", "save_strategy": "steps", "save_steps": 1, "save_only_model": True,
        "max_steps": 2,
    }  # fmt: skip
    make(**settings).train()
    make(**settings).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    for name in ("weight_average.safetensors", "balancing.json"):
        assert f"has no {name}, as with" in caplog.text
    assert caplog.text.count("or with save_only_model") == 2


def test_a_checkpoint_of_averages_is_not_resumed_without_an_average(make: Any, tmp_path: Path) -> None:
    make(ema_decay=DECAY, max_steps=2, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match="set ema_decay again"):
        make(max_steps=2).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"ema_decay": 1.0}, "between 0 and 1"), ({"ema_decay": 0.9, "optim": "schedule_free_adamw"}, "leave one out")],
)
def test_arguments_that_do_not_fit_are_refused(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
