"""Mixing rules give the shares they promise and refuse what they cannot use."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import MIXING_RULES, mixing_probabilities

SIZES = {"large": 90_000, "small": 900, "tiny": 9}
sizes_of_tasks = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 10**9), min_size=1, max_size=8)


@given(sizes_of_tasks, st.sampled_from(sorted(MIXING_RULES)), st.floats(1, 100), st.integers(1, 10**9))
def test_every_rule_gives_each_task_a_share_and_they_sum_to_one(sizes, strategy, temperature, cap):
    shares = mixing_probabilities(strategy, sizes, temperature=temperature, cap=cap)
    assert list(shares) == list(sizes)
    assert math.isclose(sum(shares.values()), 1.0, rel_tol=1e-9)
    assert min(shares.values()) > 0


def test_proportional_follows_the_rows():
    shares = mixing_probabilities("proportional", {"a": 1, "b": 3})
    assert shares == {"a": 0.25, "b": 0.75}


def test_uniform_ignores_the_rows():
    assert mixing_probabilities("uniform", {"a": 1, "b": 3}) == {"a": 0.5, "b": 0.5}


def test_temperature_two_follows_the_square_root_of_the_rows():
    shares = mixing_probabilities("temperature", SIZES, temperature=2.0)
    assert shares["large"] / shares["small"] == pytest.approx(10)
    assert shares["small"] / shares["tiny"] == pytest.approx(10)


@given(sizes_of_tasks)
def test_temperature_one_is_proportional(sizes):
    assert mixing_probabilities("temperature", sizes, temperature=1.0) == mixing_probabilities("proportional", sizes)


def test_infinite_temperature_is_uniform():
    assert mixing_probabilities("temperature", SIZES, temperature=math.inf) == pytest.approx(
        mixing_probabilities("uniform", SIZES)
    )


def test_the_cap_cuts_sizes_before_the_temperature():
    shares = mixing_probabilities("temperature", SIZES, temperature=2.0, cap=900)
    assert shares["large"] == shares["small"]
    assert shares["small"] / shares["tiny"] == pytest.approx(10)


def test_a_users_own_rule_gets_capped_sizes_and_progress_and_is_normalised():
    seen = []

    def rule(sizes, progress):
        seen.append((dict(sizes), progress))
        return {"tiny": 2, "small": 6, "large": 0}

    shares = mixing_probabilities(rule, SIZES, cap=1000, progress=0.5)
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
        mixing_probabilities(lambda sizes, progress: weights, {"a": 1, "b": 1})


def test_an_unknown_strategy_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"'temprature'.*Known: .*Did you mean 'temperature'\?"):
        mixing_probabilities("temprature", SIZES)


def test_an_unknown_strategy_near_to_none_points_to_functions():
    with pytest.raises(ValueError, match=r"'xyz'.*Known: .*function"):
        mixing_probabilities("xyz", SIZES)


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
        ({"a": 3}, {"progress": 1.5}, r"progress=1.5 must lie in \[0, 1\]"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        mixing_probabilities("temperature", sizes, **options)
