"""Lemmatization: scripts are learned, the best that fits a word makes its lemma, and no word is lost."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer

from hf_mtl.tasks import RowError, task_from_dict
from hf_mtl.tasks.edit_scripts import edit_script
from hf_mtl.tasks.lemmatization import Lemmatization

TREES = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "data" / "trees.jsonl").read_text(encoding="utf-8").splitlines()
]
ROWS = [
    {"tokens": ["Cats", "sang", "songs", "."], "lemmas": ["cat", "sing", "song", "."]},
    {"tokens": ["dogs", "bark"], "lemmas": ["dog", "bark"]},
]


def ready(family):
    tokenizer = make_tokenizer(family)
    tokenizer.model_max_length = 128
    return tokenizer


TOKENIZERS = {family: ready(family) for family in ("wordpiece", "bytes", "unigram")}


def learned(rows=ROWS, **fields):
    return Lemmatization.from_dataset("t", rows, **fields)


def predicted(task, rows, tokenizer, wanted):
    """What a head would say that is sure of one script for each word, decoded. `wanted`: row, word -> label."""
    features = task.encode(rows, tokenizer)
    logits = [np.eye(len(task.labels), dtype=np.float32)[[wanted(f["row"], w) for w in f["words"]]] for f in features]
    return task.decode(logits, features, rows)


def test_scripts_are_learned_with_the_commonest_first():
    task = learned()
    assert task.labels == (";~|-", ";~|", ";~>-+i|") and task.split == "words"
    assert learned(ROWS[::-1]) == task == task_from_dict(json.loads(json.dumps(task.to_dict())))
    assert learned(labels=[";~|", ";~|-"]).labels == (";~|", ";~|-")


def test_rare_scripts_can_be_left_out_but_never_the_lower_case_word():
    assert learned(min_count=2).labels == (";~|-", ";~|")
    assert learned(min_count=3).labels == (";~|", ";~|-")
    assert learned([{"tokens": ["cats"], "lemmas": ["cat"]}], min_count=9).labels == (";~|",)
    with pytest.raises(ValueError, match="min_count must be a whole number of 1 or more, got 0"):
        learned(min_count=0)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_gold_scripts_decode_to_the_gold_lemmas_of_real_sentences(family):
    task = learned(TREES, max_length=16)  # in windows
    index = {script: i for i, script in enumerate(task.labels)}

    def gold(row, word):
        return index[edit_script(TREES[row]["tokens"][word], TREES[row]["lemmas"][word])]

    found = predicted(task, TREES, TOKENIZERS[family], gold)
    assert task.score(found, task.references(TREES)) == {"accuracy": 1.0}
    features = task.encode(TREES, TOKENIZERS[family])
    assert len(features) > len(TREES)
    assert all(f["labels"] == [gold(f["row"], w) for w in f["words"]] for f in features)


def test_the_next_best_script_is_taken_where_a_word_is_too_short_for_the_best():
    task = learned(labels=[";~|---", ";~|-", ";~|"])
    row = [{"tokens": ["abcd", "abc", "a"]}]
    features = task.encode(row, TOKENIZERS["bytes"])
    (found,) = task.decode([np.array([[3.0, 2, 1]] * 3, np.float32)], features, row)
    assert found["lemmas"] == ["a", "ab", "a"]
    assert found["scores"] == pytest.approx([0.665, 0.245, 0.090], abs=1e-3)
    none = learned(labels=[";~|---"])
    (found,) = none.decode([np.zeros((3, 1), np.float32)], features, row)
    assert found == {"lemmas": ["a", "abc", "a"], "scores": [1.0, 0.0, 0.0]}


def test_a_lemma_of_a_script_that_was_never_seen_trains_nothing_and_is_wrong():
    task = learned(min_count=2)
    rows = [{"tokens": ["went", "dogs"], "lemmas": ["go", "dog"]}]
    (feature,) = task.encode(rows, TOKENIZERS["wordpiece"])
    assert feature["labels"] == [-100, 0]
    assert task.stack_labels([feature["labels"], [1]], 3).tolist() == [[-100, 0, -100], [1, -100, -100]]
    found = predicted(task, rows, TOKENIZERS["wordpiece"], lambda row, word: 0)
    assert task.score(found, task.references(rows)) == {"accuracy": 0.5}


def test_a_batch_without_a_known_script_has_no_loss_but_a_gradient():
    head = learned().build_head(type("Config", (), {"hidden_size": 4})())
    loss = head(torch.ones(1, 2, 4), torch.ones(1, 2), torch.full((1, 2), -100)).loss
    loss.backward()
    assert loss == 0 and torch.isfinite(head.classifier.weight.grad).all()


def test_answers_name_words_as_they_were_given():
    task = learned()
    row = task.read("Dogs \ud800 sang")
    (found,) = predicted(task, [row], TOKENIZERS["bytes"], lambda row, word: [0, 1, 2][word])
    answer = task.answer(found, row)
    assert [a["lemma"] for a in answer] == ["dog", "\ufffd", "sing"]
    assert [a["word"] for a in answer] == ["Dogs", "\ud800", "sang"]
    assert (answer[2]["start"], answer[2]["end"]) == (7, 11) and 0 < answer[2]["score"] < 1
    assert set(answer[0]) == {"word", "lemma", "score", "start", "end"}


@given(st.lists(st.lists(st.text(max_size=3), max_size=3), min_size=1, max_size=3), st.randoms())
@settings(max_examples=30, deadline=None)
def test_every_word_has_a_lemma_whatever_it_is(words, random):
    task = learned(TREES[:10])
    rows = [{"tokens": row} for row in words]
    found = predicted(task, rows, TOKENIZERS["wordpiece"], lambda row, word: random.randrange(len(task.labels)))
    assert [len(row["lemmas"]) for row in found] == [len(row["scores"]) for row in found] == list(map(len, words))
    assert json.loads(json.dumps(found)) == found


def test_the_baseline_is_the_commonest_script():
    task = learned(TREES)
    assert task.labels[0] == ";~|"
    score = task.score(task.baseline([], TREES), task.references(TREES))["accuracy"]
    lower = [w.lower() == lemma for row in TREES for w, lemma in zip(row["tokens"], row["lemmas"], strict=True)]
    assert score == pytest.approx(sum(lower) / len(lower))


@pytest.mark.parametrize(
    ("lemmas", "message"),
    [(["a"], "has 2 entries and column 'lemmas' has 1"), ("ab", "must hold a list"), (["a", None], "lack some")],
)
def test_lemmas_that_do_not_fit_are_refused(lemmas, message):
    with pytest.raises(RowError, match=message):
        learned().encode([{"tokens": ["a", "b"], "lemmas": lemmas}], TOKENIZERS["bytes"])


def test_labels_that_are_no_scripts_are_refused():
    with pytest.raises(ValueError, match="labels must be edit scripts as from_dataset learns them, got 'NOUN'"):
        Lemmatization(name="t", labels=["NOUN"])
    with pytest.raises(ValueError, match="has no column 'lemmas'"):
        learned(datasets.Dataset.from_list([{"tokens": ["a"]}]))
