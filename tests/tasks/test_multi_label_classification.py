"""Multi-label classification: sets of labels, the threshold, and their scores."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overfit import overfit
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from tiny import make_tokenizer, read_jsonl
from transformers import BertConfig

from hf_mtl.data import encode_dataset
from hf_mtl.scoring.multi_label import MultiLabelScore, multi_label_scores
from hf_mtl.tasks import RowError
from hf_mtl.tasks.multi_label_classification import MultiLabelClassification
from hf_mtl.tasks.thresholds import best_f1_threshold

INTENTS = read_jsonl(Path(__file__).parents[1] / "data" / "intents.jsonl")
TOKENIZER = make_tokenizer("bytes")
TOKENIZER.model_max_length = 128
few = settings(max_examples=60, deadline=None)
sets = st.lists(st.sampled_from("abcd"), max_size=4)


def rows_of(*labels):
    return [{"text": f"text {i}", "labels": label} for i, label in enumerate(labels)]


def learned(*labels, **fields):
    return MultiLabelClassification.from_dataset("t", rows_of(*labels), **fields)


def of_labels(*labels, **fields):
    return MultiLabelClassification(name="t", labels=labels, **fields)


def logit(share):
    return np.log(share) - np.log1p(-share)


def test_labels_are_learned_from_all_rows_in_an_order_that_rows_do_not_change():
    assert learned(["b"], [], ["a", "c"]).labels == learned(["c", "b"], ["a"]).labels == ("a", "b", "c")
    assert learned(["a"]).labels == ("a",)
    assert learned(["a"], labels=["b", "a"]).labels == ("b", "a")


def test_class_labels_give_their_names_in_their_order():
    feature = datasets.List(datasets.ClassLabel(names=["z", "a", "q"]))
    data = datasets.Dataset.from_list(rows_of([0, 1], [], [1])).cast_column("labels", feature)
    task = MultiLabelClassification.from_dataset("t", data)
    assert task.labels == ("z", "a", "q")
    encoded = encode_dataset(task, 0, data, TOKENIZER, "train")
    assert encoded.features["labels"] == [[True, True, False], [False] * 3, [False, True, False]]


def test_rows_become_the_indicators_that_scikit_learn_gives():
    task = MultiLabelClassification.from_dataset("t", INTENTS)
    stacked = task.stack_labels([f["labels"] for f in task.encode(INTENTS, TOKENIZER)], 7)
    assert stacked.dtype == torch.float32
    wanted = MultiLabelBinarizer(classes=task.labels).fit_transform([row["labels"] for row in INTENTS])
    np.testing.assert_array_equal(stacked.numpy(), wanted)


def test_a_thousand_rows_without_labels_may_come_first():
    task = of_labels("a", "b")
    encoded = encode_dataset(task, 0, rows_of(*[[]] * 1000, ["b"]), TOKENIZER, "train")
    assert encoded[0]["labels"] == [False, False] and encoded[1000]["labels"] == [False, True]


@pytest.mark.parametrize("value", ["a", None, ["a", None], 3, {"a": 1}])
def test_what_is_no_list_of_labels_is_named(value):
    with pytest.raises(RowError, match=r"'t': column 'labels' must hold a list of labels.*empty list") as error:
        of_labels("a", "b").encode([*rows_of(["a"]), {"text": "x", "labels": value}], TOKENIZER)
    assert error.value.row == 1


def test_training_data_without_labels_is_refused():
    with pytest.raises(ValueError, match="'t': column 'labels' holds empty lists alone"):
        MultiLabelClassification.from_dataset("t", rows_of([], []))
    with pytest.raises(ValueError, match=r"got list \['a', None\]. This is row 1"):
        learned(["a"], ["a", None])
    with pytest.raises(RowError, match=r"label 'ab' is none of its 2 labels.*"):
        of_labels("a", "b").encode(rows_of(["ab"]), TOKENIZER)


@pytest.mark.parametrize("threshold", [-0.1, 1, 1.5, "0.5", True, None, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="'t': threshold must be a number from 0 up to 1"):
        of_labels("a", threshold=threshold)


def test_tasks_that_differ_in_threshold_and_labels_encode_alike():
    one, two = of_labels("a", "b"), of_labels("c", threshold=0.25, pooling="first", label="tags")
    assert one.encoding_key() == two.encoding_key()
    assert {"threshold", "pooling"} <= one.not_in_features and "labels" not in one.not_in_features


def test_the_loss_is_the_mean_negative_log_likelihood_of_each_decision():
    torch.manual_seed(0)
    head = of_labels("a", "b", "c").build_head(BertConfig(hidden_size=8)).eval()
    hidden, mask = torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.long)
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    output = head(hidden, mask, labels)
    chance = 1 / (1 + np.exp(-output.logits.detach().double().numpy()))
    wanted = -np.log(np.where(labels.numpy() == 1, chance, 1 - chance)).mean()
    assert output.loss.item() == pytest.approx(wanted, rel=1e-5)


def test_answers_are_the_labels_above_the_threshold_best_first():
    task = of_labels("a", "b", "c", threshold=0.5)
    logits = [logit(np.array([0.6, 0.9, 0.4])), np.array([0.0, -1000.0, -3.0]), np.array([1000.0, -1000.0, 0.1])]
    one, two, three = task.decode(logits, [{"row": i} for i in range(3)], [{}] * 3)
    assert one == [{"label": "b", "score": pytest.approx(0.9)}, {"label": "a", "score": pytest.approx(0.6)}]
    assert two == []  # 0.5 is not above 0.5
    assert [found["label"] for found in three] == ["a", "c"] and three[0]["score"] == 1


@few
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12), st.integers(0, 2))
def test_no_threshold_has_a_better_f1(answers, missed):
    scores = np.array([share / 6 for share, _ in answers])
    gold = np.array([right for _, right in answers])
    wanted = int(gold.sum()) + missed

    def f1(threshold):
        above = scores > threshold
        return 2 * (above & gold).sum() / max(above.sum() + wanted, 1)

    best = max(f1(k / 60) for k in range(60))
    found = best_f1_threshold(scores, gold, wanted)
    if best == 0:
        assert found is None
    else:
        assert 0 <= found < 1 and f1(found) == best


@pytest.mark.parametrize("upper", [1.0, 0.5, 1e-300])
def test_a_threshold_is_found_between_neighbouring_floats(upper):
    lower = np.nextafter(upper, 0)
    found = best_f1_threshold(np.array([lower, upper]), np.array([False, True]), 1)
    assert lower <= found < upper


def test_tuning_chooses_the_threshold_that_scores_best():
    rng = np.random.default_rng(0)
    task = MultiLabelClassification.from_dataset("t", INTENTS)
    features = task.encode(INTENTS, TOKENIZER)
    gold = np.array([f["labels"] for f in features])
    logits = list((rng.normal(size=gold.shape) + 2 * gold - 4).astype(np.float32))

    def f1(task):
        return task.score(task.decode(logits, features, INTENTS), task.references(INTENTS))["f1_micro"]

    tuned = task.tune(logits, features, INTENTS)
    others = [of_labels(*task.labels, threshold=k / 20) for k in range(20)]
    assert f1(tuned) >= max(map(f1, others)) > f1(task) > 0 and 0 < tuned.threshold < 0.5
    assert tuned.labels == task.labels


def test_without_a_label_to_find_the_threshold_stays():
    task, rows = of_labels("a", "b", threshold=0.3), rows_of([], [])
    assert task.tune([np.zeros(2), np.ones(2)], task.encode(rows, TOKENIZER), rows) is task


def test_the_baseline_says_the_commonest_set():
    task = of_labels("a", "b", "c")
    gold = task.references(rows_of(["b", "a"], ["a", "b"], ["c"]))
    assert [found["label"] for found in task.baseline(gold, [{}])[0]] == ["a", "b"]


def test_a_dozen_rows_are_learned(tiny_backbone):
    rows = INTENTS[:12]
    task = MultiLabelClassification.from_dataset("t", rows)
    logits, features = overfit(task, rows, tiny_backbone())
    assert task.score(task.decode(logits, features, rows), task.references(rows))["f1_micro"] > 0.95


# Scores


@few
@given(st.lists(st.tuples(sets, sets), min_size=1, max_size=8))
def test_scores_are_brute_force_counts(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    hits = [set(p) & set(r) for p, r in pairs]
    total = sum(len(set(p)) + len(set(r)) for p, r in pairs)
    f1 = [
        2 * sum(x in h for h in hits) / sum((x in p) + (x in r) for p, r in pairs)
        for x in {x for pair in pairs for labels in pair for x in labels}
    ]
    assert multi_label_scores(predictions, references) == pytest.approx(
        {
            "f1_micro": 2 * sum(map(len, hits)) / max(total, 1),
            "f1_macro": sum(f1) / max(len(f1), 1),
            "subset_accuracy": sum(set(p) == set(r) for p, r in pairs) / len(pairs),
        }
    )


def test_scores_are_scikit_learns():
    references = [row["labels"] for row in INTENTS]
    predictions = [row["labels"][:2] for row in INTENTS[1:] + INTENTS[:1]]
    indicators = MultiLabelBinarizer().fit(references)
    gold, found = indicators.transform(references), indicators.transform(predictions)
    assert MultiLabelScore().compute(predictions=predictions, references=references) == pytest.approx(
        {
            "f1_micro": f1_score(gold, found, average="micro"),
            "f1_macro": f1_score(gold, found, average="macro", zero_division=0),
            "subset_accuracy": accuracy_score(gold, found),
        }
    )


def test_rows_that_cannot_be_scored_are_named():
    with pytest.raises(ValueError, match="predictions has 1 rows and references has 2"):
        multi_label_scores([["a"]], [["a"], []])
    with pytest.raises(TypeError, match=r"references\[0\] is 'ab': expected a list of strings"):
        multi_label_scores([["a"]], ["ab"])
