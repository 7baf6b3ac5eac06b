"""Two spans of a text -> model inputs in which they are found again, however long the text is."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from .base import Features, RowError

__all__ = ["PairText", "encode_marked", "encode_plain", "mark"]

Span = tuple[int, int]

# Punctuation that every tokenizer knows, so that no embedding starts from noise (arXiv:2102.01373, section 3).
HEAD, TAIL = "@", "#"
# To this many places a span's subwords are spread at most; most pairs need fewer than ten.
MOST_PLACES = 64


class PairText(NamedTuple):
    """A text and its two spans, `[start, end)` in characters."""

    text: str
    head: Span
    tail: Span


def mark(pair: PairText) -> tuple[str, list[int]]:
    """The text with `@` on both sides of the head and `#` of the tail, each with a space to its neighbours.

    Spans may nest, cross or be the same: of two symbols at one place a closing one comes first, and the longer
    span's lies outside.

    Returns:
        The marked text, and where in it the head's two symbols and the tail's two are.
    """
    text = pair.text
    events = []
    for which, (start, end) in enumerate((pair.head, pair.tail)):
        events.append(((start, 1, -end, which), 2 * which, start))
        events.append(((end, 0, -start, -which), 2 * which + 1, end))
    marked, done, places = "", 0, [0, 0, 0, 0]
    for _, number, place in sorted(events):
        marked += text[done:place]
        done = place
        if marked and not marked.endswith(" "):
            marked += " "
        places[number] = len(marked)
        marked += HEAD if number < 2 else TAIL
        if number % 2 == 0 or (place < len(text) and text[place] != " "):
            marked += " "
    return marked + text[done:], places


def encode_marked(task: str, pairs: Sequence[PairText], tokenizer: Any, limit: int) -> list[Features]:
    """A feature a pair. `positions`: the opening symbols of head and tail, the closing ones, the last subword.

    A text that is too long keeps what is nearest to the spans; no symbol is ever cut off.

    Raises:
        RowError: `limit` leaves no room for the symbols.
    """
    marked = [mark(pair) for pair in pairs]
    encoded = tokenizer([text for text, _ in marked], return_attention_mask=False, verbose=False)
    symbols = _subwords_of(encoded.encodings, np.array([places for _, places in marked]))
    types = encoded.get("token_type_ids")
    features = []
    for row, (ids, (_, places)) in enumerate(zip(encoded["input_ids"], marked, strict=True)):
        if len(ids) <= limit and symbols[row].min() >= 0:  # nearly all
            feature: Features = {"input_ids": ids, "row": row}
            if types is not None:
                feature["token_type_ids"] = types[row]
            a, b, c, d = symbols[row]
        else:
            window = _Window(task, encoded, row, tokenizer)
            # The last one: before it some tokenizers have a subword for the space alone.
            a, b, c, d = (int(window.inside(place, place + 1)[-1]) for place in places)
            kept = window.cut((a, b), (c, d), limit, row)
            feature = window.feature(kept, row)
            a, b, c, d = window.moved([a, b, c, d], kept)
        feature["positions"] = np.array([a, c, b, d, len(feature["input_ids"]) - 1])
        features.append(feature)
    return [_counted(feature) for feature in features]


def encode_plain(task: str, pairs: Sequence[PairText], tokenizer: Any, limit: int) -> list[Features]:
    """A feature a pair, the text as it is. `positions`: the first subword of the input, the last, then by turns one
    of the head and one of the tail.

    Both are spread over equally many places, each subword equally often where `MOST_PLACES` allow it, so that the
    mean over the places is the mean over the span's subwords.

    Raises:
        RowError: `limit` leaves no room for the ends of the spans.
    """
    features = []
    encoded = tokenizer([pair.text for pair in pairs], return_attention_mask=False, verbose=False)
    for row, pair in enumerate(pairs):
        window = _Window(task, encoded, row, tokenizer)
        if not len(window.content):  # a text without a subword: all places are the input's first
            feature = window.feature(window.around, row)
            features.append(feature | {"positions": np.zeros(4, dtype=np.int64)})
            continue
        spans = [window.inside(*pair.head), window.inside(*pair.tail)]
        (a, b), (c, d) = ((int(span[0]), int(span[-1])) for span in spans)
        kept = window.cut((a, b), (c, d), limit, row)
        feature = window.feature(kept, row)
        head, tail = (window.moved(np.intersect1d(span, kept), kept) for span in spans)
        places = min(math.lcm(len(head), len(tail)), MOST_PLACES)
        turns = np.stack([span[np.arange(places) * len(span) // places] for span in (head, tail)], axis=1)
        feature["positions"] = np.concatenate([[0, len(feature["input_ids"]) - 1], turns.reshape(-1)])
        features.append(feature)
    return [_counted(feature) for feature in features]


def _subwords_of(encodings: Sequence[Any], places: np.ndarray) -> np.ndarray:
    """The last subword that holds the character at each of a text's places; -1 where it takes a closer look.

    All texts are looked at together, as if each stood behind the one before: NumPy calls for each by itself would take
    half as long as the tokenizer.

    Args:
        encodings: of the texts.
        places: `[texts, places]`
    """
    counts = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    offsets = np.fromiter(
        chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings)), dtype=np.int64
    ).reshape(-1, 2)
    special = chain.from_iterable(encoding.special_tokens_mask for encoding in encodings)
    content = np.flatnonzero(np.fromiter(special, dtype=np.int64) == 0)
    text = np.repeat(np.arange(len(counts)), counts)
    # Behind any other place of a text, so that no text's characters have the numbers of the next one's.
    far = max(offsets.max(initial=0), places.max(initial=0)) + 2
    starts, ends = (offsets + text[:, None] * far)[content].T
    wanted = places + np.arange(len(places))[:, None] * far
    found = np.searchsorted(starts, wanted, side="right") - 1
    held = (found >= 0) & (np.diff(starts, prepend=0) >= 0).all()  # else the search went astray
    held &= ends[found] > wanted
    return np.where(held, content[found] - (np.cumsum(counts) - counts)[:, None], -1)


def _counted(feature: Features) -> Features:
    feature["words"] = np.arange(len(feature["positions"]))
    return feature


class _Window:
    """The subwords of one text, uncut, and what the tokenizer puts around them."""

    def __init__(self, task: str, encoded: Any, row: int, tokenizer: Any):
        self.task = task
        encoding = encoded.encodings[row]
        self.ids = np.array(encoding.ids, dtype=np.int64)
        self.types = np.array(encoding.type_ids, dtype=np.int64) if "token_type_ids" in encoded else None
        self.filler = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        self.content = np.flatnonzero(~special)
        self.around = np.flatnonzero(special)
        self.offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def inside(self, start: int, end: int) -> np.ndarray:
        """The subwords that hold any of these characters; where none does (control characters), the nearest."""
        starts, ends = self.offsets[self.content].T
        found = self.content[(starts < end) & (ends > start)]
        if len(found):
            return found
        return self.content[[np.maximum(starts - end, start - ends).argmin()]]

    def cut(self, head: Span, tail: Span, limit: int, row: int) -> np.ndarray:
        """Which subwords stay: all, or what must and those nearest to it.

        If it fits, all from the first span to the last must stay; if not, both spans; if not, their ends.

        Args:
            head: its first subword and its last.
            tail: its first subword and its last.
            limit: most subwords, those around the text counted in.
            row: the row's number, for the message.
        """
        (a, b), (c, d) = head, tail
        cores = [[(min(a, c), max(b, d))], [head, tail], [(a, a), (b, b), (c, c), (d, d)]]
        room = limit - len(self.around)
        if len(self.content) <= room:
            return np.arange(len(self.ids))
        for core in cores:
            far = np.min([np.maximum(first - self.content, self.content - last) for first, last in core], axis=0)
            if (far <= 0).sum() <= room:
                nearest = np.argsort(np.maximum(far, 0), kind="stable")[:room]
                return np.sort(np.concatenate([self.around, self.content[nearest]]))
        raise RowError(
            f"Task {self.task!r}: of {limit} subwords an input may have, {len(self.around)} stand around the text, and "
            f"the {max(room, 0)} that are left cannot hold both ends of head and tail. Raise max_length.",
            row,
        )

    def feature(self, kept: np.ndarray, row: int) -> Features:
        ids = self.ids[kept].tolist() or [self.filler]
        feature: Features = {"input_ids": ids, "row": row}
        if self.types is not None:
            feature["token_type_ids"] = self.types[kept].tolist() or [0]
        return feature

    @staticmethod
    def moved(subwords: Any, kept: np.ndarray) -> np.ndarray:
        """Where these of the kept subwords are now."""
        return np.searchsorted(kept, subwords)
