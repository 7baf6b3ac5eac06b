"""Tasks that leave a mixture: none of their draws afterwards, nothing changed before."""

from typing import Any

import numpy as np
import pytest

from hf_mtl.mixing import Evaluation, MixedBatchSampler, Mixture, MixturePlan, MultiTaskBatchSampler

SIZES = {"a": 40, "b": 100, "c": 9}
STRATEGIES: dict[str, dict[str, Any]] = {
    "proportional": {},
    "uniform": {},
    "temperature": {"cap": 50},
    "annealed": {},
    "unimax": {"max_repeats": 3},
    "round_robin": {},
    "weights": {"weights": {"a": 1.0, "b": "1 - progress", "c": 0.3}},
    "adaptive": {"references": {"a": 0.9, "b": 0.9, "c": 0.9}},
}


def plan(strategy: str, **kwargs: Any) -> MixturePlan:
    mixture = Mixture(strategy=strategy, **STRATEGIES[strategy])
    return MixturePlan(SIZES, rows_per_draw=4, draws_per_step=2, mixture=mixture, epochs=6, **kwargs)


def draws(of: MixturePlan, epochs: int = 6) -> np.ndarray:
    return np.concatenate([of.draws(epoch) for epoch in range(epochs)])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("within", [0, 3])
def test_a_task_that_left_is_drawn_no_more_and_nothing_before_changes(strategy: str, within: int) -> None:
    whole, left = plan(strategy), plan(strategy)
    step = 2 * left.steps_per_epoch + within
    left.record(Evaluation(step=step, scores={}, left=["b"]))
    before, after = draws(whole), draws(left)
    assert len(before) == len(after)
    place = step * 2
    assert before[:place].tolist() == after[:place].tolist()
    assert set(after[place:].tolist()) == {0, 2}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_last_one_gets_all_and_counts_add_up(strategy: str) -> None:
    found = plan(strategy)
    found.record(Evaluation(step=5, scores={}, left=["c"]))
    found.record(Evaluation(step=found.steps_per_epoch + 2, scores={"a": 0.5}, left=["b"]))
    every = draws(found)
    assert set(every[(found.steps_per_epoch + 2) * 2 :].tolist()) == {0}
    for epoch in range(6):
        own = every[epoch * found.draws_per_epoch : (epoch + 1) * found.draws_per_epoch]
        assert found.counts(epoch).tolist() == np.bincount(own, minlength=3).tolist()
        assert found.starts(epoch).tolist() == np.bincount(every[: epoch * found.draws_per_epoch], minlength=3).tolist()


def test_those_that_stay_keep_their_shares_among_themselves() -> None:
    found = plan("proportional")
    found.record(Evaluation(step=0, scores={}, left=["b"]))
    counts = found.counts(3)
    assert counts[0] / counts[2] == pytest.approx(40 / 9, rel=0.2)


def test_a_small_share_is_drawn_once_an_epoch_though_another_task_left() -> None:
    mixture = Mixture(strategy="proportional")
    found = MixturePlan({"a": 4000, "b": 4000, "c": 2}, rows_per_draw=8, mixture=mixture)
    found.record(Evaluation(step=0, scores={}, left=["b"]))
    assert found.counts(0)[2] == 1
    assert found.counts(0).sum() == found.draws_per_epoch


@pytest.mark.parametrize("step", [0, 4, 5, 6, 21, 25])
@pytest.mark.parametrize("task", ["a", "b", "c"])
def test_those_that_stay_take_strict_turns_over_all_epochs(step: int, task: str) -> None:
    mixture = Mixture(strategy="round_robin")
    found = MixturePlan({"a": 40, "b": 24, "c": 20}, rows_per_draw=4, mixture=mixture, epochs=6)
    assert found.draws_per_epoch % 2  # so that an epoch does not end where it began
    found.record(Evaluation(step=step, scores={}, left=[task]))
    turns = draws(found)
    assert (turns[1:] != turns[:-1]).all() and found.tasks.index(task) not in turns[step:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_restored_sampler_draws_what_the_first_one_did(strategy: str) -> None:
    def sampler() -> MultiTaskBatchSampler:
        mixture = Mixture(strategy=strategy, **STRATEGIES[strategy])
        return MultiTaskBatchSampler(SIZES, batch_size=4, accumulation=2, mixture=mixture, epochs=6)

    first, second = sampler(), sampler()
    first.set_epoch(1)
    batches = iter(first)
    taken = [next(batches) for _ in range(5)]
    kept = first.record({}, ["a"])
    taken += list(batches)
    second.restore([Evaluation(step=kept.step, scores={}, left=list(kept.left))])
    second.set_epoch(1)
    assert list(second) == taken
    assert kept.step == first.plan.steps_per_epoch + 3  # the third step has begun
    assert all(row >= 40 for batch in taken[6:] for row in batch)


def test_a_mixture_that_all_would_leave_is_refused() -> None:
    found = plan("uniform")
    found.record(Evaluation(step=1, scores={}, left=["a", "b"]))
    with pytest.raises(ValueError, match="end the training"):
        found.record(Evaluation(step=2, scores={}, left=["c"]))


def test_an_unknown_task_cannot_leave() -> None:
    with pytest.raises(ValueError, match="not tasks"):
        plan("uniform").record(Evaluation(step=1, scores={}, left=["x"]))


@pytest.mark.parametrize("kind", ["per_task", "mixed"])
def test_a_run_that_goes_on_at_the_begin_of_an_epoch_records_behind_what_it_knows(kind: str) -> None:
    # ignore_data_skip: its rows come from the begin on, and its evaluations are of later steps.
    if kind == "mixed":
        lengths = {task: np.ones(size, dtype=int) for task, size in SIZES.items()}
        sampler: Any = MixedBatchSampler(SIZES, lengths=lengths, batch_size=4, accumulation=2, length_group=1)
    else:
        sampler = MultiTaskBatchSampler(SIZES, batch_size=4, accumulation=2)
    sampler.restore([Evaluation(step=6, scores={}, left=["c"])])
    batches = iter(sampler)
    next(batches)
    assert sampler.record({"a": 0.5}, ["b"]).step == 6
    assert sampler.plan.history[-1].left == ["b"]
