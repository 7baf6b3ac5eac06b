"""Scores of predictions against references, as `evaluate` modules without a network or a cache folder.

Tasks call the functions; the modules are for users of `evaluate` (`add_batch`, `combine`).
Every score lies in 0..1 and higher is better. Published scores are often 100 times these, SQuAD's always.
"""

from .classification import ClassificationScore, classification_scores
from .parsing import ParsingScore, parsing_scores
from .relations import RelationScore, relation_scores
from .retrieval import retrieval_scores
from .squad import SquadScore, squad_scores
from .tagging import SpanScore, TagScore, tagging_scores

__all__ = [
    "ClassificationScore",
    "ParsingScore",
    "RelationScore",
    "SpanScore",
    "SquadScore",
    "TagScore",
    "classification_scores",
    "parsing_scores",
    "relation_scores",
    "retrieval_scores",
    "squad_scores",
    "tagging_scores",
]
