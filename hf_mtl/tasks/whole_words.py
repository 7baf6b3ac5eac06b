"""Which subwords a masked language model must guess together: those of a word, where there are words."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["hidden_together"]

# A word of more subwords is a sentence without spaces, an address or a formula: hidden whole, nothing tells of it.
LONGEST_WORD = 8

# Scripts that put no spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003ffff]"
)


def hidden_together(encoding: Any, places: Sequence[int], text: str) -> list[Any]:
    """Of each of the subwords at `places` a key, which is the same for those that are hidden together.

    Args:
        encoding: the tokenizer's, with `word_ids` and `offsets`.
        places: subwords of words, ascending.
        text: the text that was encoded.
    """
    words = [encoding.word_ids[i] for i in places]
    split = {word for word, count in Counter(words).items() if count > LONGEST_WORD}
    if _UNSPACED.search(text):
        spans = ((word, encoding.offsets[i]) for i, word in zip(places, words, strict=True))
        split |= {word for word, (start, end) in spans if _UNSPACED.search(text, start, end)}
    if not split:
        return words
    keys: list[Any] = []
    last, covered = None, 0
    for i, word in zip(places, words, strict=True):
        start, end = encoding.offsets[i]
        # Of bytes, several subwords are one character.
        if word != last or (word in split and start >= covered):
            keys.append((word, i))
        else:
            keys.append(keys[-1])
        last, covered = word, end
    return keys
