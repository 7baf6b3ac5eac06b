"""Task types: one file each, from columns to scores."""

from .base import RowError, Task, TaskOutput
from .dependency_parsing import DependencyParsing
from .intent_slots import IntentSlots
from .multiple_choice import MultipleChoice
from .question_answering import QuestionAnswering
from .registry import TASK_TYPES, register_task, task_class, task_from_dict
from .relation_extraction import RelationExtraction
from .sentence_embedding import SentenceEmbedding
from .text_classification import TextClassification
from .token_classification import TokenClassification

__all__ = [
    "TASK_TYPES",
    "DependencyParsing",
    "IntentSlots",
    "MultipleChoice",
    "QuestionAnswering",
    "RelationExtraction",
    "RowError",
    "SentenceEmbedding",
    "Task",
    "TaskOutput",
    "TextClassification",
    "TokenClassification",
    "register_task",
    "task_class",
    "task_from_dict",
]
