"""The sampler deals one plan out to any number of processes and survives accelerate's wrappers."""

import itertools

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hf_mtl.mixing import Mixture, MultiTaskBatchSampler
from hf_mtl.mixing.report import describe_epoch

SIZES = {"intent": 70, "tags": 31, "answer": 9}
LENGTHS = {task: np.random.default_rng(0).integers(3, 60, size) for task, size in SIZES.items()}

RULE = ("strategy", "temperature", "cap", "max_repeats", "weights", "references")


def make(sizes=SIZES, **options):
    rule = {name: options.pop(name) for name in RULE if name in options}
    return MultiTaskBatchSampler(sizes, mixture=Mixture(**rule), **({"batch_size": 4} | options))


def global_steps(world_size, accumulation, epoch, **options):
    """What each optimizer step takes, over all processes: [steps, micro-batches, rows]."""
    ranks = []
    for rank in range(world_size):
        sampler = make(world_size=world_size, rank=rank, accumulation=accumulation, **options)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        ranks.append(np.array(batches).reshape(-1, accumulation, sampler.batch_size))
    # Micro-batch j of a step is the one of rank j % W in micro-step j // W.
    return np.stack(ranks, axis=2).reshape(len(ranks[0]), world_size * accumulation, -1)


def task_of(rows, sizes=SIZES):
    return np.searchsorted(np.cumsum(list(sizes.values())), rows, side="right")


@pytest.mark.parametrize(("tasks_per_step", "shapes"), [(1, [(1, 4), (2, 2), (4, 1)]), (2, [(1, 4), (2, 2)])])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_any_number_of_processes_takes_the_same_optimizer_steps(tasks_per_step, shapes, lengths):
    for epoch in (0, 3):
        options = {"tasks_per_step": tasks_per_step, "lengths": lengths, "epoch": epoch, "seed": 5}
        steps = [global_steps(*shape, **options) for shape in shapes]
        for other in steps[1:]:
            np.testing.assert_array_equal(other, steps[0])


@given(st.integers(1, 3), st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (6, 3)]), st.integers(1, 9))
def test_all_processes_work_on_one_task_and_a_step_holds_its_draws(world_size, accumulating, batch_size):
    accumulation, tasks_per_step = accumulating
    steps = global_steps(
        world_size, accumulation, 0, tasks_per_step=tasks_per_step, batch_size=batch_size, lengths=LENGTHS
    )
    draws = task_of(steps).reshape(len(steps), tasks_per_step, -1)
    assert (draws == draws[:, :, :1]).all()


def test_by_default_a_step_takes_a_draw_for_each_accumulation_step():
    steps = global_steps(1, 3, 0, sizes={"a": 40, "b": 40, "c": 40}, strategy="uniform")
    for step in steps:
        assert sorted(task_of(step[:, 0], {"a": 40, "b": 40, "c": 40})) == [0, 1, 2]


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 80), min_size=1),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_proportional_reaches_every_row_by_the_end_of_each_epoch(sizes, batch_size, world_size, last):
    seen = np.zeros(sum(sizes.values()), dtype=int)
    for epoch in range(last + 1):
        rows = global_steps(
            world_size,
            1,
            epoch,
            sizes=sizes,
            batch_size=batch_size,
            strategy="proportional",
            tasks_per_step=1,
        )
        np.add.at(seen, rows.ravel(), 1)
        assert seen.min() >= epoch + 1
    for begin, end in itertools.pairwise(np.cumsum([0, *sizes.values()])):
        whole = seen[begin:end].sum() // (end - begin)
        assert whole <= seen[begin:end].min()


def test_rows_per_epoch_counts_what_is_drawn():
    sampler = make(world_size=2, rank=1, accumulation=2)
    steps = global_steps(2, 2, 0)
    drawn = np.bincount(task_of(steps).ravel(), minlength=3).tolist()
    assert sampler.rows_per_epoch() == dict(zip(SIZES, drawn, strict=True))


def test_adding_a_task_leaves_the_rows_of_the_others_in_their_order():
    def first_pass(sizes, task):
        begin = sum(size for name, size in list(sizes.items())[: list(sizes).index(task)])
        sampler = make(sizes, lengths={"tags": LENGTHS["tags"]}, seed=2)
        rows = []
        for epoch in range(8):
            sampler.set_epoch(epoch)
            rows += [row - begin for batch in sampler for row in batch if begin <= row < begin + sizes[task]]
        return rows[: 4 * sizes[task]]

    for task in ("intent", "tags"):
        assert first_pass(SIZES, task) == first_pass({"new": 12, **SIZES}, task)


def test_the_order_in_which_tasks_are_given_changes_only_the_offsets():
    turned = dict(reversed(SIZES.items()))
    begins = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]), strict=False))
    turned_begins = dict(zip(turned, np.cumsum([0, *turned.values()]), strict=False))
    names, turned_names = np.array(list(SIZES)), np.array(list(turned))
    for batch, other in zip(make(), make(turned), strict=True):
        task, other_task = names[task_of(batch[0])], turned_names[task_of(other[0], turned)]
        assert task == other_task
        assert [row - begins[task] for row in batch] == [row - turned_begins[task] for row in other]


def test_processes_of_one_micro_step_get_batches_of_similar_length():
    lengths = {"a": np.random.default_rng(1).lognormal(3, 0.6, 4000).astype(int)}
    options = {"world_size": 2, "lengths": lengths, "batch_size": 8, "length_group": 50}
    longest = [[lengths["a"][batch].max() for batch in make({"a": 4000}, rank=rank, **options)] for rank in range(2)]
    first, second = np.array(longest)
    assert np.abs(first - second).mean() < 0.1 * first.mean()


def test_an_iterator_keeps_the_epoch_it_was_made_in():
    sampler = make()
    batches = iter(sampler)
    sampler.set_epoch(1)
    assert list(batches) == list(make())
    assert list(sampler) != list(make())


class Rows:
    """A dataset whose item is its index."""

    def __len__(self):
        return sum(SIZES.values())

    def __getitem__(self, index):
        return index


def loader_as_in_trainer(sampler, world_size=1, rank=0):
    """The steps of transformers' `Trainer._get_dataloader` for its own batch sampler."""
    loader = DataLoader(Rows(), batch_sampler=sampler, collate_fn=list)
    if world_size == 1:
        return Accelerator(cpu=True).prepare(loader)
    loader = prepare_data_loader(loader, num_processes=world_size, process_index=rank, put_on_device=False)
    loader.batch_sampler.num_processes = 1
    loader.batch_sampler.process_index = 0
    return loader


def expected(epoch, **options):
    sampler = make(accumulation=2, lengths=LENGTHS, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


class RecordingModel(torch.nn.Module):
    """Remembers the rows of every batch that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def forward(self, rows):
        self.batches.append(rows.tolist())
        return {"loss": self.weight * 1.0}


class MixtureTrainer(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return make(accumulation=2, lengths=LENGTHS)


def collate(rows):
    return {"rows": torch.tensor(rows)}


def test_trainer_goes_through_it_as_it_is_and_resumes_in_the_middle_of_an_epoch(tmp_path):
    steps_per_epoch = len(expected(0)) // 2

    def train(resume=None):
        model = RecordingModel()
        args = TrainingArguments(
            output_dir=str(tmp_path),
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_steps=steps_per_epoch + 3,
        )
        trainer = MixtureTrainer(model, args, train_dataset=Rows(), data_collator=collate)
        trainer.train(resume_from_checkpoint=resume)
        return model.batches

    assert train() == expected(0) + expected(1)
    assert train(resume=str(tmp_path / f"checkpoint-{steps_per_epoch + 3}")) == expected(1)[6:]


@pytest.mark.parametrize("options", [{}, {"world_size": 2, "rank": 0}, {"world_size": 2, "rank": 1}])
def test_accelerate_hands_out_every_batch_of_every_epoch(options):
    sampler = make(accumulation=2, lengths=LENGTHS, **options)
    loader = loader_as_in_trainer(sampler, **options)
    assert len(loader) == len(sampler)
    for epoch in range(3):
        loader.set_epoch(epoch)
        sampler.set_epoch(epoch)
        assert list(loader) == expected(epoch, **options)


@given(epoch=st.integers(0, 3), skipped=st.integers(0, 8))
def test_a_run_resumed_in_the_middle_of_an_epoch_goes_on_where_it_was(epoch, skipped):
    sampler = make(accumulation=2, lengths=LENGTHS)
    loader = loader_as_in_trainer(sampler)
    resumed = skip_first_batches(loader, skipped)
    resumed.set_epoch(epoch)
    assert list(resumed) == expected(epoch)[skipped:]
    for following in (epoch + 1, epoch + 2):
        loader.set_epoch(following)
        assert list(loader) == expected(following)


@pytest.mark.parametrize("rank", [0, 1])
def test_with_several_processes_a_resumed_run_needs_the_epoch_set_on_the_sampler(rank):
    options = {"world_size": 2, "rank": rank}
    sampler = make(accumulation=2, lengths=LENGTHS, **options)
    loader = loader_as_in_trainer(sampler, **options)
    resumed = skip_first_batches(loader, 6)
    resumed.set_epoch(2)
    assert list(resumed) == expected(0, **options)[6:]  # accelerate's two wrappers keep the epoch from it
    resumed = skip_first_batches(loader, 6)
    resumed.set_epoch(2)
    sampler.set_epoch(2)
    assert list(resumed) == expected(2, **options)[6:]


@pytest.mark.parametrize("rank", [0, 1])
def test_with_several_processes_naming_the_sampler_on_the_shard_carries_the_epoch_through(rank):
    options = {"world_size": 2, "rank": rank}
    sampler = make(accumulation=2, lengths=LENGTHS, **options)
    loader = loader_as_in_trainer(sampler, **options)
    loader.batch_sampler.sampler = sampler
    resumed = skip_first_batches(loader, 6)
    resumed.set_epoch(2)
    assert list(resumed) == expected(2, **options)[6:]
    loader.set_epoch(3)
    assert list(loader) == expected(3, **options)


def test_tasks_may_have_batches_of_their_own_size():
    sampler = make(batch_sizes={"tags": 2}, strategy="uniform")
    sizes = {int(task_of(batch)[0]): set() for batch in sampler}
    for batch in sampler:
        sizes[int(task_of(batch)[0])].add(len(batch))
    assert sizes == {0: {4}, 1: {2}, 2: {4}}
    rows = sampler.rows_per_epoch()
    assert rows["tags"] == pytest.approx(rows["intent"], abs=4)  # the shares are of rows, however many make a batch


@pytest.mark.parametrize(("tasks_per_step", "shapes"), [(1, [(1, 4), (2, 2), (4, 1)]), (2, [(1, 4), (2, 2)])])
def test_any_number_of_processes_takes_the_same_steps_under_a_token_budget(tasks_per_step, shapes):
    def steps(world_size, accumulation, epoch):
        ranks = []
        for rank in range(world_size):
            sampler = make(
                world_size=world_size, rank=rank, accumulation=accumulation, tasks_per_step=tasks_per_step,
                lengths=LENGTHS, max_tokens=120,
            )  # fmt: skip
            sampler.set_epoch(epoch)
            ranks.append(list(sampler))
            assert len(ranks[-1]) == len(sampler)
        return [batch for micro_step in zip(*ranks, strict=True) for batch in micro_step]

    for epoch in (0, 2):
        first, *others = [steps(*shape, epoch) for shape in shapes]
        assert all(other == first for other in others)
        lengths = np.concatenate(list(LENGTHS.values()))
        assert all(len(batch) <= 4 and len(batch) * lengths[batch].max() <= 120 for batch in first)


RULES = [
    {"strategy": "proportional", "cap": None},
    {"strategy": "uniform"},
    {"strategy": "annealed"},
    {"strategy": "unimax", "max_repeats": 3},
    {"strategy": "round_robin"},
    {"strategy": "weights", "weights": {"intent": "1 - progress / 2", "tags": "step / 10", "answer": 0.3}},
    {"strategy": "adaptive"},
]


@given(
    st.sampled_from(RULES),
    st.sampled_from([{}, {"lengths": LENGTHS, "length_group": 3}, {"lengths": LENGTHS, "max_tokens": 150}]),
    st.integers(0, 40),
    st.lists(st.integers(0, 60), max_size=3),
    st.integers(0, 5),
)
def test_a_stream_that_is_resumed_equals_an_unbroken_one(rule, limits, broken_at, evaluated_at, seed):
    # As in training: an evaluation after so many steps, while one batch more has been fetched than trained on.
    options = {"accumulation": 2, "epochs": 3, "seed": seed} | rule | limits

    def run(sampler, first, history):
        batches, step = [], first
        for epoch in range(first // sampler.plan.steps_per_epoch, 3):
            sampler.set_epoch(epoch)
            iterator = iter(sampler)
            skipped = (step - epoch * sampler.plan.steps_per_epoch) * 2
            fetched = list(itertools.islice(iterator, skipped + 1))[skipped:]
            while fetched:
                for _ in range(2):
                    batches.append(fetched.pop())
                    fetched += list(itertools.islice(iterator, 1))
                step += 1
                if step in evaluated_at:
                    random = np.random.default_rng(step)
                    history.append(sampler.record({task: float(random.random()) for task in SIZES}))
                if step == broken_at:
                    kept[:] = list(history)
        return batches

    kept = []
    unbroken = run(make(**options), 0, [])
    resumed = make(**options)
    resumed.restore(kept)
    assert run(resumed, broken_at, list(kept)) == unbroken[2 * broken_at :]


@given(st.sampled_from(RULES), st.booleans(), st.integers(0, 50))
def test_the_rows_that_were_seen_are_those_that_were_handed_out(rule, budget, steps):
    options = {"lengths": LENGTHS, "max_tokens": 150} if budget else {}
    sampler = make(accumulation=2, epochs=2, **rule, **options)
    batches = []
    for epoch in range(-(-steps // sampler.plan.steps_per_epoch)):
        sampler.set_epoch(epoch)
        batches += list(sampler)
    seen = np.bincount(task_of(np.concatenate([[], *batches[: 2 * steps]]).astype(int)), minlength=3).tolist()
    assert sampler.rows_seen(steps) == dict(zip(SIZES, seen, strict=True))


def test_the_report_says_what_an_epoch_is():
    sampler = make({"a": 60, "b": 20}, strategy="uniform", epochs=3)
    text = describe_epoch(sampler)
    assert text.splitlines() == [
        "Mixture uniform: an epoch has 20 steps and 80 rows.",
        "  a: 40 rows an epoch of 60 there are, 0.67 passes; 2.00 in 3 epochs",
        "  b: 40 rows an epoch of 20 there are, 2.00 passes; 6.00 in 3 epochs",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {}}, "names no task"),
        ({"sizes": {"a": 3, "b": 0}}, r"sizes\['b'\]=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"world_size": 0}, "world_size=0"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"world_size": 2, "rank": 2}, "rank=2 must be 0 to 1 with world_size=2"),
        (
            {"accumulation": 4, "tasks_per_step": 3},
            r"tasks_per_step=3 must divide accumulation=4.*\[1, 2, 4\]",
        ),
        ({"tasks_per_step": 0}, "tasks_per_step=0 must divide"),
        ({"temperature": 0.9}, "temperature=0.9"),
        ({"cap": -5}, "cap=-5"),
        ({"strategy": "proportionl"}, "Did you mean 'proportional'"),
        ({"lengths": {"intnt": [1]}}, r"'intnt', which is not a task.*Did you mean 'intent'"),
        ({"lengths": {"answer": [1, 2]}}, r"'answer' have shape \[2\]"),
        ({"seed": -3}, "seed=-3"),
        ({"batch_sizes": {"tags": 0}}, r"batch_sizes\['tags'\]=0 must be at least 1"),
        ({"batch_sizes": {"tgs": 1}}, r"'tgs', which is not a task.*Did you mean 'tags'"),
        ({"max_tokens": 0, "lengths": LENGTHS}, "max_tokens_per_batch=0 must be at least 1"),
        ({"max_tokens": 20, "lengths": LENGTHS}, "max_tokens_per_batch=20, but row"),
        ({"max_tokens": 99}, r"max_tokens_per_batch=99 takes the lengths of all rows: \['intent', 'tags', 'answer'\]"),
        ({"length_group": 0}, "length_group=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused_with_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
