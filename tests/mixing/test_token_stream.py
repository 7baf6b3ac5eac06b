"""A stream under a token budget passes over every row once, in micro-batches that keep to the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import TokenStream
from hf_mtl.mixing.token_stream import token_stream


@st.composite
def options(draw):
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=120))
    return {
        "size": len(lengths),
        "seed": draw(st.integers(0, 2**40)),
        "task": "task",
        "batch_size": draw(st.integers(1, 20)),
        "lengths": lengths,
        "max_tokens": max(lengths) + draw(st.integers(0, 200)),
        "parts": draw(st.integers(1, 4)),
        "length_group": draw(st.integers(1, 50)),
    }


LONG = np.minimum(np.random.default_rng(0).lognormal(3.0, 0.6, 20_000) + 3, 200).astype(int)


def long_texts(**changes):
    usual = {"size": 20_000, "seed": 0, "task": "t", "batch_size": 64, "lengths": LONG, "max_tokens": 400}
    return token_stream(**(usual | changes))


@given(options())
def test_micro_batches_keep_to_the_rows_and_to_the_padded_tokens(given_options):
    stream = token_stream(**given_options)
    lengths = np.array(given_options["lengths"])
    for index in range(40):
        micro_batches = stream.draw(index)
        assert len(micro_batches) == given_options["parts"]
        sizes = [len(rows) for rows in micro_batches]
        assert min(sizes) >= 1 and max(sizes) <= min(sizes) + 1
        for rows in micro_batches:
            assert len(rows) <= given_options["batch_size"]
            assert len(rows) * lengths[rows].max() <= given_options["max_tokens"]


@given(options())
def test_no_row_is_skipped_or_repeated_inside_a_pass(given_options):
    stream = token_stream(**given_options)
    if isinstance(stream, TokenStream):  # else its test is the other stream's
        for number in range(3):
            draws = range(number * stream.draws_per_pass, (number + 1) * stream.draws_per_pass)
            rows = np.concatenate([part for index in draws for part in stream.draw(index)])
            assert sorted(rows.tolist()) == list(range(stream.size))


@given(options(), st.lists(st.integers(0, 60), max_size=12))
def test_a_draw_is_the_same_in_any_order_of_reading(given_options, order):
    stream = token_stream(**given_options)
    for index in order:
        for part, again in zip(stream.draw(index), token_stream(**given_options).draw(index), strict=True):
            np.testing.assert_array_equal(part, again)


@given(options(), st.integers(0, 50), st.integers(0, 50))
def test_the_rows_of_some_draws_are_counted_without_drawing(given_options, first, number):
    stream = token_stream(**given_options)
    drawn = sum(len(part) for index in range(first, first + number) for part in stream.draw(index))
    assert stream.rows(first, number) == drawn


def test_each_pass_puts_rows_together_anew():
    stream = long_texts()
    first = {frozenset(part.tolist()) for index in range(stream.draws_per_pass) for part in stream.draw(index)}
    again = range(stream.draws_per_pass, 2 * stream.draws_per_pass)
    second = {frozenset(part.tolist()) for index in again for part in stream.draw(index)}
    assert len(first & second) < 0.01 * len(first)  # pairs of the longest rows may meet again


def test_batches_are_fuller_and_less_padded_than_those_cut_for_the_longest_row():
    stream = long_texts()
    batches = [part for index in range(stream.draws_per_pass) for part in stream.draw(index)]
    padded = np.array([len(rows) * LONG[rows].max() for rows in batches])
    assert padded.max() <= 400 and padded.mean() > 0.7 * 400
    assert LONG.sum() / padded.sum() > 0.85  # real tokens / all tokens
    assert len(batches) < 0.5 * len(LONG) / (400 // LONG.max())


def test_a_small_task_is_mixed_over_all_lengths():
    lengths = np.arange(1, 201)
    stream = token_stream(200, 0, "t", 20, lengths, 4000)
    spans = [np.ptp(lengths[stream.draw(index)[0]]) for index in range(stream.draws_per_pass)]
    assert np.mean(spans) > 2 * 20  # sorted as a whole they would span 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 199}, "max_tokens_per_batch=199, but row .* of task 't' has 200 tokens: allow 200 or more"),
        ({"batch_size": 0}, "batch_size=0 of task 't'"),
        ({"size": 3}, r"lengths of task 't' have shape \[20000\]"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        long_texts(**changes)
