"""Task types: one file each, from columns to scores."""

from .base import RowError, Task, TaskOutput
from .dependency_parsing import DependencyParsing
from .intent_slots import IntentSlots
from .lemmatization import Lemmatization
from .morphological_tagging import MorphologicalTagging
from .multi_label_classification import MultiLabelClassification
from .multiple_choice import MultipleChoice
from .question_answering import QuestionAnswering
from .registry import TASK_TYPES, register_task, task_class, task_from_dict
from .regression import Regression, SentenceSimilarity
from .relation_extraction import RelationExtraction
from .sentence_embedding import SentenceEmbedding
from .soft_label_classification import SoftLabelClassification
from .text_classification import TextClassification
from .token_classification import TokenClassification

__all__ = [
    "TASK_TYPES",
    "DependencyParsing",
    "IntentSlots",
    "Lemmatization",
    "MorphologicalTagging",
    "MultiLabelClassification",
    "MultipleChoice",
    "QuestionAnswering",
    "Regression",
    "RelationExtraction",
    "RowError",
    "SentenceEmbedding",
    "SentenceSimilarity",
    "SoftLabelClassification",
    "Task",
    "TaskOutput",
    "TextClassification",
    "TokenClassification",
    "register_task",
    "task_class",
    "task_from_dict",
]
