"""Mixed batches: shares to the row, rows once in a pass, the same steps on any number of processes, little padding."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing import MixedBatchSampler, Mixture

SIZES = {"intent": 70, "tags": 31, "answer": 9}
NAMES = list(SIZES)
RANDOM = np.random.default_rng(0)
LENGTHS = {task: RANDOM.integers(3, 60, size) for task, size in SIZES.items()}
ALL = np.concatenate(list(LENGTHS.values()))
RULE = ("strategy", "temperature", "cap", "max_repeats", "weights", "references")
RULES = [
    {"strategy": "proportional", "cap": None},
    {"strategy": "temperature"},
    {"strategy": "uniform"},
    {"strategy": "annealed"},
    {"strategy": "unimax", "max_repeats": 3},
    {"strategy": "round_robin"},
    {"strategy": "weights", "weights": {"intent": "1 - progress / 2", "tags": "step / 10", "answer": 0.3}},
    {"strategy": "adaptive"},
]
LIMITS = [{}, {"length_group": 1}, {"length_group": 3}, {"max_tokens": 150}, {"max_tokens": 150, "length_group": 3}]


def make(sizes=SIZES, **options):
    rule = {name: options.pop(name) for name in RULE if name in options}
    return MixedBatchSampler(sizes, mixture=Mixture(**rule), **({"batch_size": 4, "lengths": LENGTHS} | options))


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def tasks_of(rows):
    return np.searchsorted(np.cumsum(list(SIZES.values())), rows, side="right")


def counted(rows):
    return dict(zip(NAMES, np.bincount(tasks_of(rows), minlength=3).tolist(), strict=True))


@pytest.mark.parametrize("limits", LIMITS)
def test_any_number_of_processes_takes_the_same_micro_batches_in_the_same_steps(limits):
    def batches(world_size, accumulation, epoch):
        ranks = [
            make(world_size=world_size, rank=rank, accumulation=accumulation, seed=5, **limits)
            for rank in range(world_size)
        ]
        found = [epoch_of(sampler, epoch) for sampler in ranks]
        assert [len(sampler) for sampler in ranks] == list(map(len, found))
        return [batch for micro_step in zip(*found, strict=True) for batch in micro_step]

    for epoch in (0, 3):
        one, *others = [batches(*shape, epoch) for shape in ((1, 4), (2, 2), (4, 1))]
        assert all(other == one for other in others)


@given(st.sampled_from(RULES), st.sampled_from(LIMITS), st.integers(1, 3), st.integers(1, 5))
def test_no_row_comes_a_second_time_before_all_of_its_task_have_come(rule, limits, accumulation, batch_size):
    sampler = make(accumulation=accumulation, batch_size=batch_size, epochs=3, **rule, **limits)
    seen = np.zeros(len(ALL), dtype=int)
    for epoch in range(3):
        np.add.at(seen, list(itertools.chain(*epoch_of(sampler, epoch))), 1)
        for begin, end in itertools.pairwise(np.cumsum([0, *SIZES.values()])):
            assert seen[begin:end].max() - seen[begin:end].min() <= 1


@given(st.sampled_from(RULES), st.integers(1, 4))
def test_an_epoch_has_of_each_task_just_the_rows_that_are_planned(rule, accumulation):
    sampler = make(accumulation=accumulation, epochs=2, **rule)
    for epoch in range(2):
        batches = epoch_of(sampler, epoch)
        assert {len(batch) for batch in batches} == {4}
        assert counted(list(itertools.chain(*batches))) == sampler.rows_per_epoch()


def test_proportional_shows_every_row_once_in_an_epoch():
    rows = list(itertools.chain(*epoch_of(make(strategy="proportional", cap=None, batch_size=11), 0)))
    assert sorted(rows) == list(range(110))


@pytest.mark.parametrize("limits", LIMITS)
def test_the_rows_seen_are_those_of_the_steps_that_are_done(limits):
    sampler = make(accumulation=2, **limits)
    batches = [*epoch_of(sampler, 0), *epoch_of(sampler, 1)]
    for step in range(len(batches) // 2 + 1):
        assert sampler.rows_seen(step) == counted(list(itertools.chain(*batches[: 2 * step])))


@given(st.integers(60, 400), st.integers(1, 12), st.integers(1, 4), st.sampled_from([None, 1, 7]))
def test_no_batch_is_over_the_budget_and_every_one_has_rows(max_tokens, batch_size, accumulation, group):
    inputs = {"answer": RANDOM.integers(1, 4, 9)}
    lengths = {task: LENGTHS[task] // (3 if task == "answer" else 1) for task in SIZES}
    sampler = make(
        max_tokens=max_tokens, batch_size=batch_size, accumulation=accumulation, length_group=group, inputs=inputs,
        lengths=lengths,
    )  # fmt: skip
    number, longest = np.concatenate([np.ones(101, dtype=int), inputs["answer"]]), np.concatenate([*lengths.values()])
    for epoch in range(2):
        batches = epoch_of(sampler, epoch)
        assert len(batches) == len(sampler)
        assert all(0 < len(batch) <= batch_size for batch in batches)
        assert all(number[batch].sum() * longest[batch].max() <= max_tokens for batch in batches)


def test_under_a_budget_an_epoch_has_about_the_rows_that_are_planned():
    sizes = {"a": 3000, "b": 1000}
    lengths = {task: np.random.default_rng(1).lognormal(3, 0.6, size).astype(int) + 2 for task, size in sizes.items()}
    sampler = make(sizes, lengths=lengths, batch_size=64, max_tokens=800, strategy="proportional")
    rows = [sum(map(len, epoch_of(sampler, epoch))) for epoch in range(3)]
    assert rows == pytest.approx([4000] * 3, rel=0.03)
    assert sampler.rows_per_batch()["a"] == pytest.approx(np.mean(rows) / len(sampler), rel=0.03)


@given(
    st.sampled_from(RULES), st.sampled_from(LIMITS), st.lists(st.integers(0, 60), max_size=3, unique=True),
    st.integers(0, 5),
)  # fmt: skip
def test_a_sampler_that_gets_the_evaluations_of_a_run_hands_out_the_same(rule, limits, evaluated_at, seed):
    # As in training: an evaluation after so many steps, while one batch more has been fetched than trained on.
    options = {"accumulation": 2, "epochs": 3, "seed": seed} | rule | limits
    running, history, batches, step = make(**options), [], [], 0
    for epoch in range(3):
        running.set_epoch(epoch)
        iterator = iter(running)
        fetched = list(itertools.islice(iterator, 1))
        while fetched:
            for _ in range(2):
                batches.append(fetched.pop())
                fetched += list(itertools.islice(iterator, 1))
            step += 1
            if step in evaluated_at:
                history.append(running.record({"intent": 0.1 * step % 1, "tags": 0.5, "answer": 0.7 * step % 1}))
    resumed = make(**options)
    resumed.restore(history)
    resumed.set_epoch(1)
    assert resumed.rows_seen(step) == counted(list(itertools.chain(*batches)))
    assert [batch for epoch in range(3) for batch in epoch_of(resumed, epoch)] == batches


def test_batches_hold_several_tasks_and_little_padding():
    sizes = {f"task{i}": 2000 for i in range(4)}
    random = np.random.default_rng(0)
    lengths = {task: random.lognormal(3, 0.6, size).astype(int) + 2 for task, size in sizes.items()}
    together = np.concatenate(list(lengths.values()))

    def real(**options):
        batches = list(make(sizes, lengths=lengths, batch_size=32, strategy="uniform", **options))
        tasks = [len(set(np.array(batch) // 2000)) for batch in batches]
        assert np.mean(tasks) > 3.5
        return together[batches].sum() / sum(32 * together[batch].max() for batch in batches)

    shuffled, grouped = real(length_group=1), real()
    assert shuffled < 0.5 and grouped > 0.9


def test_the_default_group_is_a_quarter_of_the_shortest_pass():
    assert make({"a": 4000, "b": 4000}, lengths={t: np.ones(4000, int) for t in "ab"}).length_group == 50
    sampler = make({"a": 4000, "b": 40}, lengths={"a": np.ones(4000, int), "b": np.ones(40, int)}, strategy="uniform")
    assert sampler.length_group == 5  # two of four rows a step are of b: 20 steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"rank": 1}, "rank=1 must be 0 to 0"),
        ({"lengths": {"intent": LENGTHS["intent"]}}, r"\['tags', 'answer'\] have no lengths"),
        ({"max_tokens": 20}, "max_tokens_per_batch=20, but row .* of task '.*' has 59 tokens: allow 59 or more"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_of_millions_of_rows_a_few_of_a_task_are_drawn_at_a_time_and_every_row_comes_once():
    sizes = {f"task{i}": 75_000 for i in range(30)}
    lengths = {task: np.random.default_rng(1).integers(3, 60, size) for task, size in sizes.items()}
    begin = time.process_time()
    sampler = make(sizes, lengths=lengths, batch_size=50, accumulation=16, strategy="proportional", cap=None)
    batches = iter(sampler)
    first = next(batches)
    assert time.process_time() - begin < 3
    assert sampler.plan.draws_per_epoch < 2**20 and len(np.unique(np.array(first) // 75_000)) > 5
    rows = np.concatenate([first, *batches])
    seen = np.bincount(rows, minlength=2_250_000)
    assert seen.min() == 1 and seen.max() <= 2 and len(rows) < 2_250_800  # the last step is filled
    assert sum(sampler.rows_seen(sampler.plan.steps_per_epoch).values()) == len(rows)


@pytest.mark.parametrize("budget", [None, 60])
@pytest.mark.parametrize("world", [1, 2])
def test_a_micro_batch_can_be_asked_for_by_its_number(world: int, budget: int | None) -> None:
    for rank in range(world):
        batches = MixedBatchSampler(
            {"a": 50, "b": 30}, lengths={"a": [3 + i % 7 for i in range(50)], "b": [9] * 30}, batch_size=4,
            world_size=world, rank=rank, accumulation=2, length_group=3, max_tokens=budget,
        )  # fmt: skip
        for epoch in range(2):
            batches.set_epoch(epoch)
            handed_out = list(batches)
            assert [batches.micro_batch(k) for k in range(len(batches))] == handed_out
