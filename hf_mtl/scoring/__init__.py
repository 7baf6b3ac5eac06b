"""Scores of predictions against references, as `evaluate` modules without a network or a cache folder.

Tasks call the functions; the modules are for users of `evaluate` (`add_batch`, `combine`).
Every score lies in 0..1 and higher is better. Published scores are often 100 times these, SQuAD's always.
"""

from .classification import ClassificationScore, classification_scores
from .squad import SquadScore, squad_scores
from .tagging import SpanScore, TagScore, tagging_scores

__all__ = [
    "ClassificationScore",
    "SpanScore",
    "SquadScore",
    "TagScore",
    "classification_scores",
    "squad_scores",
    "tagging_scores",
]
