"""Logits of words -> the tag of each word and how sure it is, legal where tags are BIO tags."""

from collections.abc import Iterator, Sequence

import numpy as np

from .base import Features
from .bio import best_legal, going_on, legal_moves
from .window_values import words_of_windows, words_read

__all__ = ["tag_words"]

# Scores that are looked at together in the search for legal sequences, which pads: some tens of MB.
_CELLS = 1 << 20


def tag_words(
    logits: Sequence[np.ndarray],
    features: Sequence[Features],
    counts: np.ndarray,
    labels: tuple[str, ...],
    *,
    legal: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The best tag of each word of many rows, one row after the other, and its probability.

    A word that shares its subword with the word before has that one's tag, and does not begin another span.

    Args:
        logits: `[words, labels]` for each feature.
        features: with `row` and `words`, as `encode_words` gives them, and `shared` of `read_once`.
        counts: `[rows]` the words of each row.
        labels: the tag names.
        legal: the best legal sequence of BIO tags, rather than the best tag of each word.

    Returns:
        `[words]` label indices, and `[words]` probabilities.
    """
    first = np.concatenate([[0], np.cumsum(counts)])
    alone = np.ones(first[-1], dtype=bool)
    if len(features):
        alone[words_read(features, counts, "shared")[1]] = False
    # A word that no subword stands for says nothing of its tag: the most it can be is outside, or the first.
    scores = np.zeros((first[-1], len(labels)), dtype=np.float32)
    scores[:, labels.index("O") if "O" in labels else 0] = 1e-3
    if len(features):
        found, places = words_of_windows(logits, features, counts)
        scores[places] = found
    scores, first = scores[alone], np.concatenate([[0], np.cumsum(alone)])[first]
    best = scores.argmax(-1)
    if legal and len(best):
        for chosen in _illegal(best, first, labels):
            best[chosen.words] = best_legal(chosen.padded(scores), chosen.lengths, labels)[chosen.inside]
    top = scores.max(-1)
    shares = np.exp(scores - top[:, None]).sum(-1)
    sure = np.exp(scores[np.arange(len(best)), best] - top) / shares
    of = np.cumsum(alone) - 1
    return np.where(alone, best[of], going_on(labels)[best[of]]), sure[of]


class _Padded:
    """Rows of words of unlike lengths as one padded block."""

    def __init__(self, starts: np.ndarray, lengths: np.ndarray):
        self.lengths = lengths
        self.inside = np.arange(lengths.max()) < lengths[:, None]
        self.words = (starts[:, None] + np.arange(lengths.max()))[self.inside]

    def padded(self, scores: np.ndarray) -> np.ndarray:
        """`scores [words, labels]` of all words -> `[rows, words, labels]` of these rows."""
        block = np.zeros((*self.inside.shape, scores.shape[1]), dtype=scores.dtype)
        block[self.inside] = scores[self.words]
        return block


def _illegal(best: np.ndarray, first: np.ndarray, labels: tuple[str, ...]) -> Iterator[_Padded]:
    """The rows whose best tags make no legal sequence, rows of like length together."""
    counts = np.diff(first)
    before = np.concatenate([[len(labels)], best[:-1]])
    before[first[:-1][counts > 0]] = len(labels)
    wrong = np.flatnonzero(~legal_moves(labels)[before, best])
    rows = np.unique(np.searchsorted(first, wrong, side="right") - 1)
    rows = rows[np.argsort(counts[rows], kind="stable")]
    while len(rows):
        fit = np.arange(1, len(rows) + 1) * counts[rows] * len(labels) <= _CELLS
        some, rows = np.split(rows, [max(1, int(fit.sum()))])
        yield _Padded(first[some], counts[some])
