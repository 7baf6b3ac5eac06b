"""Soft labels: votes and weights as distributions, the loss, the answers and their scores."""

import math

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overfit import overfit
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss
from tiny import make_tokenizer
from transformers import BertConfig

from hf_mtl.data import encode_dataset
from hf_mtl.scoring.soft_label import SoftLabelScore, soft_label_scores
from hf_mtl.tasks import RowError
from hf_mtl.tasks.soft_label_classification import SoftLabelClassification

TOKENIZER = make_tokenizer("bytes")
TOKENIZER.model_max_length = 128
VOTES = [
    {"text": text, "label": votes}
    for text, votes in [
        ("What a lovely day.", {"good": 9, "bad": 0, "neither": 1}),
        ("The room was fine, I suppose.", {"good": 4, "bad": 2, "neither": 4}),
        ("Nobody answered the phone.", {"bad": 8, "neither": 2}),
        ("It is on the second floor.", {"neither": 10}),
        ("Well, that went splendidly wrong.", {"good": 3, "bad": 7}),
        ("I would come again.", {"good": 10}),
        ("The soup was cold.", {"bad": 9, "neither": 1}),
        ("The soup was not cold.", {"good": 7, "bad": 1, "neither": 2}),
        ("Trains leave every hour.", {"good": 1, "neither": 9}),
        ("Cheap, and one can tell.", {"good": 2, "bad": 6, "neither": 2}),
        ("Not bad at all!", {"good": 8, "neither": 2}),
        ("Could be worse, could be better.", {"good": 2, "bad": 2, "neither": 6}),
    ]
]
few = settings(max_examples=60, deadline=None)
weights = st.lists(st.floats(0, 1e308), min_size=3, max_size=3).filter(any)
shares = st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any).map(lambda x: [v / sum(x) for v in x])


def of_labels(*labels, **fields):
    return SoftLabelClassification(name="t", labels=labels, **fields)


def encoded(task, *values):
    rows = [{"text": "x", "label": value} for value in values]
    return [f["labels"] for f in task.encode(rows, TOKENIZER)]


@few
@given(weights)
def test_lists_and_dicts_of_the_same_weights_are_the_same_distribution(values):
    task = of_labels("a", "b", "c")
    named = dict(zip("cab", [values[2], *values[:2]], strict=True))
    one, two = encoded(task, values, named)
    assert one == two and math.fsum(one) == pytest.approx(1) and min(one) >= 0
    assert one == pytest.approx(np.array(values) / max(values) / (np.array(values) / max(values)).sum())


def test_labels_are_learned_from_dicts_and_what_a_dict_leaves_out_weighs_nothing():
    data = datasets.Dataset.from_list(VOTES)
    task = SoftLabelClassification.from_dataset("t", data)
    assert task.labels == ("bad", "good", "neither")
    features = encode_dataset(task, 0, data, TOKENIZER, "train").features
    assert features["labels"][2] == [0.8, 0, 0.2] and features["labels"][4] == [0.7, 0.3, 0]
    assert SoftLabelClassification.from_dataset("t", VOTES[::-1]).labels == task.labels


def test_labels_cannot_be_learned_from_lists():
    rows = [{"text": "x", "label": [1.0, 0.0]}]
    with pytest.raises(ValueError, match=r"'t': labels can be learned where.*row 0 has list.*Give the task labels="):
        SoftLabelClassification.from_dataset("t", rows)
    assert SoftLabelClassification.from_dataset("t", rows, labels=["a", "b"]).labels == ("a", "b")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([0.5, -0.1], r"finite numbers of 0 or more, got float -0.1 in list \[0.5, -0.1\]"),
        ([0.5, float("nan")], "finite numbers of 0 or more, got float nan"),
        ({"a": float("inf")}, "finite numbers of 0 or more, got float inf"),
        ([1, None], "finite numbers of 0 or more, got NoneType None"),
        ([True, 1], "finite numbers of 0 or more, got bool True"),
        ({"a": "3"}, "finite numbers of 0 or more, got str '3'"),
        ([0, 0.0], "must weigh at least one label above 0"),
        ({"a": 0, "b": None}, "must weigh at least one label above 0"),
        ({}, "must weigh at least one label above 0"),
        ([1.0], r"must hold 2 weights, one for each of its labels \['a', 'b'\], got 1"),
        ([1.0, 2.0, 3.0], "must hold 2 weights"),
        ({"A": 1}, "label 'A' is none of its 2 labels"),
        ("a", "must hold a dict label -> weight or a list of weights, got str 'a'"),
        (None, "must hold a dict label -> weight or a list of weights, got NoneType None"),
    ],
)
def test_what_is_no_distribution_is_named(value, problem):
    with pytest.raises(RowError, match=problem) as error:
        encoded(of_labels("a", "b"), [1, 1], value)
    assert error.value.row == 1 and "'t'" in str(error.value)


def test_the_loss_is_the_cross_entropy_and_its_gradient_that_of_the_divergence():
    torch.manual_seed(0)
    task = of_labels("a", "b", "c")
    head = task.build_head(BertConfig(hidden_size=8)).eval()
    gold = task.stack_labels([[0.2, 0.5, 0.3], [1.0, 0, 0], [0, 0.5, 0.5]], 5)
    output = head(torch.randn(3, 5, 8), torch.ones(3, 5), gold)
    found = output.logits.log_softmax(-1)
    assert output.loss.item() == pytest.approx(-(gold * found).sum(-1).mean().item(), rel=1e-5)
    divergence = torch.nn.functional.kl_div(found, gold, reduction="batchmean")
    (one,) = torch.autograd.grad(output.loss, head.classifier.weight, retain_graph=True)
    (two,) = torch.autograd.grad(divergence, head.classifier.weight)
    torch.testing.assert_close(one, two)


def test_a_distribution_on_one_label_is_learned_as_the_label_is():
    torch.manual_seed(0)
    head = of_labels("a", "b", "c").build_head(BertConfig(hidden_size=8)).eval()
    hidden, mask, labels = torch.randn(4, 5, 8), torch.ones(4, 5), torch.tensor([2, 0, 1, 1])
    soft = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(head(hidden, mask, soft).loss, head(hidden, mask, labels).loss)


def test_the_answer_is_every_label_best_first():
    task = of_labels("a", "b", "c")
    (prediction,) = task.decode([np.log(np.array([0.2, 0.5, 0.3], dtype=np.float32))], [{"row": 0}], [{}])
    assert prediction == pytest.approx([0.2, 0.5, 0.3])
    answer = task.answer(prediction, {})
    assert [found["label"] for found in answer] == ["b", "c", "a"] and answer[0]["score"] == prediction[1]


def test_the_baseline_is_the_mean_distribution():
    gold = [[1.0, 0.0], [0.5, 0.5]]
    assert of_labels("a", "b").baseline(gold, [{}] * 3) == [[0.75, 0.25]] * 3


def test_a_dozen_rows_of_votes_are_learned(tiny_backbone):
    task = SoftLabelClassification.from_dataset("t", VOTES)
    logits, features = overfit(task, VOTES, tiny_backbone())
    gold = task.references(VOTES)
    scores = task.score(task.decode(logits, features, VOTES), gold)
    least = task.score(task.baseline(gold, VOTES), gold)
    assert scores["accuracy"] == 1 and scores["kl_divergence"] < 0.1 < least["kl_divergence"]


# Scores


@few
@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=6))
def test_divergences_are_scipys(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    scores = soft_label_scores(predictions, references)
    floor = np.maximum(predictions, np.finfo(np.float64).eps)
    own = entropy(np.array(references), axis=1).mean()
    assert scores["kl_divergence"] == pytest.approx(entropy(references, floor, axis=1).mean(), abs=1e-9)
    assert scores["cross_entropy"] == pytest.approx(scores["kl_divergence"] + own, abs=1e-9)
    assert all(value >= 0 for value in scores.values())


def test_of_sure_references_the_scores_are_scikit_learns():
    found = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    gold = [0, 1, 2]
    scores = SoftLabelScore().compute(predictions=found.tolist(), references=np.eye(3)[gold].tolist())
    loss = log_loss(gold, found.clip(np.finfo(float).eps), labels=[0, 1, 2])
    accuracy = accuracy_score(gold, found.argmax(1))
    assert scores == pytest.approx({"accuracy": accuracy, "cross_entropy": loss, "kl_divergence": loss})


def test_each_of_equally_likely_labels_is_right():
    gold = [[0.4, 0.2, 0.4]] * 3
    assert soft_label_scores([[0, 0, 1], [1, 0, 0], [0, 1, 0]], gold)["accuracy"] == pytest.approx(2 / 3)


def test_what_is_no_distribution_cannot_be_scored():
    with pytest.raises(ValueError, match=r"predictions\[1\] is \[0.5, 0.4\]: expected probabilities"):
        soft_label_scores([[0.5, 0.5], [0.5, 0.4]], [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"predictions\[0\] has 3 probabilities, and references\[0\] has 2"):
        soft_label_scores([[0.5, 0.5, 0]], [[1, 0]])
