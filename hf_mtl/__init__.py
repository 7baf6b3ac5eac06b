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
    from .tasks import QuestionAnswering, Task, TextClassification, TokenClassification, register_task
    from .trainer import MultiTaskTrainer
    from .training_args import MultiTaskTrainingArguments

__version__ = "0.1.0"

_WHERE = {
    "MultiTaskConfig": "config",
    "MultiTaskModel": "modeling",
    "MultiTaskOutput": "modeling",
    "MultiTaskPipeline": "pipeline",
    "MultiTaskTrainer": "trainer",
    "MultiTaskTrainingArguments": "training_args",
    "QuestionAnswering": "tasks",
    "Task": "tasks",
    "TextClassification": "tasks",
    "TokenClassification": "tasks",
    "register_task": "tasks",
}

__all__ = [
    "MultiTaskConfig",
    "MultiTaskModel",
    "MultiTaskOutput",
    "MultiTaskPipeline",
    "MultiTaskTrainer",
    "MultiTaskTrainingArguments",
    "QuestionAnswering",
    "Task",
    "TextClassification",
    "TokenClassification",
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
