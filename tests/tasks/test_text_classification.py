"""Text classification: labels and their order, pairs, and texts of any kind."""

import datasets
import numpy as np
import pytest
from tiny import make_tokenizer

from hf_mtl.tasks import RowError, TextClassification


def ready(family, side="right"):
    """A tokenizer as one is that a backbone of 128 positions has."""
    tokenizer = make_tokenizer(family)
    tokenizer.model_max_length, tokenizer.truncation_side = 128, side
    return tokenizer


TOKENIZERS = {family: ready(family) for family in ("wordpiece", "bytes", "unigram", "bytes-bare")}


def rows_of(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def learned(*labels, **fields):
    return TextClassification.from_dataset("t", rows_of(*labels), **fields)


def encoded_labels(task, *labels):
    return [f["labels"] for f in task.encode(rows_of(*labels), TOKENIZERS["bytes"])]


def test_labels_are_in_an_order_that_rows_do_not_change():
    assert learned("b", "a", "c").labels == learned("c", "b", "a").labels == ("a", "b", "c")
    assert learned(10, 9, 2).labels == ("2", "9", "10")
    assert learned(True, False).labels == ("False", "True")
    assert learned("neg", "pos", labels=["pos", "neg"]).labels == ("pos", "neg")


def test_a_class_label_gives_its_names_in_its_order():
    data = datasets.Dataset.from_list(rows_of(0, 1)).cast_column("label", datasets.ClassLabel(names=["z", "a", "q"]))
    task = TextClassification.from_dataset("t", data)
    assert task.labels == ("z", "a", "q")
    assert encoded_labels(task, "q", "z") == [2, 0]


def test_learned_integers_are_names():
    task = learned(3, 5, 10)
    assert encoded_labels(task, 10, 3) == [2, 0]
    assert task.references(rows_of(10, 3)) == ["10", "3"]
    with pytest.raises(RowError, match="label 0 is none of its 3 labels"):
        encoded_labels(task, 0)


def test_integers_are_indices_of_given_labels_for_training_and_for_scores():
    task = learned(0, 1, labels=["neg", "pos"])
    assert encoded_labels(task, 1, 0, "pos") == [1, 0, 1]
    assert task.references(rows_of(1, 0, "pos")) == ["pos", "neg", "pos"]
    assert task.score([{"label": "pos"}], task.references(rows_of(1)))["accuracy"] == 1


@pytest.mark.parametrize("label", [2, -1, True, 1.0, "1", "Pos"])
def test_what_is_no_label_is_refused(label):
    with pytest.raises(RowError, match=r"is none of its 2 labels. Known: \['neg', 'pos'\]"):
        encoded_labels(learned(0, 1, labels=["neg", "pos"]), label)


def test_a_missing_label_is_named_with_its_row():
    with pytest.raises(ValueError, match=r"column 'label' has no label \(None\) in row 2"):
        learned("a", "b", None, "a")
    with pytest.raises(RowError, match=r"missing \(None\)") as error:
        encoded_labels(learned("a", "None"), "a", None)
    assert error.value.row == 1


def test_an_empty_cell_of_a_table_is_no_label_where_it_is_not_named_as_one():
    with pytest.raises(ValueError, match=r"column 'label' has an empty label \(''\) in row 2\. Leave out rows"):
        learned("a", "b", "", "a")
    assert encoded_labels(learned("a", "", labels=["", "a"]), "a", "") == [1, 0]


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], [0, 1], [False, True], "ab", []])
def test_labels_that_are_no_distinct_names_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be"):
        TextClassification(name="t", labels=labels)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_pairs_hold_both_texts_apart(family):
    tokenizer = TOKENIZERS[family]
    task = TextClassification(name="t", text="a", text_pair="b", labels=("x", "y"))
    one, two, glued = task.encode([{"a": "is it", "b": "so"}, {"a": "is", "b": "it so"}, {"a": "", "b": ""}], tokenizer)
    assert one["input_ids"] != two["input_ids"] and glued["input_ids"]
    # Each tokenizer decodes with spaces of its own.
    assert "".join(tokenizer.decode(one["input_ids"], skip_special_tokens=True).split()) == "isitso"
    assert task.read({"text": "is it", "text_pair": "so"}) == {"a": "is it", "b": "so"}
    with pytest.raises(ValueError, match="text_pair"):
        task.read("is it")


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("text", ["", " ", "\ud800", "\u200d", "🇩🇪"])
def test_any_text_has_an_input(family, text):
    (feature,) = TextClassification(name="t", labels=("x", "y")).encode([{"text": text}], TOKENIZERS[family])
    assert feature["input_ids"] and "labels" not in feature


def test_long_texts_are_cut():
    task = TextClassification(name="t", labels=("x", "y"), max_length=8)
    assert len(task.encode([{"text": "word " * 50}], TOKENIZERS["wordpiece"])[0]["input_ids"]) == 8


def test_the_best_label_comes_with_its_probability():
    task = TextClassification(name="t", labels=("x", "y"))
    found = task.decode([np.array([1000.0, 0.0]), np.array([0.0, np.log(3.0)])], [{"row": 0}, {"row": 1}], [{}, {}])
    assert found == [{"label": "x", "score": 1.0}, {"label": "y", "score": pytest.approx(0.75)}]


def test_several_labels_a_row_are_refused_with_the_type_that_takes_them():
    with pytest.raises(ValueError, match=r"'t': column 'label' .*row 0 has list \['a', 'b'\].*multi-label-classific"):
        learned(["a", "b"], ["a"])


def test_a_column_that_is_read_as_another_input_is_not_called_unread():
    assert TextClassification(name="t", text="text_pair").unread_columns(["text_pair", "label"]) == []
    assert TextClassification(name="t").unread_columns(["text", "text_pair", "label"]) == ["text_pair"]
