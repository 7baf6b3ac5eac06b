"""Words in a text, and the subwords that stand for them under any tokenizer."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex

__all__ = ["SPLITS", "first_subwords", "join_words", "split_words"]

_PATTERNS = {
    # A run of letters, marks, digits and underscores; every other visible character by itself.
    "words": regex.compile(r"[\p{L}\p{M}\p{N}_]+|(?!\s)\X"),
    "whitespace": regex.compile(r"\S+"),
    "characters": regex.compile(r"(?!\s)\X"),
}
SPLITS = tuple(_PATTERNS)


@lru_cache(maxsize=4096)
def split_words(text: str, how: str) -> tuple[tuple[int, int], ...]:
    """Where the words of a text are: (start, end) in characters, end exclusive."""
    return tuple(match.span() for match in _PATTERNS[how].finditer(text))


def join_words(words: Sequence[str], how: str) -> tuple[str, np.ndarray]:
    """The words as one text (characters without a space between), and where each begins and ends: `[words, 2]`."""
    gap = 0 if how == "characters" else 1
    lengths = np.fromiter((len(word) for word in words), dtype=np.int64, count=len(words))
    ends = np.cumsum(lengths + gap) - gap
    return ("" if gap == 0 else " ").join(words), np.stack([ends - lengths, ends], axis=1)


def first_subwords(words: np.ndarray, subwords: np.ndarray) -> np.ndarray:
    """The first subword of each word: the one that holds the word's first character that any subword holds.

    It does not matter whether the tokenizer counts the space before a word as part of its first subword. Subwords
    may hold several words (a Latin run in a text of characters): these share it.

    Args:
        words: `[words, 2]` character offsets, ascending.
        subwords: `[subwords, 2]` character offsets of the subwords of the text, special ones left out.

    Returns:
        `[words]` indices into `subwords`; -1 where no subword holds any of the word.
    """
    if not len(words) or not len(subwords):
        return np.full(len(words), -1)
    index = np.searchsorted(subwords[:, 1], words[:, 0], side="right")
    held = index < len(subwords)
    held[held] = subwords[index[held], 0] < words[held, 1]
    return np.where(held, index, -1)
