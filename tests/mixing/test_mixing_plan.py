"""An epoch has the draws that the rule calls for, in an order that (seed, epoch) alone decides."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import Evaluation, Mixture, MixturePlan, mixing_probabilities

task_sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5000), min_size=1)
strategies = st.sampled_from(["proportional", "temperature", "uniform"])


RULE = ("strategy", "temperature", "cap", "max_repeats", "weights", "references")


def make(sizes, **options):
    rule = {name: options.pop(name) for name in RULE if name in options}
    return MixturePlan(sizes, mixture=Mixture(**rule), **options)


def counts(plan, epoch=0):
    return dict(zip(plan.tasks, plan.counts(epoch).tolist(), strict=True))


def towards_uniform(sizes, state):
    total = sum(sizes.values())
    return {task: (1 - state.progress) * size / total + state.progress / len(sizes) for task, size in sizes.items()}


@given(task_sizes, strategies, st.integers(1, 64), st.integers(1, 8), st.none() | st.integers(1, 3000))
def test_each_task_gets_its_share_of_draws_rounded_up_and_steps_are_full(sizes, strategy, rows, per_step, cap):
    plan = make(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy=strategy, cap=cap)
    total = sum(min(size, cap or size) for size in sizes.values())
    shares = mixing_probabilities(Mixture(strategy=strategy, cap=cap), sizes)
    rounded_up = {task: max(1, math.ceil(share * total / rows - 1e-9)) for task, share in shares.items()}
    drawn = counts(plan)
    assert all(drawn[task] >= rounded_up[task] for task in sizes)
    assert sum(drawn.values()) == plan.draws_per_epoch == math.ceil(sum(rounded_up.values()) / per_step) * per_step


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**7), min_size=1), st.integers(1, 2000))
def test_proportional_without_cap_draws_exactly_the_batches_of_every_task(sizes, rows):
    plan = make(sizes, rows_per_draw=rows, strategy="proportional")
    assert counts(plan) == {task: -(-size // rows) for task, size in sizes.items()}


@given(task_sizes, strategies, st.integers(1, 64), st.integers(1, 8), st.integers(0, 5))
def test_the_draws_of_an_epoch_are_its_counts(sizes, strategy, rows, per_step, epoch):
    plan = make(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy=strategy)
    drawn = np.bincount(plan.draws(epoch), minlength=len(sizes))
    np.testing.assert_array_equal(drawn, plan.counts(epoch))


@given(task_sizes, st.sampled_from(["temperature", towards_uniform]), st.integers(1, 6))
def test_an_epoch_starts_where_the_epochs_before_it_ended(sizes, strategy, epochs):
    options = {"rows_per_draw": 8, "strategy": strategy, "epochs": epochs}
    plan = make(sizes, **options)
    before = np.zeros(len(sizes), dtype=int)
    for epoch in range(epochs + 2):
        np.testing.assert_array_equal(plan.starts(epoch), before)
        np.testing.assert_array_equal(make(sizes, **options).starts(epoch), before)
        before = before + plan.counts(epoch)


def test_the_order_depends_on_seed_and_epoch_only():
    sizes = {"a": 500, "b": 300, "c": 200}
    plan = make(sizes, rows_per_draw=4, seed=1)
    again = make(dict(reversed(sizes.items())), rows_per_draw=4, seed=1)
    orders = [plan.draws(0), plan.draws(1), make(sizes, rows_per_draw=4, seed=2).draws(0)]
    np.testing.assert_array_equal(again.draws(1), orders[1])
    np.testing.assert_array_equal(again.draws(0), orders[0])
    assert not any((first == second).all() for i, first in enumerate(orders) for second in orders[:i])


def test_the_draws_of_a_task_are_spread_over_the_epoch():
    plan = make({"a": 3000, "b": 1000}, rows_per_draw=10, strategy="proportional")
    small = plan.draws(0) == plan.tasks.index("b")
    assert [part.sum() for part in np.split(small, 10)] == pytest.approx([10] * 10, abs=2)


def test_equal_tasks_each_get_a_place_in_every_optimizer_step():
    plan = make(dict.fromkeys("abc", 640), rows_per_draw=32, draws_per_step=3, strategy="uniform")
    assert all(sorted(step) == [0, 1, 2] for step in plan.draws(0).reshape(-1, 3))


@given(task_sizes, st.integers(1, 64), st.integers(1, 8), st.floats(0.3, 5))
def test_a_rule_that_changes_keeps_the_length_of_the_epoch(sizes, rows, per_step, epochs):
    plan = make(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy=towards_uniform, epochs=epochs)
    assert plan.draws_per_epoch % per_step == 0
    for epoch in range(math.ceil(epochs) + 1):
        assert len(plan.draws(epoch)) == plan.counts(epoch).sum() == plan.draws_per_epoch
        assert plan.counts(epoch).min() >= 1


def test_a_rule_that_changes_does_so_within_an_epoch_too():
    plan = make({"a": 9000, "b": 1000}, rows_per_draw=10, strategy=towards_uniform, epochs=1)
    small = plan.draws(0) == plan.tasks.index("b")
    # The share grows from 0.1 to 0.5 over the epoch: 0.15 on average in its first quarter, 0.45 in its last.
    quarters = [part.mean() for part in np.array_split(small, 4)]
    assert quarters == pytest.approx([0.15, 0.25, 0.35, 0.45], abs=0.03)


def test_a_task_is_not_drawn_where_its_weight_is_zero():
    def curriculum(sizes, state):
        return {"first": float(state.progress < 0.5), "later": float(state.progress >= 0.5)}

    plan = make({"first": 100, "later": 100}, rows_per_draw=2, strategy=curriculum, epochs=1)
    half = len(plan.draws(0)) // 2
    assert plan.draws(0)[: half - 1].max() == plan.tasks.index("first")
    assert plan.draws(0)[half + 1 :].min() == plan.tasks.index("later")
    none = make(
        {"a": 100, "b": 100},
        rows_per_draw=2,
        draws_per_step=7,
        strategy=lambda sizes, state: {"a": 1, "b": 0},
    )
    assert counts(none) == {"a": 105, "b": 0}


def test_a_million_rows_over_a_hundred_tasks_are_planned_in_a_moment():
    start = time.perf_counter()
    plan = make({f"task{i}": 10_000 for i in range(100)}, rows_per_draw=8)
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
        make({"a": 3}, **({"rows_per_draw": 2} | options))


# ---------------------------------------------------------------------- rules that bound, take turns, learn


@given(task_sizes, st.integers(1, 40), st.integers(1, 4), st.integers(1, 6), st.floats(0.5, 12))
def test_unimax_repeats_no_row_oftener_than_its_bound_and_one_draw(sizes, rows, per_step, epochs, repeats):
    plan = make(
        sizes, rows_per_draw=rows, draws_per_step=per_step, strategy="unimax", max_repeats=repeats, epochs=epochs
    )
    drawn = dict(zip(plan.tasks, (plan.starts(epochs) * rows).tolist(), strict=True))
    passes = epochs * plan.draws_per_epoch * rows / sum(sizes.values())  # all of it, an epoch being whole steps
    bound = max(repeats, passes)  # a longer training is proportional
    assert all(drawn[task] <= size * bound * (1 + 1e-6) + rows for task, size in sizes.items())


@given(task_sizes, st.integers(1, 40), st.integers(1, 4), st.integers(1, 300), st.floats(0.5, 12))
def test_unimax_keeps_its_bound_in_a_training_of_so_many_steps(sizes, rows, per_step, steps, repeats):
    options = {"rows_per_draw": rows, "draws_per_step": per_step, "strategy": "unimax", "max_repeats": repeats}
    plan = make(sizes, max_steps=steps, **options)
    whole = math.ceil(steps / plan.steps_per_epoch)
    drawn = dict(zip(plan.tasks, (plan.starts(whole) * rows).tolist(), strict=True))
    passes = steps * per_step * rows / sum(sizes.values())
    # The last epoch is cut short at a random place of its order: what is counted is all of it.
    slack = plan.draws_per_epoch * rows if steps % plan.steps_per_epoch else 0
    bound = max(repeats, passes)
    assert all(drawn[task] <= size * bound * (1 + 1e-6) + rows + slack for task, size in sizes.items())


@given(task_sizes, st.integers(1, 64), st.integers(1, 5), st.integers(1, 4))
def test_round_robin_takes_strict_turns_over_all_epochs(sizes, rows, per_step, epochs):
    plan = make(sizes, rows_per_draw=rows, draws_per_step=per_step, strategy="round_robin")
    draws = np.concatenate([plan.draws(epoch) for epoch in range(epochs)])
    np.testing.assert_array_equal(draws, np.arange(len(draws)) % len(sizes))
    np.testing.assert_array_equal(plan.starts(epochs), np.bincount(draws, minlength=len(sizes)))
    assert plan.draws_per_epoch * rows >= sum(sizes.values())


@given(task_sizes, st.integers(1, 64), st.integers(1, 4))
def test_annealed_counts_are_the_mean_of_its_shares_over_the_epoch(sizes, rows, epochs):
    plan = make(sizes, rows_per_draw=rows, strategy="annealed", epochs=epochs)
    pass_draws = sum(sizes.values()) / rows
    for epoch in range(epochs):
        times = (epoch + (np.arange(2000) + 0.5) / 2000) / epochs
        shares = []
        for time_ in times:
            powers = {task: size ** (1 - 0.8 * time_) for task, size in sizes.items()}  # PALs
            shares.append([powers[task] / sum(powers.values()) for task in plan.tasks])
        wanted = np.mean(shares, axis=0) * pass_draws
        # Rounded up, and what fills the epoch goes to those behind: no more than there are tasks.
        assert (plan.counts(epoch) >= wanted * (1 - 2e-3) - 1e-6).all()
        assert plan.counts(epoch).sum() - wanted.sum() <= 2 * len(sizes)


@given(task_sizes, st.lists(st.floats(0.1, 10), min_size=8, max_size=8), st.integers(1, 64))
def test_explicit_weights_are_the_shares_of_the_rows(sizes, numbers, rows):
    weights = dict(zip(sizes, numbers, strict=False))
    plan = make(sizes, rows_per_draw=rows, strategy="weights", weights=weights)
    total, whole = sum(sizes.values()), sum(weights.values())
    wanted = {task: weight / whole * total / rows for task, weight in weights.items()}
    assert all(wanted[task] - 1e-6 <= count < wanted[task] + 2 for task, count in counts(plan).items())


@given(task_sizes, st.integers(1, 4), st.integers(1, 60))
def test_a_task_of_larger_batches_gets_fewer_draws_and_the_same_rows(sizes, epochs, rows):
    rows_of = {task: rows * (1 + number) for number, task in enumerate(sizes)}
    plan = make(sizes, rows_per_draw=rows_of, strategy="uniform")
    share = sum(sizes.values()) / len(sizes)
    assert all(share <= count * rows_of[t] + 1e-6 < share + 2 * rows_of[t] for t, count in counts(plan).items())


def evaluations(steps, tasks, seed):
    random = np.random.default_rng(seed)
    return [Evaluation(step=step, scores={task: float(random.random()) for task in tasks}) for step in sorted(steps)]


@given(task_sizes, st.lists(st.integers(0, 60), max_size=6), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_an_evaluation_changes_only_draws_after_it_and_a_resumed_plan_is_the_same(sizes, steps, per_step, refer, seed):
    references = dict.fromkeys(sizes, 0.9) if refer else None
    options = {"rows_per_draw": 16, "draws_per_step": per_step, "strategy": "adaptive", "references": references}
    plan = make(sizes, epochs=3, seed=seed, **options)

    def order(of):
        return np.concatenate([of.draws(epoch) for epoch in range(3)])

    known = evaluations(steps, sizes, seed)
    for number, evaluation in enumerate(known):
        before = order(plan)
        plan.record(evaluation)
        done = evaluation.step * per_step
        np.testing.assert_array_equal(order(plan)[:done], before[:done])
        resumed = make(sizes, epochs=3, seed=seed, **options)
        resumed.record(*known[: number + 1])
        np.testing.assert_array_equal(order(resumed), order(plan))
    for epoch in range(3):
        np.testing.assert_array_equal(np.bincount(plan.draws(epoch), minlength=len(sizes)), plan.counts(epoch))


def test_a_task_that_is_behind_its_reference_gets_more_of_the_next_draws():
    plan = make({"a": 4000, "b": 4000}, rows_per_draw=8, strategy="adaptive", references={"a": 0.8, "b": 0.8})
    middle = plan.steps_per_epoch // 2
    plan.record(Evaluation(step=middle, scores={"a": 0.8, "b": 0.4}))
    first, second = plan.draws(0)[:middle], plan.draws(0)[middle:]
    assert np.mean(first == plan.tasks.index("b")) == pytest.approx(0.5, abs=0.01)
    # A quarter of its usual half stays, the rest goes by need: all of it to b.
    assert np.mean(second == plan.tasks.index("b")) == pytest.approx(0.25 * 0.5 + 0.75, abs=0.01)


def test_evaluations_that_do_not_fit_are_refused():
    plan = make({"a": 40, "b": 40}, rows_per_draw=8, strategy="adaptive")
    plan.record(Evaluation(step=3, scores={"a": 0.5}))
    with pytest.raises(ValueError, match="counts from step=2, one before it from step 3"):
        plan.record(Evaluation(step=2, scores={"a": 0.5}))
    with pytest.raises(ValueError, match=r"scores of \['c'\], which are not tasks"):
        plan.record(Evaluation(step=4, scores={"c": 0.5}))


def test_a_rule_that_will_fail_later_is_refused_before_the_training():
    def rule(sizes, state):
        return {"a": 0.5 - state.progress, "b": 1.0}

    with pytest.raises(ValueError, match=r"gives 'a' the weight -0\.0"):
        make({"a": 40, "b": 40}, rows_per_draw=8, strategy=rule, epochs=2)
    with pytest.raises(ValueError, match="gives 'a' the weight -"):
        weights = {"a": "1 - step / 5", "b": 1}
        make({"a": 40, "b": 40}, rows_per_draw=8, strategy="weights", weights=weights, epochs=2)


@pytest.mark.parametrize("strategy", ["temperature", "unimax", "annealed", "round_robin"])
def test_ten_million_rows_over_a_hundred_tasks_are_planned_in_a_moment(strategy):
    start = time.perf_counter()
    plan = make({f"task{i}": 100_000 for i in range(100)}, rows_per_draw=32, strategy=strategy, epochs=3)
    assert len(plan.draws(0)) == plan.draws_per_epoch
    assert time.perf_counter() - start < 2.0  # 0.05 to 0.2 s on one core
