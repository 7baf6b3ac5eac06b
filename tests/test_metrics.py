"""Scores of several tasks: worked examples, and messages that name what is missing."""

import math

import pytest

from hf_mtl.metrics import flatten_scores, gain, main_scores, mean_score, score_table

SCORES = {"intent": {"accuracy": 0.9, "f1_macro": 0.85}, "entities": {"f1": 0.5, "accuracy": 0.97}}
MAIN = {"intent": "accuracy", "entities": "f1"}


def test_flat_names_are_prefix_task_metric():
    assert flatten_scores(SCORES) == {
        "eval_intent_accuracy": 0.9,
        "eval_intent_f1_macro": 0.85,
        "eval_entities_f1": 0.5,
        "eval_entities_accuracy": 0.97,
    }
    assert flatten_scores({"a": {"f1": 1}}, prefix="test") == {"test_a_f1": 1.0}
    assert flatten_scores({}) == {}


def test_two_scores_with_one_flat_name_are_refused():
    with pytest.raises(ValueError, match=r"'eval_a_b_f1'.*task 'a_b', metric 'f1'"):
        flatten_scores({"a": {"b_f1": 0.1}, "a_b": {"f1": 0.2}})


def test_the_mean_is_over_each_tasks_main_metric():
    assert main_scores(SCORES, MAIN) == {"intent": 0.9, "entities": 0.5}
    assert mean_score(SCORES, MAIN) == pytest.approx(0.7)
    assert mean_score(SCORES, MAIN | {"intent": "f1_macro"}) == pytest.approx(0.675)
    assert mean_score({"intent": SCORES["intent"]}, MAIN) == 0.9


def test_a_score_that_is_not_a_number_is_not_hidden():
    assert math.isnan(mean_score({"intent": {"accuracy": math.nan}, "entities": {"f1": 0.5}}, MAIN))


@pytest.mark.parametrize(
    ("scores", "main", "message"),
    [
        ({}, MAIN, "no tasks"),
        (SCORES, {"intent": "accuracy", "entity": "f1"}, "task 'entities'.*Did you mean 'entity'"),
        (SCORES, MAIN | {"intent": "f1_micro"}, "'intent' has no metric 'f1_micro'.*Did you mean 'f1_macro'"),
        ({"intent": {}}, MAIN, r"'intent' has no metric 'accuracy'. Known: \[\]\.$"),
    ],
)
def test_a_mean_without_its_task_or_metric_names_it(scores, main, message):
    with pytest.raises(ValueError, match=message):
        mean_score(scores, main)


def test_gain_is_the_mean_relative_difference():
    # (0.9 - 0.8) / 0.8 = 0.125 and (0.6 - 0.8) / 0.8 = -0.25.
    single = {"a": 0.8, "b": 0.8, "not trained here": 0.1}
    assert gain({"a": 0.9, "b": 0.6}, single) == pytest.approx(-0.0625)
    assert gain(single, single) == 0.0
    # It weighs tasks by their relative, not their absolute change.
    assert gain({"a": 0.11, "b": 0.9}, {"a": 0.1, "b": 1.0}) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("scores", "single", "message"),
    [
        ({}, {"a": 0.5}, "no tasks"),
        ({"intent": 0.5}, {"intents": 0.5}, "no score for task 'intent'.*Did you mean 'intents'"),
        ({"a": 0.5}, {"a": 0.0}, r"single_task_scores\['a'\] is 0.0: .* above 0"),
        ({"a": 0.5}, {"a": -0.2}, "above 0"),
    ],
)
def test_a_gain_without_a_usable_single_task_score_names_the_task(scores, single, message):
    with pytest.raises(ValueError, match=message):
        gain(scores, single)


def test_the_table_has_a_line_per_task_and_metric():
    assert score_table(SCORES).splitlines() == [
        "task      metric     score",
        "intent    accuracy  0.9000",
        "intent    f1_macro  0.8500",
        "entities  f1        0.5000",
        "entities  accuracy  0.9700",
    ]


def test_the_table_puts_the_majority_and_the_difference_beside_each_score():
    baselines = {
        "intent": {"accuracy": 0.0133, "f1_macro": 0.9},
        "entities": {"f1": 0.0},
        "other": {"f1": 1.0},
    }
    assert score_table(SCORES, baselines).splitlines() == [
        "task      metric     score  majority     gain",
        "intent    accuracy  0.9000    0.0133  +0.8867",
        "intent    f1_macro  0.8500    0.9000  -0.0500",
        "entities  f1        0.5000    0.0000  +0.5000",
        "entities  accuracy  0.9700         -        -",
    ]


def test_the_gain_of_an_error_is_what_the_score_is_below_the_majoritys() -> None:
    table = score_table({"a": {"mse": 0.2, "spearman": 0.9}}, {"a": {"mse": 1.0, "spearman": 0.5}}, {"a": {"mse"}})
    assert [line.split()[-1] for line in table.splitlines()[1:]] == ["+0.8000", "+0.4000"]
