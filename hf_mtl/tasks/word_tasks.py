"""What tasks share that read words: how a row says which they are, and what the backbone is given of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .base import Features, Row, RowError, Task, shown
from .word_windows import encode_words
from .words import SPLITS, Word, gap_between, place_words, split_words

__all__ = ["WordTask"]


@dataclass(frozen=True, kw_only=True)
class WordTask(Task):
    """A task of the words of a text. Its head sees a vector for each word, that of the word's first subword.

    Column: `tokens` (a list of words; to predict, a text as well).

    Args:
        split: how a text without given words is split: `words`, `whitespace` or `characters`. Learned:
            `characters` where every token of the training data is one character. Words are joined by a space,
            characters by none.
    """

    tokens: str = "tokens"
    split: str | None = None

    per_word = True
    needs_offsets = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("split", self.split, self.split in (None, *SPLITS), f"one of {SPLITS}")

    def inputs(self) -> dict[str, str]:
        return {"text": self.tokens}

    def learned_split(self, dataset: Any) -> str:
        """The `split` that fits the training data; one that was given stays."""
        if self.split is not None:
            return self.split
        some = dataset[self.tokens][:1000]
        single = all(isinstance(words, list) and all(len(word) == 1 for word in words) for words in some)
        return "characters" if single else "words"

    def read_value(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence) and all(isinstance(word, str) for word in value):
            return value
        raise ValueError(f"Task {self.name!r}: {name!r} must be a string or a list of words, got {value!r:.60}.")

    def words(self, row: Row, index: int) -> tuple[Word, ...]:
        """The words of a row with their places: in its text, or in its words joined."""
        if isinstance(row[self.tokens], str):
            return split_words(self.read_text(row, self.tokens, index), self.split or "words")
        return place_words(self._listed_words(row, index), self.split or "words")

    def word_forms(self, row: Row, index: int) -> Sequence[str]:
        """The words of a row without their places."""
        if isinstance(row[self.tokens], str):
            return [word for word, _, _ in self.words(row, index)]
        return self._listed_words(row, index)

    def _listed_words(self, row: Row, index: int) -> Sequence[str]:
        value = row[self.tokens]
        if not isinstance(value, Sequence):
            raise RowError(
                f"Task {self.name!r}: column {self.tokens!r} must hold a list of words, got {shown(value)}.",
                index,
            )
        return self.read_texts(value, self.tokens, index)

    def given_words(self, row: Row) -> tuple[Word, ...]:
        """The words of a row as they were given: `words` makes them safe for a tokenizer."""
        value = row[self.tokens]
        if not isinstance(value, str):
            return place_words(value, self.split or "words")
        words = self.words(row, 0)
        return words if value.isascii() else tuple((value[start:end], start, end) for _, start, end in words)

    def encode_rows(self, rows: Sequence[Row], tokenizer: Any) -> tuple[list[Features], list[Sequence[str]]]:
        """A feature for each window of each row, see `encode_words`, and the words of each row."""
        words = [self.word_forms(row, i) for i, row in enumerate(rows)]
        return encode_words(words, tokenizer, self.split or "words", self.limit(tokenizer)), words

    def text_of(self, row: Row) -> str:
        """The text that the places of words are counted in."""
        value = row[self.tokens]
        return value if isinstance(value, str) else gap_between(self.split or "words").join(value)

    def gold_list(self, row: Row, column: str, words: int, index: int) -> Sequence[Any]:
        """A column that says something of each word; raises RowError where it holds no list of that length."""
        values = row[column]
        if isinstance(values, str) or not isinstance(values, Sequence):
            written = f" In a recipe's data, lists: {{{column}: ' '}} makes lists of text." * isinstance(values, str)
            raise RowError(
                f"Task {self.name!r}: column {column!r} must hold a list, one entry for each word, "
                f"got {shown(values)}.{written}",
                index,
            )
        if len(values) != words:
            raise RowError(
                f"Task {self.name!r}: column {self.tokens!r} has {words} entries and column {column!r} "
                f"has {len(values)}; there must be one for each word.",
                index,
            )
        return values
