"""Batches of the pipeline: where they are cut."""

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.pipeline_batches import cheapest_cuts


def _cost(lengths: list[int], bounds: list[int], price: int) -> int:
    return sum((end - start) * lengths[end - 1] + price for start, end in pairwise(bounds))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9).map(sorted),
    size=st.integers(1, 10),
    price=st.integers(0, 50),
)
def test_no_other_cuts_cost_less(lengths: list[int], size: int, price: int) -> None:
    bounds = cheapest_cuts(np.array(lengths), size, price)
    n = len(lengths)
    assert bounds[0] == 0
    assert bounds[-1] == n
    assert all(0 < end - start <= size for start, end in pairwise(bounds))
    every = ([0, *inner, n] for k in range(n) for inner in combinations(range(1, n), k))
    allowed = [cuts for cuts in every if all(end - start <= size for start, end in pairwise(cuts))]
    assert _cost(lengths, bounds, price) == min(_cost(lengths, cuts, price) for cuts in allowed)


def test_where_a_batch_costs_much_there_are_as_few_as_can_be() -> None:
    assert len(cheapest_cuts(np.arange(1, 11), 4, price=10_000)) == 4


def test_one_long_input_does_not_pad_the_others() -> None:
    assert cheapest_cuts(np.array([5] * 9 + [500]), 64, price=64) == [0, 9, 10]
