"""Task types: one file each, from columns to scores."""

from .base import RowError, Task, TaskOutput
from .multiple_choice import MultipleChoice
from .question_answering import QuestionAnswering
from .registry import TASK_TYPES, register_task, task_class, task_from_dict
from .sentence_embedding import SentenceEmbedding
from .text_classification import TextClassification
from .token_classification import TokenClassification

__all__ = [
    "TASK_TYPES",
    "MultipleChoice",
    "QuestionAnswering",
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
