"""Entities and the relations between them by two models: a tagger, and a classifier of each ordered pair of spans."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

from seqeval.metrics.sequence_labeling import get_entities

from .budget import Budget, Rows
from .entity_markers import EntityMarkers
from .word_labels import WordLabelWay

__all__ = ["EntitiesThenRelations", "entities_of"]

NONE = "no relation"
UNRELATED = 1
Span = tuple[int, int]


class EntitiesThenRelations:
    """What the tagger finds is marked pair by pair (Zhong and Chen 2021, without the types in the markers).

    Training pairs are those of the gold entities, of a row at most UNRELATED that no relation holds between, drawn
    once: all of them would cost many times as much. The tagger has half of the epochs, and the classifier, whose rows
    are many times as many, the other half: together they spend more than one model of both.

    Args:
        budget: what may be spent.
        tags: names of the tags.
        labels: names of the relations.
    """

    def __init__(self, budget: Budget, tags: Sequence[str], labels: Sequence[str]):
        self.budget, part = budget, replace(budget, epochs=budget.epochs / 2)
        self.tagger = WordLabelWay(part, tags)
        self.classifier = EntityMarkers(part, [NONE, *labels])

    def fit(self, rows: Rows) -> None:
        """Trains one after the other."""
        self.tagger.fit(rows)
        pairs, drawn = [], random.Random(self.budget.seed)
        for row in rows:
            gold = {(tuple(one["head"]), tuple(one["tail"])): one["label"] for one in row["relations"]}
            spans = [(start, end) for start, end, _ in entities_of(row["tags"])]
            unrelated = [pair for pair in permutations(spans, 2) if pair not in gold]
            pairs += [_pair(row, head, tail, label) for (head, tail), label in gold.items()]
            pairs += [_pair(row, *pair, NONE) for pair in drawn.sample(unrelated, min(UNRELATED, len(unrelated)))]
        self.classifier.fit(pairs)

    def answer(self, rows: Rows) -> list[dict[str, Any]]:
        """`entities` and `relations` of each row."""
        found = [entities_of(tags) for tags in self.tagger.answer(rows)]
        places = [(i, *pair) for i, own in enumerate(found) for pair in permutations(range(len(own)), 2)]
        pairs = [_pair(rows[i], found[i][head][:2], found[i][tail][:2], NONE) for i, head, tail in places]
        graphs: list[dict[str, Any]] = [
            {"entities": [{"start": start, "end": end, "type": kind} for start, end, kind in own], "relations": []}
            for own in found
        ]
        labels = self.classifier.answer(pairs) if pairs else []
        for (i, head, tail), label in zip(places, labels, strict=True):
            if label != NONE:
                graphs[i]["relations"].append({"head": head, "tail": tail, "label": label})
        return graphs


def entities_of(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Start, end (exclusive) and type."""
    return [(start, end + 1, kind) for kind, start, end in get_entities(list(tags))]


def _pair(row: dict[str, Any], head: Span, tail: Span, label: str) -> dict[str, Any]:
    return {"tokens": row["tokens"], "head": head, "tail": tail, "label": label}
