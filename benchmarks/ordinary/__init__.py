"""The ordinary way of each kind of task: what transformers' own example scripts do, one kind a file.

Every way is a class with `fit(rows)` and `answer(rows)`, whose answers are plain values: label names, lists of tags,
numbers, texts. None of them knows hf_mtl, but for the edit scripts that lemmas are made by.
"""

from .budget import Budget, Way
from .entities_then_relations import EntitiesThenRelations, entities_of
from .entity_markers import EntityMarkers
from .intent_and_slots import TwoModels
from .multiple_choice import MultipleChoiceWay
from .question_answering import QuestionAnsweringWay
from .sentence_transformers_ways import BiEncoderRegression, ContrastivePairs
from .sequence_classification import LabelWay, MultiLabelWay, NumberWay
from .soft_labels import SoftLabelWay
from .word_labels import EditScriptWay, WordLabelWay

__all__ = [
    "BiEncoderRegression",
    "Budget",
    "ContrastivePairs",
    "EditScriptWay",
    "EntitiesThenRelations",
    "EntityMarkers",
    "LabelWay",
    "MultiLabelWay",
    "MultipleChoiceWay",
    "NumberWay",
    "QuestionAnsweringWay",
    "SoftLabelWay",
    "TwoModels",
    "Way",
    "WordLabelWay",
    "entities_of",
]
