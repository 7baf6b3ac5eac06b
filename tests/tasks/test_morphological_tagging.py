"""Morphological tagging: strings of features, their order, their parts, and their scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from tiny import make_tokenizer

from hf_mtl.tasks import RowError, task_from_dict
from hf_mtl.tasks.morphological_tagging import MorphologicalTagger, MorphologicalTagging

TREES = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "data" / "trees.jsonl").read_text(encoding="utf-8").splitlines()
]


def ready(family):
    tokenizer = make_tokenizer(family)
    tokenizer.model_max_length = 128
    return tokenizer


TOKENIZERS = {family: ready(family) for family in ("wordpiece", "bytes", "unigram")}


def learned(*feats, **fields):
    rows = [{"tokens": ["ab"] * len(row), "feats": row} for row in feats] or TREES
    return MorphologicalTagging.from_dataset("t", rows, **fields)


def test_strings_are_learned_with_their_features_in_order():
    task = learned(["b=2|A=1", "_"], ["A=1|b=2", "Case=Nom,Acc"])
    assert task.labels == ("A=1|b=2", "Case=Nom,Acc", "_") and task.split == "words"
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert task.references([{"tokens": ["x"], "feats": ["b=2|A=1"]}]) == [["A=1|b=2"]]
    assert set(learned().labels) == {label for row in TREES for label in row["feats"]}


@pytest.mark.parametrize("family", TOKENIZERS)
def test_gold_strings_survive_encoding_and_decoding(family):
    task = learned(max_length=16)  # in windows
    features = task.encode(TREES, TOKENIZERS[family])
    assert len(features) > len(TREES)
    logits = [9 * np.eye(len(task.labels), dtype=np.float32)[f["labels"]] for f in features]
    found = task.decode(logits, features, TREES)
    assert task.score(found, task.references(TREES)) == {"accuracy": 1.0, "f1": 1.0}
    assert task.stack_labels([[1], [2, 3]], 3).tolist() == [[1, -100, -100], [2, 3, -100]]


def test_a_string_that_was_never_seen_trains_nothing():
    (feature,) = learned(["A=1"], ["_"]).encode([{"tokens": ["a", "b"], "feats": ["A=2", "_"]}], TOKENIZERS["bytes"])
    assert feature["labels"] == [-100, 1]


def test_a_string_has_its_own_score_and_those_of_its_values():
    labels = ("A=1", "A=1|B=2", "B=2", "_")
    head = MorphologicalTagger(3, labels, 0.0)
    hidden = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    own, parts = head.classifier(hidden).split([4, 2], -1)
    a, b = parts.unbind(-1)
    expected = own + torch.stack([a, a + b, b, 0 * a], -1)
    torch.testing.assert_close(head(hidden, torch.ones(1, 2)).logits, expected)
    gold = torch.tensor([[1, -100]])
    torch.testing.assert_close(head(hidden, torch.ones(1, 2), gold).loss, -expected[0, 0].log_softmax(-1)[1])
    loss = head(hidden, torch.ones(1, 2), torch.full((1, 2), -100)).loss
    loss.backward()
    assert loss == 0 and torch.isfinite(head.classifier.weight.grad).all()


def test_f1_is_that_of_scikit_learn():
    task = learned()
    generator = np.random.default_rng(0)
    gold = task.references(TREES)
    found = [[str(generator.choice(task.labels)) if generator.random() < 0.4 else x for x in row] for row in gold]
    pairs = [[label.split("|") if label != "_" else [] for row in rows for label in row] for rows in (gold, found)]
    both = MultiLabelBinarizer().fit(pairs[0] + pairs[1])
    expected = f1_score(both.transform(pairs[0]), both.transform(pairs[1]), average="micro")
    scores = task.score([{"feats": row} for row in found], gold)
    assert scores["f1"] == pytest.approx(expected)
    same = [a == b for x, y in zip(gold, found, strict=True) for a, b in zip(x, y, strict=True)]
    assert scores["accuracy"] == pytest.approx(np.mean(same)) and scores["accuracy"] < 0.8
    assert task.score([{"feats": ["_"]}], [["_"]]) == {"accuracy": 1.0, "f1": 1.0}


def test_answers_name_words_as_they_were_given_and_unread_words_have_no_features():
    task = learned(["A=1"], ["_"])
    row = task.read(["Zoë", "", "\ud800"])
    features = task.encode([row], TOKENIZERS["bytes"])
    logits = [np.tile(np.array([[2.0, 0.0]], np.float32), (len(f["words"]), 1)) for f in features]
    (found,) = task.decode(logits, features, [row])
    answer = task.answer(found, row)
    assert [(a["word"], a["feats"]) for a in answer] == [("Zoë", "A=1"), ("", "_"), ("\ud800", "A=1")]
    assert answer[0] == {"word": "Zoë", "feats": "A=1", "score": pytest.approx(0.8808, abs=1e-4), "start": 0, "end": 3}
    assert task.decode([], [], []) == []


def test_the_baseline_is_the_commonest_string():
    task = learned(["A=1", "A=1"], ["_"])
    assert task.baseline([["A=1", "A=1"], ["_"]], [{"tokens": ["a"]}])[0]["feats"] == ["A=1"]


@pytest.mark.parametrize("value", ["", "Case", "Case=", "=Nom", "A=1|A=2", "A=1||B=2", None, 3])
def test_what_is_no_feature_string_is_refused(value):
    with pytest.raises(RowError, match=r"column 'feats' must hold features as 'Case=Nom\|Number=Sing'"):
        learned(["_"]).encode([{"tokens": ["a"], "feats": [value]}], TOKENIZERS["bytes"])


def test_lists_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(RowError, match="has 1 entries and column 'feats' has 2"):
        learned(["_"]).encode([{"tokens": ["a"], "feats": ["_", "_"]}], TOKENIZERS["bytes"])
    with pytest.raises(ValueError, match=r"labels must be feature strings as from_dataset learns them, got 'B=1|A=1'"):
        MorphologicalTagging(name="t", labels=["B=1|A=1"])
