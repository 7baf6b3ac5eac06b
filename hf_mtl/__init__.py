"""Many NLP tasks on one pretrained backbone: a transformers extension.

Importing the package registers its config, model and pipeline with transformers. Its own modules are imported only
when something of them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import auto

if TYPE_CHECKING:
    from .config import MultiTaskConfig
    from .modeling import MultiTaskModel, MultiTaskOutput
    from .pipeline import MultiTaskPipeline
    from .tasks import (
        DependencyParsing,
        FillMask,
        IntentSlots,
        JointRelationExtraction,
        Lemmatization,
        MorphologicalTagging,
        MultiLabelClassification,
        MultipleChoice,
        QuestionAnswering,
        Regression,
        RelationExtraction,
        SentenceEmbedding,
        SentenceSimilarity,
        SoftLabelClassification,
        Summarization,
        Task,
        Text2TextGeneration,
        TextClassification,
        TextGeneration,
        TokenClassification,
        Translation,
        register_task,
    )
    from .trainer import MultiTaskTrainer
    from .training_args import MultiTaskTrainingArguments

__version__ = "0.1.0"

_WHERE = {
    "Translation": "tasks",
    "TextGeneration": "tasks",
    "Text2TextGeneration": "tasks",
    "Summarization": "tasks",
    "FillMask": "tasks",
    "DependencyParsing": "tasks",
    "IntentSlots": "tasks",
    "JointRelationExtraction": "tasks",
    "Lemmatization": "tasks",
    "MorphologicalTagging": "tasks",
    "MultiLabelClassification": "tasks",
    "MultiTaskConfig": "config",
    "MultiTaskModel": "modeling",
    "MultiTaskOutput": "modeling",
    "MultiTaskPipeline": "pipeline",
    "MultiTaskTrainer": "trainer",
    "MultiTaskTrainingArguments": "training_args",
    "MultipleChoice": "tasks",
    "QuestionAnswering": "tasks",
    "Regression": "tasks",
    "RelationExtraction": "tasks",
    "SentenceEmbedding": "tasks",
    "SentenceSimilarity": "tasks",
    "SoftLabelClassification": "tasks",
    "Task": "tasks",
    "TextClassification": "tasks",
    "TokenClassification": "tasks",
    "register_task": "tasks",
}

__all__ = [
    "DependencyParsing",
    "FillMask",
    "IntentSlots",
    "JointRelationExtraction",
    "Lemmatization",
    "MorphologicalTagging",
    "MultiLabelClassification",
    "MultiTaskConfig",
    "MultiTaskModel",
    "MultiTaskOutput",
    "MultiTaskPipeline",
    "MultiTaskTrainer",
    "MultiTaskTrainingArguments",
    "MultipleChoice",
    "QuestionAnswering",
    "Regression",
    "RelationExtraction",
    "SentenceEmbedding",
    "SentenceSimilarity",
    "SoftLabelClassification",
    "Summarization",
    "Task",
    "Text2TextGeneration",
    "TextClassification",
    "TextGeneration",
    "TokenClassification",
    "Translation",
    "register_task",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


auto.register_on_import()
