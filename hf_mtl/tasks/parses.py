"""Candidates for the head of each word -> one tree for each row, with relations and scores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .base import Features
from .biaffine import ARC, HEAD, LABEL, LABEL_SCORE
from .spanning_tree import are_trees, best_tree
from .window_values import words_of_windows

__all__ = ["Parse", "parse"]

# What an arc that is no candidate loses against the worst that is, as log-probability. It is seldom needed: where
# a window has more words than there are candidates, and no tree of candidates is better.
_BELOW = 1.0


class Parse(NamedTuple):
    """The trees of many rows, the words of one row after those of the other: three arrays `[words]`."""

    heads: np.ndarray  # numbers of words in the row, from 1; 0 for the root
    labels: np.ndarray
    scores: np.ndarray  # probability of arc and label; 0 where the arc is a guess


def parse(logits: Sequence[np.ndarray], features: Sequence[Features], counts: np.ndarray, unknown: int) -> Parse:
    """The best tree of each row: one over all its words, whatever of them could be read.

    Args:
        logits: `[words, 1 + CANDIDATES, 4]` for each feature, as `BiaffineParser` gives them.
        features: with `row` and `words`, as `encode_words` gives them.
        counts: `[rows]` the words of each row.
        unknown: the label of a word of which nothing was read.
    """
    first = np.cumsum(counts) - counts
    total = int(counts.sum())
    found = Parse(np.full(total, -1), np.full(total, unknown), np.zeros(total))
    guess, at_root = found.labels.copy(), np.full(total, -np.inf)
    read = np.array([len(feature["words"]) for feature in features], dtype=np.int64)
    if read.sum():
        told, places = words_of_windows(logits, features, counts)
        before = np.repeat(np.cumsum(read) - read, read)
        heads, slot = _best_heads(told, read)
        numbers = places[before + heads - 1] - np.repeat(first, counts)[places] + 1
        found.heads[places] = np.where(heads > 0, numbers, 0)
        chosen = told[np.arange(len(told)), slot]
        guess[places] = np.where(told[:, 1, HEAD] < 0, unknown, told[:, 1, LABEL])  # the likeliest word's as head
        found.labels[places] = np.where(slot < 0, guess[places], chosen[:, LABEL])
        found.scores[places] = np.where(slot < 0, 0, np.exp(chosen[:, ARC] + chosen[:, LABEL_SCORE]))
        at_root[places] = told[:, 0, ARC]
    _join(found, first, counts, guess, at_root)
    return found


def _best_heads(told: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The heads `[words]` of the best tree of each window, and which candidate each is, -1 for none."""
    known, scores = told[:, :, HEAD].astype(np.int64), told[:, :, ARC]
    every = np.arange(len(told))
    heads = known[every, scores.argmax(1)]  # the best of all trees, if it is one
    ends = np.cumsum(counts)
    for window in np.flatnonzero(~are_trees(heads, counts)):
        inside = slice(ends[window] - counts[window], ends[window])
        heads[inside] = best_tree(_all_arcs(known[inside], scores[inside]))
    same = known == heads[:, None]
    return heads, np.where(same.any(1), same.argmax(1), -1)


def _all_arcs(known: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores of candidates -> `[words, words + 1]` of all arcs."""
    words = len(known)
    real = known >= 0
    worst = np.where(real, scores, np.inf).min(1)
    arcs = np.repeat(worst[:, None].astype(np.float64) - _BELOW, words + 1, axis=1)
    arcs[np.nonzero(real)[0], known[real]] = scores[real]
    return arcs


def _join(found: Parse, first: np.ndarray, counts: np.ndarray, guess: np.ndarray, at_root: np.ndarray) -> None:
    """Makes one tree of the trees of a row's windows, and of the words that no window has."""
    row = np.repeat(np.arange(len(counts)), counts)
    roots = np.bincount(row[found.heads == 0], minlength=len(counts))
    unread = np.bincount(row[found.heads < 0], minlength=len(counts))
    for k in np.flatnonzero((roots > 1) | (unread > 0)):
        inside = slice(first[k], first[k] + counts[k])
        heads = found.heads[inside]  # a view
        top = int(np.where(heads == 0, at_root[inside], -np.inf).argmax())
        others = np.flatnonzero(heads == 0)
        others = others[others != top]
        heads[others] = top + 1
        found.labels[inside][others] = guess[inside][others]
        found.scores[inside][others] = 0
        # No circle: these hang on the word before, and so in the end on one that was read, or on the top.
        lost = np.flatnonzero(heads < 0)
        heads[lost] = np.where(lost == 0, top + 1, lost)
        if not roots[k]:  # nothing of the row was read
            heads[0] = 0
