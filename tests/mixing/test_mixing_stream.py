"""A task's stream passes over every row once, in full batches, whatever the sizes."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import TaskStream
from hf_mtl.mixing.stream import batches_together

FILE = inspect.getfile(TaskStream)


@st.composite
def streams(draw):
    size = draw(st.integers(1, 60))
    lengths = draw(st.none() | st.lists(st.integers(0, 9), min_size=size, max_size=size))
    batch_size, group = draw(st.integers(1, 70)), draw(st.integers(1, 5))
    return TaskStream(size, draw(st.integers(0, 2**40)), "task", batch_size, lengths, group)


def twin(stream, **changes):
    options = {
        "size": stream.size,
        "seed": stream.seed,
        "task": stream.task,
        "batch_size": stream.batch_size,
        "lengths": stream.lengths,
        "group": stream.group,
    }
    return TaskStream(**(options | changes))


@given(streams())
def test_no_row_is_skipped_or_repeated_inside_a_pass(stream):
    # Sorting moves rows only among the batches of one pass: up to any batch, no row came oftener than there
    # are passes begun, and at the end of a pass every row came equally often.
    passes = 3
    batches = -(-passes * stream.size // stream.batch_size)
    seen = np.zeros(stream.size, dtype=int)
    for index in range(batches):
        rows = stream.batch(index)
        assert rows.shape == (stream.batch_size,)
        np.add.at(seen, rows, 1)
        end = (index + 1) * stream.batch_size
        assert seen.max() <= -(-end // stream.size)
        assert end % stream.size or (seen == end // stream.size).all()
    assert seen.min() >= passes


@given(streams())
def test_length_groups_move_rows_only_among_the_batches_inside_a_pass(stream):
    def rows_by_place(source):
        places = {}
        for index in range(-(-3 * source.size // source.batch_size)):
            first = index * source.batch_size // source.size
            last = ((index + 1) * source.batch_size - 1) // source.size
            place = ("inside", first) if first == last else ("across", index)
            places.setdefault(place, []).extend(source.batch(index).tolist())
        return {place: sorted(rows) for place, rows in places.items()}

    assert rows_by_place(stream) == rows_by_place(twin(stream, lengths=None))


@given(streams(), st.lists(st.integers(0, 40), max_size=12))
def test_a_batch_is_the_same_in_any_order_of_reading(stream, order):
    for index in order:
        np.testing.assert_array_equal(stream.batch(index), twin(stream).batch(index))


def test_changing_a_batch_that_was_handed_out_does_not_change_the_stream():
    for lengths in (None, list(range(20))):
        stream = TaskStream(20, 0, "task", 4, lengths)
        before = stream.batch(1).copy()
        stream.batch(1)[:] = -1
        np.testing.assert_array_equal(stream.batch(1), before)


@given(streams())
def test_rows_of_a_batch_are_sorted_by_length(stream):
    for index in range(6):
        if stream.lengths is not None:
            assert (np.diff(stream.lengths[stream.batch(index)].astype(int)) >= 0).all()


def test_passes_seeds_and_tasks_have_different_orders():
    def order(seed, task, number):
        return TaskStream(1000, seed, task, 1000).batch(number).tolist()

    orders = [order(0, "a", 0), order(0, "a", 1), order(1, "a", 0), order(0, "b", 0)]
    assert all(sorted(rows) == list(range(1000)) for rows in orders)
    assert all(first != second for i, first in enumerate(orders) for second in orders[:i])


def test_the_order_is_the_same_in_another_process():
    # The file alone, without the package: what it needs beside numpy is nothing.
    code = f"import runpy; stream = runpy.run_path({FILE!r})['TaskStream'](50, 3, 'tâche', 20)"
    other = subprocess.run(
        [sys.executable, "-c", code + "; print(stream.batch(4).tolist())"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == str(TaskStream(50, 3, "tâche", 20).batch(4).tolist())


def real_share(stream, batches):
    """Real tokens / all tokens once every batch is padded to its longest row."""
    lengths = [stream.lengths[stream.batch(index)].astype(int) for index in range(batches)]
    return sum(row.sum() for row in lengths) / sum(row.max() * len(row) for row in lengths)


def test_length_groups_leave_at_most_a_tenth_of_padding():
    lengths = np.minimum(np.random.default_rng(0).lognormal(3.0, 0.6, 20_000) + 3, 512).astype(int)
    grouped = TaskStream(len(lengths), 0, "task", 32, lengths, group=50)
    shuffled = TaskStream(len(lengths), 0, "task", 32, lengths)
    assert real_share(grouped, 1250) >= 0.9
    assert real_share(shuffled, 1250) < 0.5


def test_long_batches_come_anywhere_in_a_pass():
    lengths = np.arange(3200)
    stream = TaskStream(3200, 0, "task", 32, lengths, group=50)
    means = [lengths[stream.batch(index)].mean() for index in range(100)]
    assert abs(np.corrcoef(means, range(100))[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("length_group", "batches", "together"),
    [(None, 1, 1), (None, 7, 1), (None, 8, 2), (None, 100, 25), (None, 10**6, 50), (20, 10**6, 20), (20, 5, 5),
     (1, 10**6, 1), (20, 0, 1)],
)  # fmt: skip
def test_a_pass_has_four_groups_or_more_unless_someone_says_how_many_batches_to_sort(length_group, batches, together):
    assert batches_together(length_group, batches) == together


def test_a_group_of_one_batch_changes_the_order_inside_batches_alone():
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    sorted_inside, plain = TaskStream(500, 0, "task", 16, lengths), TaskStream(500, 0, "task", 16)
    for index in range(100):
        assert sorted(sorted_inside.batch(index)) == sorted(plain.batch(index))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0 of task 'qa'"),
        ({"batch_size": 0}, "batch_size=0 of task 'qa'"),
        ({"group": 0}, "group=0 of task 'qa'"),
        ({"seed": -1}, "seed=-1"),
        ({"lengths": [1, 2]}, r"lengths of task 'qa' have shape \[2\].*its 3 rows"),
        ({"lengths": [1, 2, -3]}, "'qa' must be whole numbers.*smallest -3"),
        ({"lengths": [1.0, 2.0, 3.0]}, "'qa' must be whole numbers.*float64"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        TaskStream(**({"size": 3, "seed": 0, "task": "qa", "batch_size": 2} | options))
