"""The relation between two spans: markers written around both, and the text classified as any other."""

from collections.abc import Sequence
from typing import Any

from .sequence_classification import SequenceWay

__all__ = ["EntityMarkers"]


class EntityMarkers(SequenceWay):
    """Sequence classification of a text with `[E1] head [/E1]` and `[E2] tail [/E2]`, four tokens of their own."""

    more_tokens: Sequence[str] = ("[E1]", "[/E1]", "[E2]", "[/E2]")

    def texts(self, row: dict[str, Any]) -> list[str]:
        """The marked text."""
        words = list(row["tokens"])
        marks = [
            (row["head"][0], "[E1]"),
            (row["head"][1], "[/E1]"),
            (row["tail"][0], "[E2]"),
            (row["tail"][1], "[/E2]"),
        ]
        for place, mark in sorted(marks, key=lambda pair: -pair[0]):
            words.insert(place, mark)
        return [" ".join(words)]
