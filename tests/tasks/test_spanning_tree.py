"""The best tree: against all trees of a few words, and networkx's arborescences of more."""

from functools import cache
from itertools import product

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hf_mtl.tasks.spanning_tree import are_trees, best_tree, without_circles

WORDS = st.integers(1, 6)
FORBIDDEN = -np.inf


def is_tree(heads, *, roots=1):
    """Every word leads to the root, and so many hang on it (any number where None)."""
    for word in range(1, len(heads) + 1):
        for _ in heads:
            word = heads[word - 1] if word else 0
        if word:
            return False
    return roots is None or sum(head == 0 for head in heads) == roots


@cache
def all_trees(words, roots=1):
    """`[trees, words]` of the heads of every tree."""
    return np.array([heads for heads in product(range(words + 1), repeat=words) if is_tree(heads, roots=roots)])


def totals(scores, trees):
    return scores[np.arange(len(scores)), trees].sum(-1)


def matrices(elements):
    return WORDS.flatmap(lambda words: arrays(np.float64, (words, words + 1), elements=elements))


@pytest.mark.parametrize(("words", "trees"), [(1, 1), (2, 2), (3, 9), (4, 64), (5, 625)])
def test_the_oracle_counts_as_many_trees_as_cayley(words, trees):
    assert len(all_trees(words)) == trees == words ** (words - 1)


@settings(max_examples=120, deadline=None)
@given(matrices(st.floats(-50, 0, width=32)))
def test_the_best_of_all_trees_is_found(scores):
    heads = best_tree(scores)
    assert is_tree(heads)
    assert totals(scores, heads) == pytest.approx(totals(scores, all_trees(len(scores))).max(), abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(matrices(st.integers(0, 2).map(float)))
def test_ties_are_broken_into_one_of_the_best_trees(scores):
    heads = best_tree(scores)
    assert is_tree(heads) and totals(scores, heads) == totals(scores, all_trees(len(scores))).max()


@settings(max_examples=120, deadline=None)
@given(matrices(st.one_of(st.just(FORBIDDEN), st.floats(-9, 9))))
def test_forbidden_arcs_are_taken_only_where_there_is_no_other_tree_and_as_few_as_can_be(scores):
    trees = all_trees(len(scores))
    used = np.isneginf(scores[np.arange(len(scores)), trees]).sum(-1)
    finite = totals(np.where(np.isneginf(scores), 0, scores), trees)
    heads = best_tree(scores)
    assert is_tree(heads)
    chosen = (trees == heads).all(-1)
    assert used[chosen] == used.min()
    assert finite[chosen][0] == pytest.approx(finite[used == used.min()].max(), abs=1e-9)


def test_the_best_tree_with_one_root_word_may_lose_the_likelier_one():
    # The best of all trees hangs 1 and 2 on the root. If 1, the likelier, stayed, 2 and 3 would make a circle.
    scores = np.log([[9, 0.01, 0.01, 5], [8, 0.01, 0.01, 7.9], [0.01, 0.01, 9, 0.01]])
    every = all_trees(3, roots=None)
    assert every[totals(scores, every).argmax()].tolist() == [0, 0, 2]
    assert best_tree(scores).tolist() == [3, 0, 2]


@pytest.mark.parametrize(("words", "seed"), [(9, 0), (14, 1), (23, 2), (40, 3)])
def test_networkx_finds_no_better_tree_of_many_words(words, seed):
    scores = np.random.default_rng(seed).normal(size=(words, words + 1))
    best = -np.inf
    for top in range(1, words + 1) if words < 20 else [int(np.flatnonzero(best_tree(scores) == 0)[0]) + 1]:
        graph = networkx.DiGraph()
        graph.add_edge(0, top, weight=scores[top - 1, 0])
        for word, head in product(range(1, words + 1), repeat=2):
            if word not in (head, top):
                graph.add_edge(head, word, weight=scores[word - 1, head])
        tree = networkx.maximum_spanning_arborescence(graph)
        best = max(best, tree.size(weight="weight"))
    heads = best_tree(scores)
    assert is_tree(heads) and totals(scores, heads) == pytest.approx(best)


def test_the_score_of_a_word_as_its_own_head_is_not_looked_at():
    scores = np.log(np.random.default_rng(0).random((5, 6)))
    expected = best_tree(scores)
    for value in (np.nan, np.inf, 1e300, -np.inf):
        changed = scores.copy()
        changed[np.arange(5), np.arange(5) + 1] = value
        assert best_tree(changed).tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_size_of_the_scores_does_not_matter(scale):
    scores = np.random.default_rng(1).normal(size=(6, 7))
    assert best_tree(scores * scale + scale).tolist() == best_tree(scores).tolist()


def test_a_chain_of_cycles_within_cycles_is_taken_apart():
    words = 200
    scores = np.full((words, words + 1), -1000.0)
    for word in range(1, words):  # each pair likes itself best, then the next pair
        scores[word - 1, word + 1] = -word
        scores[word, word] = -word - 0.5
    scores[:, 0] = -5000.0
    heads = best_tree(scores)
    assert is_tree(heads) and totals(scores, heads) > -(words**2)


def test_no_words_have_an_empty_tree_and_no_scores_but_numbers_are_taken():
    assert best_tree(np.zeros((0, 1))).tolist() == []
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"NaN or \+inf"):
            best_tree(np.array([[0.0, 0.0, wrong], [0.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"\[words, words \+ 1\], got \[2, 2\]"):
        best_tree(np.zeros((2, 2)))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 7).flatmap(lambda n: st.lists(st.integers(0, n), min_size=n, max_size=n)), min_size=1))
def test_trees_are_told_from_what_is_none_in_many_sentences_at_once(sentences):
    counts = np.array([len(heads) for heads in sentences])
    flat = np.array([head for heads in sentences for head in heads], dtype=np.int64)
    assert are_trees(flat, counts).tolist() == [not heads or is_tree(heads) for heads in sentences]


@given(st.lists(st.integers(0, 6).flatmap(lambda n: st.lists(st.integers(0, n), min_size=n, max_size=n)), min_size=1))
def test_circles_are_found_in_many_sentences_at_once(sentences):
    counts = np.array([len(heads) for heads in sentences])
    heads = np.array([head for own in sentences for head in own], dtype=np.int64)
    assert without_circles(heads, counts).tolist() == [is_tree(own, roots=None) for own in sentences]
