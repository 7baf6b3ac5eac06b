"""Words: how texts are split, and where tokenizers and windows put them."""

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer

from hf_mtl.tasks.word_windows import encode_words
from hf_mtl.tasks.words import SPLITS, first_subwords, place_words, split_words

FAMILIES = ("wordpiece", "bytes", "unigram", "bytes-bare", "unigram-bare")
TOKENIZERS = {family: make_tokenizer(family) for family in FAMILIES}
# Emoji of several code points, combining marks, Chinese, Thai, right-to-left, blanks of many kinds.
PIECES = ["👩‍👩‍👧", "🇩🇪", "e\u0301", "ü", "北京", "สวัสดี", "שלום", *"aB7_.- \u3000\n\u200d"]
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))


@given(texts, st.sampled_from(SPLITS))
@settings(max_examples=200, deadline=None)
def test_words_are_where_they_say_and_hold_all_that_is_visible(text, how):
    words = split_words(text, how)
    end = 0
    for word, start, stop in words:
        assert text[start:stop] == word and end <= start < stop
        assert not text[end:start].strip()
        end = stop
    assert not text[end:].strip()


@pytest.mark.parametrize(
    "text, how, words",
    [
        ("I've 2 cats.", "words", ["I", "'", "ve", "2", "cats", "."]),
        ("I've 2 cats.", "whitespace", ["I've", "2", "cats."]),
        ("去 北京", "characters", ["去", "北", "京"]),
        ("cafe\u0301!", "words", ["cafe\u0301", "!"]),
        ("cafe\u0301!", "characters", ["c", "a", "f", "e\u0301", "!"]),
        ("👩‍👩‍👧🇩🇪", "words", ["👩‍👩‍👧", "🇩🇪"]),
        ("", "words", []),
        (" \n\u3000", "words", []),
    ],
)
def test_texts_split_into_these_words(text, how, words):
    assert [word for word, _, _ in split_words(text, how)] == words


@given(st.lists(st.text(min_size=1, max_size=6), max_size=8), st.sampled_from(SPLITS))
@settings(max_examples=100, deadline=None)
def test_given_words_are_where_they_are_in_the_joined_text(words, how):
    text = ("" if how == "characters" else " ").join(words)
    assert [text[start:end] for _, start, end in place_words(words, how)] == words


def test_first_subword_whether_or_not_it_counts_the_space_before():
    words = np.array([[0, 2], [3, 5], [6, 7]])
    apart, glued = np.array([[0, 2], [3, 4], [4, 5], [6, 7]]), np.array([[0, 2], [2, 4], [4, 5], [5, 7]])
    assert first_subwords(words, apart).tolist() == first_subwords(words, glued).tolist() == [0, 1, 3]


def test_a_word_that_no_subword_holds_has_none():
    assert first_subwords(np.array([[0, 1], [2, 3], [4, 5]]), np.array([[0, 1], [4, 5]])).tolist() == [0, -1, 1]
    assert first_subwords(np.array([[0, 1]]), np.zeros((0, 2), dtype=int)).tolist() == [-1]
    assert first_subwords(np.zeros((0, 2), dtype=int), np.array([[0, 1]])).tolist() == []


@given(
    st.lists(st.lists(st.text(min_size=1, max_size=5), max_size=60), min_size=1, max_size=3),
    st.sampled_from(FAMILIES),
    st.sampled_from(["left", "right"]),
    st.integers(6, 24),
)
@settings(max_examples=150, deadline=None)
def test_each_word_is_read_at_most_once_and_in_order(rows, family, side, limit):
    tokenizer = TOKENIZERS[family]
    tokenizer.truncation_side = side
    features = encode_words(rows, tokenizer, "words", limit)
    tokenizer.truncation_side = "right"
    assert sorted({f["row"] for f in features}) == list(range(len(rows)))
    for i, row in enumerate(rows):
        own = [f for f in features if f["row"] == i]
        read = [int(word) for f in own for word in f["words"]]
        assert read == sorted(set(read)) and set(read) <= set(range(len(row)))
        # What ASCII letters and digits spell, every tokenizer has a subword for.
        assert {k for k, word in enumerate(row) if regex.search("[A-Za-z0-9]", word)} <= set(read)
    for f in features:
        assert 0 < len(f["input_ids"]) <= limit
        assert all(0 <= position < len(f["input_ids"]) for position in f["positions"])


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_encoded_as_the_text_that_they_spell(family):
    words = ["I", "lost", "my", "card", "in", "Paris"]
    (feature,) = encode_words([words], TOKENIZERS[family], "words", 64)
    assert feature["input_ids"] == TOKENIZERS[family](" ".join(words))["input_ids"]
    (feature,) = encode_words([list("北京 a")], TOKENIZERS[family], "characters", 64)
    assert feature["input_ids"] == TOKENIZERS[family]("北京 a")["input_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_long_rows_are_read_whole_and_at_the_words_own_subwords(family, side):
    tokenizer = make_tokenizer(family)
    tokenizer.truncation_side = side
    words = [f"w{i}" for i in range(60)]
    features = encode_words([words, ["one"]], tokenizer, "words", 16)
    assert len(features) > 3
    assert [int(word) for f in features if f["row"] == 0 for word in f["words"]] == list(range(60))
    for f in features[:-1]:
        for word, position in zip(f["words"], f["positions"], strict=True):
            piece = tokenizer.decode([f["input_ids"][position]]).strip()
            assert f"w{word}".startswith(piece)


def test_words_near_a_windows_edge_are_read_where_they_have_context_on_both_sides():
    features = encode_words([["a"] * 60], TOKENIZERS["wordpiece"], "words", 18)
    for f in features[1:]:
        assert f["positions"][0] > 1
    for f in features[:-1]:
        assert f["positions"][-1] < len(f["input_ids"]) - 2
