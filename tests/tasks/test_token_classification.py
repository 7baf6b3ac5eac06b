"""Token classification: tags survive encoding and decoding, and what the data must look like."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer

from hf_mtl.tasks import RowError, TokenClassification, task_from_dict

FAMILIES = ("wordpiece", "bytes", "unigram")
LABELS = ("O", "B-x", "I-x", "B-y", "I-y")
TEXTS = ["Ann 👩‍👩‍👧 flew to Zu\u0308rich, ok", "我去 Paris 🇩🇪吧。", "cafe\u0301\u3000 naïve\n— x", "שלום Bob"]


def ready(family, side="right"):
    """A tokenizer as one is that a backbone of 128 positions has."""
    tokenizer = make_tokenizer(family)
    tokenizer.model_max_length, tokenizer.truncation_side = 128, side
    return tokenizer


TOKENIZERS = {family: ready(family) for family in FAMILIES}


def task(**fields):
    return TokenClassification(**{"name": "t", "labels": LABELS, "split": "words"} | fields)


def learned(*tags, column=None, **fields):
    data = datasets.Dataset.from_list([{"tokens": ["ab"] * len(t or []), "tags": t} for t in tags])
    return TokenClassification.from_dataset("t", data if column is None else data.cast_column("tags", column), **fields)


def decode_gold(task, rows, tokenizer):
    """What a perfect head would say, decoded; and for each row the words that some window reads."""
    features = task.encode(rows, tokenizer)
    logits, read = [], [set() for _ in rows]
    for feature in features:
        values = np.zeros((len(feature["words"]), len(task.labels)), np.float32)
        for word, label in enumerate(feature["labels"]):
            if label >= 0:
                values[word, label] = 20
        logits.append(values)
        read[feature["row"]] |= set(map(int, feature["words"]))
    return task.decode(logits, features, rows), read


# ---------------------------------------------------------------------- there and back

tagged = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc"]), min_size=1, max_size=6), st.integers(0, 2)),
    min_size=1,
    max_size=40,
)


@given(st.lists(tagged, min_size=1, max_size=3), st.sampled_from(FAMILIES), st.sampled_from([8, 16, 128]))
@settings(max_examples=150, deadline=None)
def test_gold_logits_decode_to_the_gold_tags_of_any_words(rows, family, max_length):
    plain = task(labels=("A", "B", "C"), max_length=max_length)
    rows = [{"tokens": [w for w, _ in r], "tags": ["ABC"[k] for _, k in r]} for r in rows]
    found, read = decode_gold(plain, rows, TOKENIZERS[family])
    for row, prediction, seen in zip(rows, found, read, strict=True):
        wanted = [tag if k in seen else "A" for k, tag in enumerate(row["tags"])]
        assert prediction["tags"] == wanted
        assert len(prediction["scores"]) == len(wanted) and all(0 < s <= 1 for s in prediction["scores"])


@given(st.text(max_size=60), st.sampled_from(FAMILIES), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_gold_logits_decode_to_the_gold_tags_of_any_text(text, family, random):
    spaced = task(split="whitespace", labels=("A", "B"), max_length=16)
    row = {"tokens": text}
    row["tags"] = [random.choice("AB") for _ in spaced.words(row, 0)]
    (prediction,), (seen,) = decode_gold(spaced, [row], TOKENIZERS[family])
    assert prediction["tags"] == [tag if k in seen else "A" for k, tag in enumerate(row["tags"])]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_long_rows_come_back_whole_whichever_side_is_cut(family, side):
    rows = [{"tokens": [f"w{i}" for i in range(60)], "tags": [LABELS[i % 2] for i in range(60)]}]
    found, read = decode_gold(task(max_length=16), rows, ready(family, side))
    assert read == [set(range(60))] and found[0]["tags"] == rows[0]["tags"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("split", ["words", "whitespace", "characters"])
@pytest.mark.parametrize("labels", [LABELS, ("A", "B")])
def test_answers_are_where_they_say(text, split, labels):
    reader = task(split=split, labels=labels)
    row = reader.read(text)
    count = len(reader.words(row, 0))
    answers = reader.answer({"tags": [labels[i % 2] for i in range(count)], "scores": [0.5] * count}, row)
    assert answers and all(a["word"] == text[a["start"] : a["end"]] and a["word"].strip() for a in answers)


def test_a_span_has_its_type_its_words_and_the_mean_score():
    answers = task().answer({"tags": ["O", "B-x", "I-x"], "scores": [1, 0.5, 1.0]}, {"tokens": "in New York"})
    assert answers == [{"entity_group": "x", "score": 0.75, "word": "New York", "start": 3, "end": 11}]
    given_words = task().answer({"tags": ["O", "B-x"], "scores": [1, 0.5]}, {"tokens": ["in", "Rome"]})
    assert given_words == [{"entity_group": "x", "score": 0.5, "word": "Rome", "start": 3, "end": 7}]


def test_plain_tags_are_answered_word_by_word():
    answers = task(labels=("A", "B")).answer({"tags": ["A", "B"], "scores": [1.0, 0.5]}, {"tokens": "no 🇩🇪"})
    assert answers[1] == {"entity": "B", "score": 0.5, "index": 1, "word": "🇩🇪", "start": 3, "end": 5}


@pytest.mark.parametrize("family", FAMILIES)
def test_characters_are_tagged_one_by_one(family):
    data = [{"tokens": list("我去北京"), "tags": ["O", "O", "B-x", "I-x"]}]
    reader = TokenClassification.from_dataset("t", data)
    assert reader.split == "characters" and learned(["O"]).split == "words"
    (prediction,), _ = decode_gold(reader, data, TOKENIZERS[family])
    if family != "unigram":  # there unknown characters in a row are one subword, which the first of them trains
        assert prediction["tags"] == data[0]["tags"]
    row = reader.read("我去 北京")
    whole = reader.answer({"tags": ["O", "O", "B-x", "I-x"], "scores": [1.0] * 4}, row)
    assert [a["word"] for a in whole] == ["北京"]


@pytest.mark.parametrize(("split", "gap"), [("characters", ""), ("words", " ")])
def test_characters_of_one_subword_make_no_spans_of_their_own(split, gap):
    words = ["我", *"2008", "年", "a"]
    rows = [
        {"tokens": words, "tags": ["O", "B-x", *["I-x"] * 4, "B-y"]},
        {"tokens": [*"2008", "2"], "tags": ["B-y", "I-y", "I-y", "I-y", "O"]},
        {"tokens": [*"2008"], "tags": ["O"] * 4},
    ]
    tokenizer = ready("wordpiece")
    tokenizer.add_tokens(["2008"])
    found, read = decode_gold(task(split=split), rows, tokenizer)
    assert [f["tags"] for f in found] == [row["tags"] for row in rows]
    assert (read[0] == {0, 1, 5, 6}) == (split == "characters")  # joined by spaces each is a subword of its own
    spans = task(split=split).answer(found[0], rows[0])
    assert [s["word"] for s in spans] == [gap.join([*"2008", "年"]), "a"]
    assert all(len(f["scores"]) == len(f["tags"]) and min(f["scores"]) > 0.9 for f in found)


def test_characters_of_one_subword_have_the_same_plain_tag():
    row = {"tokens": [*"2008", "年"], "tags": ["B", "B", "B", "B", "A"]}
    tokenizer = ready("wordpiece")
    tokenizer.add_tokens(["2008"])
    (found,), _ = decode_gold(task(split="characters", labels=("A", "B")), [row], tokenizer)
    assert found["tags"] == row["tags"]


def test_a_row_without_words_has_no_tags():
    found, _ = decode_gold(
        task(), [{"tokens": [], "tags": []}, {"tokens": ["a"], "tags": ["B-x"]}], TOKENIZERS["bytes"]
    )
    assert [f["tags"] for f in found] == [[], ["B-x"]]


def test_stacked_labels_are_padded_with_what_the_loss_ignores():
    assert task().stack_labels([[-100, 1], [2]], 3).tolist() == [[-100, 1, -100], [2, -100, -100]]


# ---------------------------------------------------------------------- what the data says


def test_labels_are_learned_sorted_or_as_a_class_label_has_them():
    assert learned(["b", "a"], ["c"]).labels == ("a", "b", "c")
    assert learned([10, 9], [2]).labels == ("2", "9", "10")
    declared = datasets.Sequence(datasets.ClassLabel(names=["z", "a"]))
    assert learned([0, 1], column=declared).labels == ("z", "a")
    assert learned(["b", "a"], labels=["b", "a"]).labels == ("b", "a")


def test_a_type_of_single_words_may_be_longer_elsewhere():
    assert learned(["B-x", "O"], ["B-y", "I-y"]).labels == ("B-x", "B-y", "I-x", "I-y", "O")
    assert learned(["I-x", "O"]).labels == ("I-x", "O")  # IO or IOB1: a span begins by I-x


def test_a_missing_tag_is_named_with_its_row():
    for tags in (["a", None], None):
        with pytest.raises(ValueError, match=r"column 'tags'.*row 1 "):
            learned(["a"], tags)


@pytest.mark.parametrize("tags", [None, "OO", 3])
def test_tags_that_are_no_list_are_refused(tags):
    with pytest.raises(RowError, match="'tags' must hold a list") as error:
        task().encode([{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a", "b"], "tags": tags}], TOKENIZERS["bytes"])
    assert error.value.row == 1


@pytest.mark.parametrize(
    "tags, message", [(["O"], "one for each word"), (["O", None], "missing"), (["O", "B-z"], "B-x")]
)
def test_tags_that_do_not_fit_are_refused(tags, message):
    with pytest.raises(RowError, match=message):
        task().encode([{"tokens": ["a", "b"], "tags": tags}], TOKENIZERS["bytes"])


def test_integers_are_indices_of_given_labels_for_training_and_for_scores():
    rows = [{"tokens": ["ab", "cd", "ef"], "tags": [0, 1, 2]}]
    reader = TokenClassification.from_dataset("t", rows, labels=LABELS)
    (prediction,), _ = decode_gold(reader, rows, TOKENIZERS["wordpiece"])
    assert prediction["tags"] == reader.references(rows)[0] == ["O", "B-x", "I-x"]
    assert reader.scheme == "bio"


# ---------------------------------------------------------------------- schemes


def test_iob1_data_is_known_and_its_spans_may_begin_inside():
    reader = learned(["I-x", "I-x", "B-x", "O"], ["O", "I-y"])
    assert reader.scheme == "iob1" and reader.main_metric == "f1"
    assert task_from_dict(reader.to_dict()) == reader
    rows = [{"tokens": ["ab", "cd", "ef"], "tags": ["I-x", "B-x", "O"]}]
    assert decode_gold(reader, rows, TOKENIZERS["bytes"])[0][0]["tags"] == rows[0]["tags"]
    strict = task(labels=reader.labels, scheme="bio")
    assert decode_gold(strict, rows, TOKENIZERS["bytes"])[0][0]["tags"] != rows[0]["tags"]


def test_other_schemes():
    declared = datasets.Sequence(datasets.ClassLabel(names=LABELS))
    assert learned(["B-x", "I-x"], ["O"]).scheme == "bio"
    assert learned(["NOUN", "VERB"]).scheme is None
    assert learned([2, 2], [0, 4], column=declared).scheme == "iob1"
    assert learned(["I-x", "O"], scheme="bio").scheme == "bio"
    with pytest.raises(ValueError, match="scheme must be 'bio' or 'iob1', got 'iob2'"):
        task(scheme="iob2")


def test_bioes_labels_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"BIOES or BILOU.*Turn E- and L- into I-"):
        learned(["B-x", "E-x", "S-x", "O"])
    with pytest.raises(ValueError, match="BIOES or BILOU"):
        task(labels=["O", "U-x"])
