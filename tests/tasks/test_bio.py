"""BIO tags: legal sequences, the best of them, and the spans they name."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from hf_mtl.tasks.bio import best_legal, has_end_tags, is_bio, legal_moves, names_scheme, spans

LABELS = ("O", "B-x", "I-x", "B-y", "I-y")
START = len(LABELS)


def legal(tags, moves):
    return all(moves[of, to] for of, to in zip((START, *tags), tags, strict=False))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_best_legal_is_the_best_of_all_legal_sequences(seed, lengths):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(lengths), max(lengths), len(LABELS))).astype(np.float32)
    scores[..., [2, 4]] += 1  # much that is illegal
    moves = legal_moves(LABELS)
    found = best_legal(scores, np.array(lengths), LABELS)
    for row, tags, length in zip(scores, found.tolist(), lengths, strict=True):
        possible = [p for p in product(range(len(LABELS)), repeat=length) if legal(p, moves)]
        best = max(sum(row[t, k] for t, k in enumerate(p)) for p in possible)
        assert legal(tags[:length], moves)
        assert sum(row[t, k] for t, k in enumerate(tags[:length])) == pytest.approx(best, abs=1e-5)


def test_inside_follows_only_its_own_type():
    moves = legal_moves(LABELS)
    may = {(of, LABELS[to]) for of in range(6) for to in range(5) if moves[of, to] and LABELS[to][0] == "I"}
    assert may == {(1, "I-x"), (2, "I-x"), (3, "I-y"), (4, "I-y")}
    assert moves[:, [0, 1, 3]].all()


def test_a_type_without_a_begin_tag_may_begin_inside():
    assert legal_moves(("O", "I-x")).all()


@given(st.lists(st.sampled_from(LABELS), max_size=12))
@settings(max_examples=200, deadline=None)
def test_spans_are_those_of_seqeval(tags):
    assert spans(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)]


def test_bio_labels_are_told_from_plain_ones():
    assert is_bio(["O", "B-x", "I-x"]) and is_bio(["I-x"])
    assert not is_bio(["O"]) and not is_bio(["NOUN", "O"]) and not is_bio(["O", "B-"]) and not is_bio(["O", "E-x"])


@pytest.mark.parametrize("labels", [["O", "B-x", "E-x", "S-x"], ["O", "U-x"], ["B-x", "L-x", "O"]])
def test_bioes_and_bilou_labels_are_known(labels):
    assert has_end_tags(labels)


@pytest.mark.parametrize("labels", [["O", "B-x", "I-x"], ["B-x", "S-x"], ["O", "S-x", "NOUN"], ["O", "S-"], ["O"]])
def test_other_labels_are_not_taken_for_bioes(labels):
    assert not has_end_tags(labels)


def test_iob1_is_told_by_how_most_spans_begin():
    assert names_scheme({("O", "I-x"): 9, ("I-x", "B-x"): 50, ("O", "O"): 9}) == "iob1"
    assert names_scheme({("B-y", "I-x"): 1}) == "iob1"
    assert names_scheme({("O", "B-x"): 9, ("O", "I-x"): 1, ("B-x", "I-x"): 99}) == "bio"
    assert names_scheme({("O", "other"): 3}) == names_scheme({}) == "bio"
