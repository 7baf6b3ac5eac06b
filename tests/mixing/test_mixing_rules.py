"""Mixing rules give the shares they promise and refuse what they cannot use."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import MIXING_RULES, Evaluation, MixingState, Mixture, mixing_probabilities

SIZES = {"large": 90_000, "small": 900, "tiny": 9}
sizes_of_tasks = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 10**9), min_size=1, max_size=8)


def shares_of(strategy, sizes, state=None, **options):
    if strategy == "weights":
        options.setdefault("weights", dict.fromkeys(sizes, "1 + sqrt(size)"))
    return mixing_probabilities(Mixture(strategy=strategy, **options), sizes, state)


@given(sizes_of_tasks, st.sampled_from(sorted(MIXING_RULES)), st.floats(1, 100), st.integers(1, 10**9))
def test_every_rule_gives_each_task_a_share_and_they_sum_to_one(sizes, strategy, temperature, cap):
    shares = shares_of(strategy, sizes, temperature=temperature, cap=cap)
    assert list(shares) == list(sizes)
    assert math.isclose(sum(shares.values()), 1.0, rel_tol=1e-9)
    assert min(shares.values()) > 0


def test_proportional_follows_the_rows():
    shares = shares_of("proportional", {"a": 1, "b": 3})
    assert shares == {"a": 0.25, "b": 0.75}


def test_uniform_ignores_the_rows():
    assert shares_of("uniform", {"a": 1, "b": 3}) == {"a": 0.5, "b": 0.5}


def test_temperature_two_follows_the_square_root_of_the_rows():
    shares = shares_of("temperature", SIZES, temperature=2.0)
    assert shares["large"] / shares["small"] == pytest.approx(10)
    assert shares["small"] / shares["tiny"] == pytest.approx(10)


@given(sizes_of_tasks)
def test_temperature_one_is_proportional(sizes):
    assert shares_of("temperature", sizes, temperature=1.0) == shares_of("proportional", sizes)


def test_infinite_temperature_is_uniform():
    assert shares_of("temperature", SIZES, temperature=math.inf) == pytest.approx(shares_of("uniform", SIZES))


def test_the_cap_cuts_sizes_before_the_temperature():
    shares = shares_of("temperature", SIZES, temperature=2.0, cap=900)
    assert shares["large"] == shares["small"]
    assert shares["small"] / shares["tiny"] == pytest.approx(10)


def test_a_users_own_rule_gets_capped_sizes_and_progress_and_is_normalised():
    seen = []

    def rule(sizes, state):
        seen.append((dict(sizes), state.progress))
        return {"tiny": 2, "small": 6, "large": 0}

    shares = shares_of(rule, SIZES, MixingState(progress=0.5), cap=1000)
    assert shares == {"large": 0.0, "small": 0.75, "tiny": 0.25}
    assert seen == [({"large": 1000, "small": 900, "tiny": 9}, 0.5)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1}, r"no weight for \['b'\]"),
        ({"a": 1, "b": 1, "c": 1}, r"weight to \['c'\].*Known: \['a', 'b'\]"),
        ({"a": 1, "b": -0.5}, "'b' the weight -0.5"),
        ({"a": math.nan, "b": 1}, "'a' the weight nan"),
        ({"a": math.inf, "b": 1}, "'a' the weight inf"),
        ({"a": 0, "b": 0}, r"all of \['a', 'b'\] the weight 0"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_the_name_of_the_task(weights, message):
    with pytest.raises(ValueError, match=message):
        shares_of(lambda sizes, state: weights, {"a": 1, "b": 1})


def test_an_unknown_strategy_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"'temprature'.*Known: .*Did you mean 'temperature'\?"):
        shares_of("temprature", SIZES)


def test_an_unknown_strategy_near_to_none_points_to_functions():
    with pytest.raises(ValueError, match=r"'xyz'.*Known: .*function"):
        shares_of("xyz", SIZES)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({}, {}, "names no task"),
        ({"a": 3, "b": 0}, {}, r"sizes\['b'\]=0"),
        ({"a": 3}, {"temperature": 0.5}, "temperature=0.5 must be at least 1"),
        ({"a": 3}, {"temperature": 0}, "temperature=0 must"),
        ({"a": 3}, {"temperature": -1.0}, "temperature=-1.0 must"),
        ({"a": 3}, {"temperature": math.nan}, "temperature=nan must"),
        ({"a": 3}, {"cap": 0}, "cap=0 must be at least 1"),
        ({"a": 3}, {"max_repeats": 0}, "max_repeats=0 must be above 0"),
        (
            {"a": 3},
            {"strategy": "adaptive", "references": {"b": 0.5}},
            r"references has 'b', which is not a task. Known: \['a'\]",
        ),
        ({"a": 3}, {"references": {"a": 0}}, r"references\['a'\]=0 must be a score above 0"),
        ({"a": 3}, {"references": {"a": 0.5}}, r"references=\{'a': 0.5\} and strategy='temperature' do not fit"),
        ({"a": 3, "b": 3}, {"strategy": "adaptive", "references": {"a": 0.5}}, r"references has nothing for \['b'\]"),
        ({"a": 3}, {"weights": {"a": 1}}, "weights=.* and strategy='temperature' do not fit together"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        shares_of(**{"strategy": "temperature", "sizes": sizes} | options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "strategy='weights' do not fit together"),
        ({"a": 1}, r"weights has nothing for \['b'\]"),
        ({"a": 1, "b": 1, "intnt": 2}, "weights has 'intnt', which is not a task"),
        ({"a": 1, "b": -1}, r"weights\['b'\]=-1 must be a number of at least 0"),
        ({"a": 1, "b": True}, r"weights\['b'\]=True must be a number"),
        ({"a": 1, "b": "progres"}, r"weights\['b'\]='progres' has the name 'progres'.*Did you mean 'progress'"),
        ({"a": 1, "b": "progress - 1"}, "'b' the weight -1.0"),
        ({"a": 1, "b": "1 / step"}, r"weights\['b'\]='1 / step' has no value at progress=0, step=0.*division by zero"),
    ],
)
def test_explicit_weights_that_cannot_be_used_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        mixing_probabilities(Mixture(strategy="weights", weights=weights), {"a": 1, "b": 1})


def test_a_state_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"progress=1.5 must lie in \[0, 1\]"):
        MixingState(progress=1.5)
    with pytest.raises(ValueError, match="epochs=0 must be above 0"):
        MixingState(epochs=0)


def test_annealed_goes_from_proportional_to_the_power_of_one_fifth():
    assert shares_of("annealed", SIZES) == pytest.approx(shares_of("proportional", SIZES))
    end = shares_of("annealed", SIZES, MixingState(progress=1))
    assert end == pytest.approx(shares_of("temperature", SIZES, temperature=5))


def test_explicit_weights_are_numbers_or_expressions_of_the_step():
    weights = {"large": "1 - progress", "small": "progress * sqrt(size)", "tiny": 0.5}
    state = MixingState(progress=0.1, step=10)
    shares = shares_of("weights", SIZES, state, weights=weights)
    assert shares == pytest.approx({"large": 0.9 / 4.4, "small": 3 / 4.4, "tiny": 0.5 / 4.4})


def unimax_by_bisection(sizes, budget, repeats):
    """The level u at which sum(min(u, n * repeats)) is the budget: UniMax as water filling."""
    low, high = 0.0, float(budget)
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(level, n * repeats) for n in sizes.values()) < budget else (low, level)
    rows = {task: min(high, n * repeats) for task, n in sizes.items()}
    return {task: n / sum(rows.values()) for task, n in rows.items()}


@given(sizes_of_tasks, st.floats(0.1, 20), st.floats(0.2, 20))
def test_unimax_is_the_most_even_mixture_under_its_bound_on_repeats(sizes, epochs, repeats):
    shares = shares_of("unimax", sizes, MixingState(epochs=epochs), max_repeats=repeats)
    assert shares == pytest.approx(unimax_by_bisection(sizes, epochs * sum(sizes.values()), repeats), rel=1e-6)
    rows = {task: share * epochs * sum(sizes.values()) for task, share in shares.items()}
    bound = max(repeats, epochs)  # no mixture can go less often than `epochs` times through everything
    assert all(rows[task] <= sizes[task] * bound * (1 + 1e-9) for task in sizes)


def scored(*scores):
    return MixingState(history=tuple(Evaluation(step=i, scores=s) for i, s in enumerate(scores)))


def test_adaptive_starts_from_the_temperature_mixture():
    usual = shares_of("temperature", SIZES)
    assert shares_of("adaptive", SIZES) == pytest.approx(usual)
    assert shares_of("adaptive", SIZES, scored(dict.fromkeys(SIZES, 0.5))) == pytest.approx(usual)
    reached = scored(dict.fromkeys(SIZES, 0.9))
    assert shares_of("adaptive", SIZES, reached, references=dict.fromkeys(SIZES, 0.8)) == pytest.approx(usual)


def test_adaptive_gives_three_quarters_by_the_distance_to_the_references():
    references = {"large": 0.8, "small": 0.5, "tiny": 0.4}
    state = scored(dict.fromkeys(SIZES, 0.1), {"large": 0.6, "small": 0.25, "tiny": 0.7})
    usual = shares_of("temperature", SIZES)
    needs = {"large": 0.25 / 0.75, "small": 0.5 / 0.75, "tiny": 0}
    expected = {task: 0.25 * usual[task] + 0.75 * needs[task] for task in SIZES}
    assert shares_of("adaptive", SIZES, state, references=references) == pytest.approx(expected)


def test_adaptive_without_references_goes_by_the_last_change_and_leaves_unscored_tasks_their_share():
    state = scored({"large": 0.9, "small": 0.2}, {"large": 0.5, "small": 0.3}, {"large": 0.6, "small": 0.0})
    usual = shares_of("temperature", SIZES)
    shares = shares_of("adaptive", SIZES, state)
    assert shares["tiny"] == pytest.approx(usual["tiny"])
    divided = usual["large"] + usual["small"]
    assert shares["small"] == pytest.approx(0.25 * usual["small"] + 0.75 * divided * 0.3 / 0.4)
