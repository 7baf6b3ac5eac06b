"""An epoch has the draws that the rule calls for, in an order that (seed, epoch) alone decides."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import MixturePlan, mixing_probabilities

task_sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5000), min_size=1)
strategies = st.sampled_from(["proportional", "temperature", "uniform"])


def counts(plan, epoch=0):
    return dict(zip(plan.tasks, plan.counts(epoch).tolist(), strict=True))


def towards_uniform(sizes, progress):
    total = sum(sizes.values())
    return {task: (1 - progress) * size / total + progress / len(sizes) for task, size in sizes.items()}


@given(task_sizes, strategies, st.integers(1, 64), st.integers(1, 8), st.none() | st.integers(1, 3000))
def test_each_task_gets_its_share_of_draws_rounded_up_and_steps_are_full(sizes, strategy, rows, per_step, cap):
    plan = MixturePlan(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy=strategy, cap=cap)
    total = sum(min(size, cap or size) for size in sizes.values())
    shares = mixing_probabilities(strategy, sizes, cap=cap)
    rounded_up = {task: max(1, math.ceil(share * total / rows - 1e-9)) for task, share in shares.items()}
    drawn = counts(plan)
    assert all(drawn[task] >= rounded_up[task] for task in sizes)
    assert sum(drawn.values()) == plan.draws_per_epoch == math.ceil(sum(rounded_up.values()) / per_step) * per_step


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**7), min_size=1), st.integers(1, 2000))
def test_proportional_without_cap_draws_exactly_the_batches_of_every_task(sizes, rows):
    plan = MixturePlan(sizes, rows_per_draw=rows, strategy="proportional")
    assert counts(plan) == {task: -(-size // rows) for task, size in sizes.items()}


@given(task_sizes, strategies, st.integers(1, 64), st.integers(1, 8), st.integers(0, 5))
def test_the_draws_of_an_epoch_are_its_counts(sizes, strategy, rows, per_step, epoch):
    plan = MixturePlan(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy=strategy)
    drawn = np.bincount(plan.draws(epoch), minlength=len(sizes))
    np.testing.assert_array_equal(drawn, plan.counts(epoch))


@given(task_sizes, st.sampled_from(["temperature", towards_uniform]), st.integers(1, 6))
def test_an_epoch_starts_where_the_epochs_before_it_ended(sizes, strategy, epochs):
    options = {"rows_per_draw": 8, "strategy": strategy, "epochs": epochs}
    plan = MixturePlan(sizes, **options)
    before = np.zeros(len(sizes), dtype=int)
    for epoch in range(epochs + 2):
        np.testing.assert_array_equal(plan.starts(epoch), before)
        np.testing.assert_array_equal(MixturePlan(sizes, **options).starts(epoch), before)
        before = before + plan.counts(epoch)


def test_the_order_depends_on_seed_and_epoch_only():
    sizes = {"a": 500, "b": 300, "c": 200}
    plan = MixturePlan(sizes, rows_per_draw=4, seed=1)
    again = MixturePlan(dict(reversed(sizes.items())), rows_per_draw=4, seed=1)
    orders = [plan.draws(0), plan.draws(1), MixturePlan(sizes, rows_per_draw=4, seed=2).draws(0)]
    np.testing.assert_array_equal(again.draws(1), orders[1])
    np.testing.assert_array_equal(again.draws(0), orders[0])
    assert not any((first == second).all() for i, first in enumerate(orders) for second in orders[:i])


def test_the_draws_of_a_task_are_spread_over_the_epoch():
    plan = MixturePlan({"a": 3000, "b": 1000}, rows_per_draw=10, strategy="proportional")
    small = plan.draws(0) == plan.tasks.index("b")
    assert [part.sum() for part in np.split(small, 10)] == pytest.approx([10] * 10, abs=2)


def test_equal_tasks_each_get_a_place_in_every_optimizer_step():
    plan = MixturePlan(dict.fromkeys("abc", 640), rows_per_draw=32, draws_per_step=3, strategy="uniform")
    assert all(sorted(step) == [0, 1, 2] for step in plan.draws(0).reshape(-1, 3))


@given(task_sizes, st.integers(1, 64), st.integers(1, 8), st.floats(0.3, 5))
def test_a_rule_that_changes_keeps_the_length_of_the_epoch(sizes, rows, per_step, epochs):
    plan = MixturePlan(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy=towards_uniform, epochs=epochs)
    assert plan.draws_per_epoch % per_step == 0
    for epoch in range(math.ceil(epochs) + 1):
        assert len(plan.draws(epoch)) == plan.counts(epoch).sum() == plan.draws_per_epoch
        assert plan.counts(epoch).min() >= 1


def test_a_rule_that_changes_does_so_within_an_epoch_too():
    plan = MixturePlan({"a": 9000, "b": 1000}, rows_per_draw=10, strategy=towards_uniform, epochs=1)
    small = plan.draws(0) == plan.tasks.index("b")
    # The share grows from 0.1 to 0.5 over the epoch: 0.15 on average in its first quarter, 0.45 in its last.
    quarters = [part.mean() for part in np.array_split(small, 4)]
    assert quarters == pytest.approx([0.15, 0.25, 0.35, 0.45], abs=0.03)


def test_a_task_is_not_drawn_where_its_weight_is_zero():
    def curriculum(sizes, progress):
        return {"first": float(progress < 0.5), "later": float(progress >= 0.5)}

    plan = MixturePlan({"first": 100, "later": 100}, rows_per_draw=2, strategy=curriculum, epochs=1)
    half = len(plan.draws(0)) // 2
    assert plan.draws(0)[: half - 1].max() == plan.tasks.index("first")
    assert plan.draws(0)[half + 1 :].min() == plan.tasks.index("later")
    none = MixturePlan(
        {"a": 100, "b": 100},
        rows_per_draw=2,
        draws_per_step=7,
        strategy=lambda sizes, progress: {"a": 1, "b": 0},
    )
    assert counts(none) == {"a": 105, "b": 0}


def test_a_million_rows_over_a_hundred_tasks_are_planned_in_a_moment():
    start = time.perf_counter()
    plan = MixturePlan({f"task{i}": 10_000 for i in range(100)}, rows_per_draw=8)
    assert len(plan.draws(3)) == plan.draws_per_epoch
    assert time.perf_counter() - start < 1.0  # 0.02 s on one core; a loop over rows would take seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows_per_draw": 0}, "rows_per_draw=0"),
        ({"draws_per_step": 0}, "draws_per_step=0"),
        ({"seed": -1}, "seed=-1"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": math.inf}, "epochs=inf"),
        ({"cap": 0}, "cap=0"),
        ({"strategy": "unifrom"}, "Did you mean 'uniform'"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        MixturePlan({"a": 3}, **({"rows_per_draw": 2} | options))
