"""Thresholds: no other line scores better."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.tasks.thresholds import best_threshold

NUMBERS = st.integers(-5, 5).map(float)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_no_other_threshold_gains_more(items: list[tuple[float, float]]) -> None:
    margins, gains = np.array(items).T
    found = best_threshold(margins, gains)
    assert found is not None
    gained = [gains[margins <= line].sum() for line in np.arange(-6.5, 7, 0.5)]
    assert gains[margins <= found].sum() == max(gained)


def test_the_line_is_in_the_middle() -> None:
    assert best_threshold(np.array([3.0, 1.0]), np.array([-1.0, 1.0])) == 2.0
    assert best_threshold(np.array([]), np.array([])) is None
