"""Losses and gradients that are not finite: named, and kept from the weights."""

import copy
import logging
import math
import re
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_mtl.failures import NonFiniteError

BAD = 7  # the row that the fixture breaks


class Watch(TrainerCallback):
    """The weights as they are when a step begins."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.changed: list[bool] = []  # of each step that ended

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.changed.append(not same(self.before, model))


def same(before: dict[str, torch.Tensor], model: Any) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def steps_with_the_row(trainer: Any, steps: int) -> list[int]:
    """Which steps, from 1, read the broken row: by going through the sampler."""
    sampler, found = trainer._get_train_sampler(), []
    per_step = trainer.args.gradient_accumulation_steps
    number = 0
    for epoch in range(steps):
        sampler.set_epoch(epoch)
        for batch in sampler:
            if 24 + BAD in batch:
                found.append(number // per_step + 1)
            number += 1
    return [step for step in found if step <= steps]


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 1}, {"max_tokens_per_batch": 90}])
def test_an_infinite_loss_names_task_step_and_row_and_the_weights_stay(make: Any, settings: dict[str, Any]) -> None:
    watch = Watch()
    trainer = make(bad=1e25, callbacks=[watch], **settings)
    (step, *_) = steps_with_the_row(trainer, 12)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    said = str(caught.value)
    assert said.startswith(f"Step {step}: the loss of task 'long' is inf. Its batch has of task 'long': rows ")
    assert "Not finite alone: row 7 of 'long' {'text': " in said and "'score': 1e+25}" in said
    listed = [int(n) for n in re.search(r"rows ([\d, ]+)\.", said)[1].split(", ")]
    assert BAD in listed and len(set(listed)) == len(listed) <= 4
    assert trainer.state.global_step == step - 1 and f"The weights are those of step {step - 1}" in said
    assert same(watch.before, trainer.model)


def test_the_rows_that_are_named_are_those_of_the_batch(make: Any) -> None:
    trainer = make(per_device_train_batch_size=3)
    seen: list[list[int]] = []
    sampler = trainer._get_train_sampler()
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [sampler.micro_batch(k) for k in reversed(range(len(batches)))] == batches[::-1]
        seen += batches
    found = {(task, part.features[k]["row"]) for batch in seen for task, part, k in trainer.train_dataset.locate(batch)}
    assert {row for task, row in found if task == "long"} <= set(range(24))
    assert all(part.rows[part.features[k]["row"]] == trainer.train_dataset.parts[task].rows[k]
               for task, part, k in trainer.train_dataset.locate(range(48)))  # fmt: skip


@pytest.mark.parametrize("balancing", ["static", "uncertainty", "famo", "pcgrad", "upgrad"])
def test_a_skipped_step_changes_no_weight_and_the_others_do(make: Any, balancing: str, caplog: Any) -> None:
    watch = Watch()
    trainer = make(bad=1e25, callbacks=[watch], on_nonfinite="skip", balancing=balancing)
    bad = steps_with_the_row(trainer, 12)
    assert 1 <= len(bad) < 6
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        trainer.train()
    assert watch.changed == [step not in bad for step in range(1, 13)]
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["skipped_steps"] == len(bad)
    assert all(math.isfinite(value) for entry in logs for key, value in entry.items() if key.startswith("loss"))
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert len(said) == len(bad) and said[0].startswith(f"Step {bad[0]}: the loss of task 'long' is inf")


def test_a_skipped_step_moves_no_average(make: Any) -> None:
    found: list[tuple[int, dict[str, torch.Tensor]]] = []

    class Look(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            averages = {str(k): average.clone() for k, average in enumerate(trainer._averages.values())}
            found.append((trainer._updates, averages))

    trainer = make(bad=1e25, on_nonfinite="skip", ema_decay=0.9)
    trainer.add_callback(Look())
    bad = steps_with_the_row(trainer, 12)
    trainer.train()
    assert found[-1][0] == 12 - len(bad)
    for step in range(2, 13):
        (before, one), (after, other) = found[step - 2 : step]
        still = before == after and all(torch.equal(one[k], other[k]) for k in one)
        assert still == (step in bad)


def test_a_run_without_bad_steps_is_the_same_to_the_bit_under_either_setting(make: Any) -> None:
    one = make(max_steps=4)
    one.train()
    other = make(max_steps=4, on_nonfinite="skip")
    other.train()
    assert same(one.model.state_dict(), other.model)
    assert "skipped_steps" not in other.state.log_history[0]


class Rooted(torch.nn.Module):
    """A head whose value is right and whose gradient is not: that of a root at 0."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.head(hidden + (hidden * 0).sqrt(), *args, **kwargs)


def test_a_gradient_that_is_not_finite_stops_as_a_loss_does(make: Any) -> None:
    watch = Watch()
    trainer = make(callbacks=[watch])
    trainer.model.heads["long"] = Rooted(trainer.model.heads["long"])
    with pytest.raises(NonFiniteError, match=r"Step 1: the gradient is not finite \(norm nan\), though all losses are"):
        trainer.train()
    assert same(watch.before, trainer.model)


@pytest.mark.parametrize("balancing", ["static", "pcgrad"])
@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_a_skipped_step_is_one_to_the_loss_scaler_too(
    make: Any, limit: float, balancing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    options = {"on_nonfinite": "skip", "max_grad_norm": limit, "max_steps": 6, "balancing": balancing}
    trainer = make(bad=1e25, callbacks=[watch], **options)
    bad = steps_with_the_row(trainer, 6)
    # What accelerate sets for float16, which it has on no processor.
    monkeypatch.setattr(trainer.accelerator.state, "_mixed_precision", "fp16")
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.train()
    assert bad and watch.changed == [step not in bad for step in range(1, 7)]


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_is_named_and_none_of_the_others(make: Any, limit: float) -> None:
    trainer = make(max_grad_norm=limit)
    (name, broken), *others = trainer.model.heads["long"].named_parameters()
    broken.register_hook(lambda gradient: gradient * math.inf)
    assert others
    with pytest.raises(NonFiniteError, match=rf"though all losses are, at heads\.long\.{name}\. The step's tasks"):
        trainer.train()


@pytest.mark.parametrize("balancing", ["static", "pcgrad"])
def test_steps_of_which_none_is_finite_stop_after_so_many(make: Any, balancing: str) -> None:
    watch = Watch()
    trainer = make(callbacks=[watch], on_nonfinite="skip", max_skipped_steps=2, balancing=balancing)
    trainer.model.heads["long"] = Rooted(trainer.model.heads["long"])
    with pytest.raises(NonFiniteError, match="That makes 3 steps in a row, more than max_skipped_steps=2"):
        trainer.train()
    assert watch.changed == [False, False] and same(watch.before, trainer.model)


def test_weights_that_are_broken_already_are_named(make: Any) -> None:
    trainer = make()
    next(trainer.model.heads["long"].parameters()).data.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"alone is not finite either.*The weights themselves .* at heads\.long"):
        trainer.train()


def test_a_run_that_goes_on_names_the_rows_of_its_own_place(make: Any) -> None:
    whole = make(bad=1e25, on_nonfinite="skip", save_strategy="steps", save_steps=1)
    bad = steps_with_the_row(whole, 12)
    whole.train()
    again = make(bad=1e25)
    start = f"{again.args.output_dir}/checkpoint-{bad[0]}"
    with pytest.raises(NonFiniteError, match=rf"Step {bad[1]}: .*Not finite alone: row 7 of 'long'"):
        again.train(resume_from_checkpoint=start)
    counted = make(bad=1e25, on_nonfinite="skip")
    counted.train(resume_from_checkpoint=start)
    logs = [entry for entry in counted.state.log_history if "loss" in entry]
    assert logs[-1]["skipped_steps"] == len(bad)


def test_looking_for_the_row_leaves_the_random_numbers_as_they_are(make: Any) -> None:
    from hf_mtl.failures.rows import blamed

    trainer = make(bad=1e25)
    trainer.model.train()
    before = copy.deepcopy(torch.random.get_rng_state())
    assert blamed(trainer, range(48)) == [24 + BAD]
    assert torch.equal(before, torch.random.get_rng_state()) and trainer.model.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_nonfinite": "skipp"}, r"Unknown on_nonfinite 'skipp'.*skip"),
        ({"max_skipped_steps": -1}, "max_skipped_steps=-1"),
        ({"on_nonfinite": "skip", "optim": "adalomo"}, "optim=.*take another optimizer"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
