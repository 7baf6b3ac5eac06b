"""Shares become whole draws that sum up, are near their shares, and lie evenly."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing.spreading import carried_on, largest_remainders, rounded_up, spread

some_weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=12).map(np.array)


@given(some_weights, st.integers(0, 5000))
def test_largest_remainders_sum_up_and_are_less_than_one_away(weights, total):
    counts = largest_remainders(weights, total)
    assert counts.sum() == total and counts.min() >= 0
    assert np.abs(counts - weights / weights.sum() * total).max() < 1


@given(some_weights, st.integers(0, 50))
def test_rounded_up_gives_at_least_the_quota_and_what_is_left_to_those_behind(quota, more):
    least = np.ceil(quota * (1 - 1e-12)).astype(int)
    counts = rounded_up(quota, int(least.sum()) + more)
    assert (counts >= least).all() and counts.sum() == least.sum() + more


@given(some_weights, st.integers(1, 300), st.integers(1, 12))
def test_carried_on_counts_never_get_a_draw_ahead_of_their_share(weights, total, times):
    quota = weights / weights.sum() * total
    before = np.zeros(len(quota), dtype=np.int64)
    for number in range(1, times + 1):
        counts = carried_on(quota, number, before)
        before += counts
        assert counts.min() >= 0 and counts.sum() == total
        assert (before < quota * number + 1 + 1e-6).all()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.integers(0, 10))
def test_the_draws_that_are_spread_are_those_that_were_counted(counts, seed):
    draws = spread(np.array(counts), np.ones((1, 1)), np.random.default_rng(seed))
    assert np.bincount(draws, minlength=len(counts)).tolist() == counts
