"""Words in a text, and the subwords that stand for them under any tokenizer."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from operator import add

import numpy as np
import regex

__all__ = ["SPLITS", "Word", "first_subwords", "gap_between", "place_words", "split_words"]

_PATTERNS = {
    # A run of letters, marks, digits and underscores; every other visible character by itself.
    "words": regex.compile(r"[\p{L}\p{M}\p{N}_]+|(?!\s)\X"),
    "whitespace": regex.compile(r"\S+"),
    "characters": regex.compile(r"(?!\s)\X"),
}
SPLITS = tuple(_PATTERNS)
# Longer texts are split anew each time: kept, a few thousand of them would fill the memory.
_KEPT = 1000


# A word and where it is in its text: its first character and the one after its last. A bare tuple, because of
# such that hold no containers the garbage collector takes no notice, and there are very many.
Word = tuple[str, int, int]


def split_words(text: str, how: str) -> tuple[Word, ...]:
    """The words of a text. Encoding, decoding and answering ask for those of the same text, in each task."""
    return _split_kept(text, how) if len(text) <= _KEPT else _split(text, how)


def _split(text: str, how: str) -> tuple[Word, ...]:
    return tuple((match.group(), *match.span()) for match in _PATTERNS[how].finditer(text))


_split_kept = lru_cache(maxsize=4096)(_split)


def gap_between(how: str) -> str:
    """What stands between words where they are one text: nothing between characters, a space elsewhere."""
    return "" if how == "characters" else " "


def place_words(words: Sequence[str], how: str) -> tuple[Word, ...]:
    """Words that are given, where they are in the text that they make when they are joined."""
    gap = len(gap_between(how))
    lengths = list(map(len, words))
    starts = list(accumulate((length + gap for length in lengths), initial=0))
    return tuple(zip(words, starts, map(add, starts, lengths), strict=False))


def first_subwords(words: np.ndarray, subwords: np.ndarray) -> np.ndarray:
    """The first subword of each word: the one that holds the word's first character that any subword holds.

    It does not matter whether the tokenizer counts the space before a word as part of its first subword.
    Subwords may hold several words (a Latin run in a text of characters): these share it.

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
