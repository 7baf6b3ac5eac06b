"""Scores of predictions against references, as `evaluate` modules without a network or a cache folder.

Tasks call the functions; the modules are for users of `evaluate` (`add_batch`, `combine`).
Every score lies in 0..1 and higher is better. Published scores are often 100 times these, SQuAD's always.
"""

from .classification import ClassificationScore, classification_scores
from .correlation import CorrelationScore, correlation_scores
from .generation import exact_match, require_library, rouge_scores, translation_scores
from .joint_relations import JointRelationScore, joint_relation_scores
from .language import token_scores
from .multi_label import MultiLabelScore, multi_label_scores
from .parsing import ParsingScore, parsing_scores
from .relations import RelationScore, relation_scores
from .retrieval import retrieval_scores
from .soft_label import SoftLabelScore, soft_label_scores
from .squad import SquadScore, squad_scores
from .tagging import SpanScore, TagScore, tagging_scores

__all__ = [
    "ClassificationScore",
    "CorrelationScore",
    "JointRelationScore",
    "MultiLabelScore",
    "ParsingScore",
    "RelationScore",
    "SoftLabelScore",
    "SpanScore",
    "SquadScore",
    "TagScore",
    "classification_scores",
    "correlation_scores",
    "exact_match",
    "joint_relation_scores",
    "multi_label_scores",
    "parsing_scores",
    "relation_scores",
    "require_library",
    "retrieval_scores",
    "rouge_scores",
    "soft_label_scores",
    "squad_scores",
    "tagging_scores",
    "token_scores",
    "translation_scores",
]
