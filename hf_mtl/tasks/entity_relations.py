"""Tags of words and candidates for relations -> the entities of each row and the relations between them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Features
from .bio import spans
from .relation_table import CANDIDATES, LABEL, SCORE, TAIL
from .tagging import tag_words
from .window_values import by_row, words_of_windows

__all__ = ["entities_and_relations"]


def entities_and_relations(
    logits: Sequence[np.ndarray],
    features: Sequence[Features],
    counts: Sequence[int],
    tags: tuple[str, ...],
    labels: tuple[str, ...],
    threshold: float,
) -> list[dict[str, Any]]:
    """The entities of each row, in words, and its relations, whose score is above the threshold.

    A window speaks of its own part of an entity that reaches into the next; what it says is said of the whole. Where
    two windows say the same the surer one counts.

    Args:
        logits: `[words, tags + 3 * CANDIDATES]` for each feature, as `EntityRelationHead` gives them.
        features: with `row` and `words`, as `encode_words` gives them.
        counts: the words of each row.
        tags: the BIO tags.
        labels: the relations.
        threshold: 0 to 1.
    """
    best, sure = tag_words([own[:, : len(tags)] for own in logits], features, np.array(counts), tags, legal=True)
    names = by_row(np.array(tags, dtype=object)[best].tolist(), counts)
    owner = np.full(len(best), -1)  # which entity of its row a word is of
    found: list[dict[str, Any]] = []
    first = 0
    for own in names:
        entities: list[dict[str, Any]] = []
        for kind, start, end in spans(own):
            words = slice(first + start, first + end)
            owner[words] = len(entities)
            entities.append({"start": start, "end": end, "type": kind, "score": float(sure[words].mean())})
        found.append({"entities": entities, "relations": []})
        first += len(own)
    for (row, head, tail, label), score in sorted(_said(logits, features, counts, owner, threshold).items()):
        found[row]["relations"].append({"head": head, "tail": tail, "label": labels[label], "score": score})
    return found


def _said(
    logits: Sequence[np.ndarray], features: Sequence[Features], counts: Sequence[int], owner: np.ndarray, least: float
) -> dict[tuple[int, int, int, int], float]:
    """Row, head, tail and label -> score, of all relations that are sure enough."""
    if not features:
        return {}
    told, word = words_of_windows([own[:, -3 * CANDIDATES :] for own in logits], features, counts)
    told = told.reshape(-1, CANDIDATES, 3)
    read = np.array([len(feature["words"]) for feature in features])
    window = np.repeat(np.cumsum(read) - read, read)  # where the window of each word begins
    odds = told[:, :, SCORE].astype(np.float64)
    scores = np.exp(-np.logaddexp(0, -odds))
    place, slot = np.nonzero((told[:, :, TAIL] >= 0) & (scores > least))
    other = window[place] + told[place, slot, TAIL].astype(np.int64)
    rows = np.repeat([feature["row"] for feature in features], read)[place]
    heads, tails = owner[word[place]], owner[word[other]]
    kept = (heads >= 0) & (tails >= 0) & (heads != tails)
    keys = np.stack([rows, heads, tails, told[place, slot, LABEL].astype(np.int64)], axis=1)[kept].tolist()
    best: dict[tuple[int, int, int, int], float] = {}
    for (row, head, tail, label), score in zip(keys, scores[place, slot][kept].tolist(), strict=True):
        key = (row, head, tail, label)
        best[key] = max(score, best.get(key, 0.0))
    return best
