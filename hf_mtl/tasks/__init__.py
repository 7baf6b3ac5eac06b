"""Task types: one file each, from columns to scores."""

from .base import RowError, Task, TaskOutput
from .dependency_parsing import DependencyParsing
from .fill_mask import FillMask
from .intent_slots import IntentSlots
from .joint_relation_extraction import JointRelationExtraction
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
from .text_generation import TextGeneration
from .text_to_text import Summarization, Text2TextGeneration, Translation
from .token_classification import TokenClassification

__all__ = [
    "TASK_TYPES",
    "DependencyParsing",
    "FillMask",
    "IntentSlots",
    "JointRelationExtraction",
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
    "Summarization",
    "Task",
    "TaskOutput",
    "Text2TextGeneration",
    "TextClassification",
    "TextGeneration",
    "TokenClassification",
    "Translation",
    "register_task",
    "task_class",
    "task_from_dict",
]
