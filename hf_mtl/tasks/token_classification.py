"""A tag for every word, or for every character: parts of speech, named entities, slots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from .base import Features, Row, RowError, Task, TaskOutput, shown
from .bio import has_end_tags, is_bio, names_scheme, spans
from .labels import check_labels, declared_names, label_id, label_index, label_names, sorted_names
from .registry import register_task
from .tagging import tag_words
from .word_windows import encode_words
from .words import SPLITS, Word, gap_between, place_words, split_words

__all__ = ["TokenClassification"]

IGNORED = -100

# Asked for each answer, of labels that stay the same.
_is_bio = lru_cache(maxsize=256)(is_bio)


@register_task("token-classification")
@dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """A tag for each word, read off its first subword. Long rows are read in windows, and no word is lost.

    Columns: `tokens` (a list of words, or of characters), `tags` (as many; strings, or a sequence of
        `ClassLabel`).
    Answer, BIO tags: a list of `{"entity_group", "score", "word", "start", "end"}`; plain tags: a list of
    `{"entity", "score", "index", "word", "start", "end"}`. Scores, BIO: span `f1`, `precision`, `recall`
    (seqeval) and `accuracy`; plain: `accuracy`, `f1_macro`.

    Args:
        labels: the tag names, in the order of the logits; learned by `from_dataset`.
        split: how a text without given words is split: `words`, `whitespace` or `characters`. Learned:
            `characters` where every token of the training data is one character. Words are joined by a space,
            characters by none.
        scheme: how BIO tags begin a span: `bio`: by `B-x` alone; `iob1`: by `I-x`, and by `B-x` right behind
            another of its type. Learned; None, never learned, is as `bio`.
    """

    tokens: str = "tokens"
    tags: str = "tags"
    labels: tuple[str, ...] | None = None
    split: str | None = None
    scheme: str | None = None

    main_metric = "accuracy"
    per_word = True
    not_in_features = Task.not_in_features | {"scheme"}
    not_encoded = Task.not_encoded | {"tags", "labels", "scheme"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("split", self.split, self.split in (None, *SPLITS), f"one of {SPLITS}")
        self._check("scheme", self.scheme, self.scheme in (None, "bio", "iob1"), "'bio' or 'iob1'")
        if self.labels is not None:
            check_labels(self.name, self.labels, least=1)
            if has_end_tags(self.labels):
                raise ValueError(
                    f"Task {self.name!r}: labels {list(self.labels)!r:.80} are BIOES or BILOU tags, and spans are read "
                    "from BIO tags only. Turn E- and L- into I-, S- and U- into B-, in the data and in labels."
                )
            if self.spans:
                object.__setattr__(self, "main_metric", "f1")

    @property
    def spans(self) -> bool:
        """Whether the tags are BIO tags, which name spans of words."""
        return _is_bio(self.known("labels", self.labels))

    def inputs(self) -> dict[str, str]:
        return {"text": self.tokens}

    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.tags

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        labels, split, scheme = self.labels, self.split, self.scheme
        declared = declared_names(dataset, self.tags)
        labels = labels or declared
        # A tag and the one before it: all that must be known, and counted without a loop over tags.
        moves: Counter[Any] = Counter()
        if labels is None or (scheme is None and _is_bio(labels)):
            for i, tags in enumerate(dataset[self.tags]):
                if not isinstance(tags, list) or None in tags:
                    raise ValueError(
                        f"Task {self.name!r}: column {self.tags!r} must hold a list of labels and none of them "
                        f"missing (None), and row {i} has {shown(tags)}. Leave out such rows."
                    )
                moves.update(pairwise(chain(["O"], tags)))
        if labels is None:
            labels = sorted_names(tag for _, tag in moves)
        if scheme is None and _is_bio(labels):
            scheme = names_scheme(_named(moves, declared or labels))
        if split is None:
            single = all(len(word) == 1 for words in dataset[self.tokens][:1000] for word in words)
            split = "characters" if single else "words"
        return replace(self, labels=labels, split=split, scheme=scheme)

    def read_value(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence) and all(isinstance(word, str) for word in value):
            return value
        raise ValueError(f"Task {self.name!r}: {name!r} must be a string or a list of words, got {value!r:.60}.")

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        words = [[word for word, _, _ in self.words(row, i)] for i, row in enumerate(rows)]
        features = encode_words(words, tokenizer, self.split or "words", self.limit(tokenizer))
        if self.tags in rows[0]:
            index = label_index(self.known("labels", self.labels))
            gold = [self._gold(row, len(words[i]), index, i) for i, row in enumerate(rows)]
            for feature in features:
                labels = gold[feature["row"]][feature["words"]]
                # Where words share a subword (characters of a Latin run) the first of them trains it.
                labels[1:][np.diff(feature["positions"]) == 0] = IGNORED
                feature["labels"] = labels.tolist()
        return features

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return torch.tensor([[*values, *[IGNORED] * (length - len(values))] for values in labels])

    def words(self, row: Row, index: int) -> tuple[Word, ...]:
        """The words of a row with their places: in its text, or in its words joined."""
        value = row[self.tokens]
        if isinstance(value, str):
            text = value if value.isascii() else self.read_text(row, self.tokens, index)
            return split_words(text, self.split or "words")
        if not isinstance(value, Sequence):
            raise RowError(
                f"Task {self.name!r}: column {self.tokens!r} must hold a list of words, got {shown(value)}.",
                index,
            )
        safe = [self.read_text({self.tokens: word}, self.tokens, index) for word in value]
        return place_words(safe, self.split or "words")

    def _gold(self, row: Row, words: int, ids: Mapping[str | int, int], index: int) -> np.ndarray:
        tags = row[self.tags]
        if isinstance(tags, str) or not isinstance(tags, Sequence):
            raise RowError(
                f"Task {self.name!r}: column {self.tags!r} must hold a list of labels, got {shown(tags)}.", index
            )
        if len(tags) != words:
            raise RowError(
                f"Task {self.name!r}: column {self.tokens!r} has {words} entries and column {self.tags!r} "
                f"has {len(tags)}; there must be one tag for each word.",
                index,
            )
        return np.fromiter((label_id(self.name, tag, ids, index) for tag in tags), dtype=np.int64, count=words)

    def references(self, rows: Sequence[Row]) -> list[list[str]]:
        return [label_names(row[self.tags], self.labels) for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        return TokenClassifier(width_of(backbone), len(self.known("labels", self.labels)), self.dropout)

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        labels = self.known("labels", self.labels)
        counts = np.array([len(self.words(row, i)) for i, row in enumerate(rows)], dtype=np.int64)
        best, sure = tag_words(logits, features, counts, labels, legal=self.spans and self.scheme != "iob1")
        tags, scores = np.array(labels, dtype=object)[best].tolist(), sure.tolist()
        ends = np.cumsum(counts).tolist()
        starts = [0, *ends[:-1]]
        return [{"tags": tags[s:e], "scores": scores[s:e]} for s, e in zip(starts, ends, strict=True)]

    def answer(self, prediction: Any, row: Row) -> list[dict[str, Any]]:
        value, words = row[self.tokens], self.words(row, 0)
        tags, scores = prediction["tags"], prediction["scores"]
        text = value if isinstance(value, str) else gap_between(self.split or "words").join(value)
        if not self.spans:
            if not text.isascii():  # what is not text was replaced for the tokenizer, but here stands what was given
                words = tuple((text[start:end], start, end) for _, start, end in words)
            return [
                {"entity": tag, "score": score, "index": i, "word": word, "start": start, "end": end}
                for i, (tag, score, (word, start, end)) in enumerate(zip(tags, scores, words, strict=True))
            ]
        found = []
        for kind, first, end in spans(tags):
            s, e = words[first][1], words[end - 1][2]
            score = sum(scores[first:end]) / (end - first)
            found.append({"entity_group": kind, "score": score, "word": text[s:e], "start": s, "end": e})
        return found

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import tagging_scores

        return tagging_scores([p["tags"] for p in predictions], list(references), spans=self.spans)

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        tag, count = Counter(chain.from_iterable(references)).most_common(1)[0]
        lengths = [len(self.words(row, i)) for i, row in enumerate(rows)]
        share = count / sum(len(tags) for tags in references)
        return [{"tags": [tag] * n, "scores": [share] * n} for n in lengths]


def _named(moves: Mapping[tuple[Any, Any], int], labels: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """Pairs of tags by their names, which may be indices in the data."""
    before, after = (label_names([pair[k] for pair in moves], labels) for k in (0, 1))
    return dict(zip(zip(before, after, strict=True), moves.values(), strict=True))


class TokenClassifier(nn.Module):
    """Dropout -> linear on every word, in the dtype of its own weights."""

    def __init__(self, width: int, labels: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, words, width]`, `labels [batch, words]` or -100 -> `logits [batch, words, labels]`."""
        logits = self.classifier(self.dropout(hidden.to(self.classifier.weight.dtype)))
        if labels is None:
            return TaskOutput(None, logits)
        total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return TaskOutput(total / (labels != IGNORED).sum().clamp(min=1), logits)
