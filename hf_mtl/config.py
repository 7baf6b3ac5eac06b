"""MultiTaskConfig: the backbone's config, the tasks and the adapters, as config.json keeps them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import AutoConfig

from .remote_code import REMOTE_MODULE
from .tasks import Task, task_from_dict

__all__ = ["MultiTaskConfig", "require_multi_task"]


PIPELINE = "multitask-nlp"


@strict
class MultiTaskConfig(PreTrainedConfig):
    """What a multi-task model is made of. `MultiTaskModel.from_backbone` makes one for you.

    Args:
        text_config: the backbone's config, or its dict.
        tasks: the tasks in their order, as `Task` objects or as their dicts. The order is kept, but nothing depends
            on it: tasks are known by their names.
        adapters: None: all tasks share the whole backbone. Else the fields of a peft config with its `peft_type`.
        task_adapters: the same for tasks that have another one than `adapters` says; None: the task has none, and reads
            the bare backbone.
        sharing: how tasks share adapters: `private`, `shared`, `shared+private`, `mtl-lora` or `poly`.
        sharing_options: of `mtl-lora` and `poly`.
        train_backbone: whether the backbone learns together with the adapters. Without adapters it always does.
        backbone_name: where the backbone came from (a Hub id or a folder), for the model card.
        backbone_revision: the commit that it had there, where it came from the Hub. A checkpoint without its backbone
            is loaded over that one.
        card_data: what else the model card says: `results`, `baselines`, `split`, `datasets`, `recipe`, `license`,
            `language`, as `render_card` takes them. Kept here, so that whoever pushes the model later pushes its card.

        language_model: what the backbone is beside a reader of texts: None, `masked`, `causal` or `seq2seq`.
        mask_token_id: the mask of a `masked` one.
        generation: the backbone's generation settings, of a `causal` or `seq2seq` one.
        backbone_fingerprint: of a checkpoint without its backbone: of the one that it is loaded over.

    Raises:
        ValueError: an unknown task type or field, an unusable or repeated task name.
    """

    model_type = "hf_mtl"
    sub_configs_defaults: ClassVar = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    # Set by the registration: the first config is when AutoModel and pipeline() must know their classes.
    when_made: ClassVar[Callable[[], None] | None] = None

    text_config: dict | PreTrainedConfig | None = None
    tasks: list | None = None
    adapters: dict | None = None
    task_adapters: dict | None = None
    sharing: str = "private"
    sharing_options: dict | None = None
    train_backbone: bool = False
    backbone_name: str | None = None
    backbone_revision: str | None = None
    card_data: dict | None = None
    language_model: str | None = None
    mask_token_id: int | None = None
    generation: dict | None = None
    backbone_fingerprint: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        register, MultiTaskConfig.when_made = MultiTaskConfig.when_made, None
        if register is not None:
            register()
        # transformers asks for trust_remote_code wherever a config names code of its own. This class is that code,
        # imported already, so it does not show the keys; to_dict writes them for those who have not imported it.
        kwargs.pop("custom_pipelines", None)
        kwargs.pop("auto_map", None)
        self.tasks = [as_dict(task) for task in self.tasks or []]
        repeated = [name for name, n in Counter(task["name"] for task in self.tasks).items() if n > 1]
        if repeated:
            raise ValueError(f"Task names must differ; repeated: {repeated}.")
        super().__post_init__(**kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Does nothing: the package is never copied beside a model; what lies there imports it."""

    def get_tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return {task["name"]: task_from_dict(task) for task in self.tasks or []}

    def adapter_of(self, name: str) -> dict[str, Any] | None:
        """The adapter of a task, as the fields of a peft config; None: it has none."""
        return (self.task_adapters or {}).get(name, self.adapters)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values, with the keys that let transformers load it by `trust_remote_code=True`."""
        values = super().to_dict()
        values["auto_map"] = {
            "AutoConfig": f"{REMOTE_MODULE}.MultiTaskConfig",
            "AutoModel": f"{REMOTE_MODULE}.MultiTaskModel",
        }
        values["custom_pipelines"] = {
            PIPELINE: {"impl": f"{REMOTE_MODULE}.MultiTaskPipeline", "pt": ["AutoModel"], "type": "text"}
        }
        return values


def as_dict(task: Task | Mapping[str, Any]) -> dict[str, Any]:
    """A task as its dict, checked."""
    return (task if isinstance(task, Task) else task_from_dict(task)).to_dict()


def require_multi_task(model: Any) -> Any:
    """The model; raises ValueError where it is a plain one, which a pipeline cannot ask."""
    if not isinstance(getattr(model, "config", None), MultiTaskConfig):
        raise ValueError(
            f"The pipeline answers by a MultiTaskModel, got {type(model).__name__}, which has no tasks. Give a trained "
            "one: its folder, its Hub id, or MultiTaskModel.from_pretrained(...)."
        )
    return model
