"""Loss methods against slow NumPy of their papers' formulas, torch's own Adam, and torchjd's scalarizers."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd import scalarization

from hf_mtl.balancing import LOSS_METHODS, LossBalancing, check_balancing, make_balancing
from hf_mtl.balancing.adam import TaskAdam

TASKS = ["a", "b", "c"]
LABELS = {"a": 2, "b": 77, "c": 1}


def make(method: str, **options: Any) -> LossBalancing:
    made = make_balancing(method, TASKS, options, seed=3, labels=LABELS)
    assert isinstance(made, LossBalancing)
    return made


def drawn(step: int, names: list[str] = TASKS) -> dict[str, list[float]]:
    random = np.random.default_rng(step)
    return {name: random.uniform(0.1, 3.0, 2).tolist() for name in names}


def slope_of_step(method: LossBalancing, losses: dict[str, list[float]]) -> dict[str, list[float]]:
    """The factor that each micro-batch's gradient gets, by autograd, as a trainer would do it."""
    leaves = {name: [torch.tensor(v, dtype=torch.double, requires_grad=True) for v in losses[name]] for name in losses}
    for name, values in leaves.items():
        for value in values:
            method.term(name, value).backward()
    factor = method.end_step(losses)
    return {name: [float(v.grad) * factor for v in values] for name, values in leaves.items()}


def test_adam_is_torchs_own() -> None:
    ours, value = TaskAdam(0.03, 0.01), 0.5
    parameter = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    theirs = torch.optim.Adam([parameter], lr=0.03, weight_decay=0.01)
    for step in range(50):
        parameter.grad = torch.tensor(math.sin(step), dtype=torch.double)
        theirs.step()
        value = ours.stepped("a", value, math.sin(step))
    assert value == pytest.approx(parameter.item(), abs=1e-12)


def test_uncertainty_is_autograd_on_kendalls_loss() -> None:
    method = make("uncertainty", learning_rate=0.05)
    log_variance = torch.zeros(3, dtype=torch.double, requires_grad=True)
    adam = torch.optim.Adam([log_variance], lr=0.05)
    for step in range(20):
        losses = drawn(step)
        means = torch.tensor([np.mean(losses[name]) for name in TASKS])
        wanted = torch.exp(-log_variance).detach()
        (torch.exp(-log_variance) * means + log_variance / 2).sum().backward()
        found = slope_of_step(method, losses)
        assert [found[name][0] for name in TASKS] == pytest.approx(wanted.tolist(), abs=1e-9)
        adam.step()
        adam.zero_grad()


def test_imtl_l_is_torchjds() -> None:
    method, theirs = make("imtl-l", learning_rate=0.05), scalarization.IMTLL(3).double()
    adam = torch.optim.Adam(theirs.parameters(), lr=0.05)
    for step in range(20):
        losses = drawn(step)
        means = torch.tensor([np.mean(losses[name]) for name in TASKS], requires_grad=True)
        theirs(means).backward()
        found = slope_of_step(method, losses)
        assert [found[name][0] for name in TASKS] == pytest.approx(means.grad.tolist(), abs=1e-9)
        adam.step()
        adam.zero_grad()


@pytest.mark.parametrize(("method", "rest"), [("uncertainty", 0.5), ("imtl-l", 1.0)])
def test_learned_scales_come_to_rest_where_the_scaled_loss_is_constant(method: str, rest: float) -> None:
    made = make(method, learning_rate=0.05)
    for _ in range(2000):
        made.end_step({"a": [0.2], "b": [4.0]})
    assert made.weight("a") * 0.2 == pytest.approx(rest, rel=0.02)
    assert made.weight("b") * 4.0 == pytest.approx(rest, rel=0.02)
    assert made.weight("c") == 1.0  # never seen


def test_dwa_is_torchjds_where_a_window_is_an_epoch() -> None:
    method, theirs = make("dwa", window=4, temperature=1.5), scalarization.DWA(temperature=1.5)
    for step in range(16):
        losses = drawn(step)
        means = torch.tensor([np.mean(losses[name]) for name in TASKS], requires_grad=True)
        theirs(means).backward()
        found = slope_of_step(method, losses)
        assert [found[name][0] for name in TASKS] == pytest.approx(means.grad.tolist(), abs=1e-6)
        if step % 4 == 3:
            theirs.step()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.05, 5.0), min_size=2, max_size=8))
def test_gls_is_the_gradient_of_the_geometric_mean(values: list[float]) -> None:
    losses = {"a": values[:1], "b": values[1:]}
    found = slope_of_step(make("gls"), losses)
    leaves = torch.tensor(values, dtype=torch.double, requires_grad=True)
    scalarization.GeometricMean()(leaves).backward()
    # The trainer takes the mean over micro-batches, so that the terms' factors are times their number.
    assert np.array(found["a"] + found["b"]) / len(values) == pytest.approx(leaves.grad.numpy(), rel=1e-6)


def test_famo_is_torchjds_where_the_next_batch_is_the_same() -> None:
    method = make("famo")
    theirs = scalarization.FAMO(3).double()
    before: torch.Tensor | None = None
    for step in range(20):
        losses = {name: values[:1] for name, values in drawn(step).items()}
        means = torch.tensor([losses[name][0] for name in TASKS], dtype=torch.double, requires_grad=True)
        if before is not None:
            theirs(before)
            theirs.update(means)  # the losses after the step, which here are those of the next one
        wanted = torch.autograd.grad(theirs(means), means)[0]
        if step == 0:
            found = slope_of_step(method, losses)
        else:
            # Ours learns of this step's fall at the end of the step.
            after = make("famo")
            after.load_state_dict(method.state_dict())
            after.end_step(losses)
            found = slope_of_step(after, losses)
            method.end_step(losses)
        assert np.array([found[name][0] for name in TASKS]) / 3 == pytest.approx(wanted.numpy(), rel=1e-6)
        before = means.detach()


def test_famo_raises_the_task_that_falls_behind() -> None:
    method = make("famo")
    for step in range(50):
        method.end_step({"a": [2.0 * 0.95**step], "b": [2.0], "c": [2.0 * 0.95**step]})
    assert method.weight("b") > 0.5 > method.weight("a")


def test_log_labels_are_muppets_with_a_mean_of_one() -> None:
    method = make("log-labels")
    raw = 1 / np.log([2, 77, 2])
    assert [method.weight(name) for name in TASKS] == pytest.approx(raw / raw.mean())


def test_random_weights_are_new_each_step_and_the_same_for_the_same_seed() -> None:
    def weights(seed: int) -> list[list[float]]:
        method: Any = make_balancing("rlw", TASKS, seed=seed)
        found = []
        for _ in range(200):
            found.append([method.weight(name) for name in TASKS])
            method.end_step({})
        return found

    one = weights(0)
    assert one == weights(0) != weights(1)
    assert np.sum(one, axis=1) == pytest.approx(3)
    assert np.mean(one, axis=0) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", LOSS_METHODS)
def test_a_resumed_method_goes_on_to_the_bit(name: str) -> None:
    options = {"window": 3} if name == "dwa" else {}
    unbroken, first = make(name, **options), make(name, **options)
    for step in range(7):
        unbroken.end_step(drawn(step, TASKS[: 1 + step % 3]))
        first.end_step(drawn(step, TASKS[: 1 + step % 3]))
    resumed = make(name, **options)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in range(7, 14):
        assert slope_of_step(resumed, drawn(step)) == slope_of_step(unbroken, drawn(step))
    assert resumed.state_dict() == unbroken.state_dict()


@pytest.mark.parametrize("name", LOSS_METHODS)
def test_a_loss_that_is_not_finite_leaves_the_state_alone(name: str) -> None:
    method = make(name)
    method.end_step(drawn(0))
    before = method.state_dict() | {"step": 0}
    assert method.end_step({"a": [math.nan], "b": [1.0]}) == 1.0
    assert method.end_step({"a": [math.inf], "b": [1.0]}) == 1.0
    assert method.end_step({}) == 1.0  # of batches without a label
    assert method.state_dict() | {"step": 0} == before


def test_static_is_nothing_at_all() -> None:
    assert make_balancing("static", TASKS) is None


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("pcgrd", {}, r"Unknown balancing 'pcgrd'\..*Did you mean 'pcgrad'\?"),
        ("dwa", {"temprature": 2}, r"balancing 'dwa' has no option 'temprature'\..*Did you mean 'temperature'\?"),
        ("static", {"c": 2}, r"balancing 'static' has no option 'c'\. Known: \[\]"),
        ("log-labels", {"labels": {}}, r"balancing 'log-labels' has no option 'labels'"),
    ],
)
def test_an_unknown_method_or_option_is_named_with_the_nearest(method: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_balancing(method, options)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dwa", {"temperature": 0}, r"temperature=0 must be above 0"),
        ("dwa", {"window": 0}, r"window=0 must be 1 step or more"),
        ("uncertainty", {"learning_rate": -1}, r"learning_rate=-1 must be a number above 0"),
        ("famo", {"weight_decay": -1}, r"weight_decay=-1 must be"),
        ("fairgrad", {"alpha": 0}, r"alpha=0 must be above 0"),
        ("graddrop", {"leak": 2}, r"leak=2 must be from 0 to 1"),
        ("cr-mogm", {"of": "mdga"}, r"of='mdga' is no method whose weights can be averaged.*'mgda'"),
        ("cr-mogm", {"alpha": 1.0}, r"alpha=1.0 must be from 0 to below 1"),
        ("aligned-mtl", {"scale_mode": "max"}, r"scale_mode='max' must be 'min', 'median' or 'rmse'"),
    ],
)
def test_an_option_out_of_range_is_refused(method: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_balancing(method, TASKS, options)
