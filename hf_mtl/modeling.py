"""MultiTaskModel: one backbone, a head for each task, and an adapter for each task where there are adapters."""

import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers import initialization as init

from .adapters import (
    KEPT_IN_32_BITS,
    from_layer,
    known_sharing,
    parameter_counts,
    parameter_table,
    replaying,
    reset_missing,
)
from .backbone import prepare_tokenizer, warn_of_lengths
from .bundled import find_backbone
from .config import MultiTaskConfig
from .export import ExportMixin
from .forwarding import ForwardMixin, MultiTaskOutput
from .generation import generation_values
from .language_model import auto_class, kind_needed, text_part
from .loading import LoadingMixin, for_tasks
from .packs import PacksMixin
from .saving import SavingMixin
from .task_life import TaskLifeMixin, adapter_settings, check_layer, tasks_of
from .task_start import TaskStartMixin
from .tasks import Task
from .tasks.starting_bias import StartingBias

__all__ = ["MultiTaskModel", "MultiTaskOutput"]


class MultiTaskModel(
    ForwardMixin, TaskLifeMixin, TaskStartMixin, PacksMixin, ExportMixin, LoadingMixin, SavingMixin, PreTrainedModel
):
    """A pretrained backbone with a head, and if wanted an adapter, for each of many tasks.

    Made by `from_backbone`, saved by `save_pretrained`, loaded by `from_pretrained`. With adapters the backbone is
    frozen, and adapters and heads learn; without, everything learns.
    """

    config: MultiTaskConfig
    config_class = MultiTaskConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    # What the backbone supports it checks itself, when it is built with the same setting.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # On a backbone of 16 bits what learns stays in 32: small steps would be lost in 8 or 11 bits of mantissa.
    _keep_in_fp32_modules_strict = ["heads", *KEPT_IN_32_BITS]  # noqa: RUF012

    def __init__(self, config: MultiTaskConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.tasks: dict[str, Task] = config.get_tasks()
        self.tokenizer: Any = None
        text_config: Any = config.text_config
        self.backbone = _build_backbone(config) if backbone is None else backbone
        read = text_part(self.backbone, config.language_model)
        self._takes = frozenset(inspect.signature(read.forward).parameters)
        self._inject(self.tasks.values(), loading=backbone is None)
        for task in self.tasks.values():
            check_layer(task, text_config)
        self.heads = nn.ModuleDict({name: task.build_head(text_config) for name, task in self.tasks.items()})
        self.post_init()
        self._freeze()

    # ------------------------------------------------------------------ making, loading, saving

    @classmethod
    def from_backbone(
        cls,
        name: str | os.PathLike[str],
        tasks: Iterable[Task],
        adapters: Any = None,
        *,
        sharing: str = "private",
        sharing_options: dict[str, Any] | None = None,
        first_layer: int = 0,
        train_backbone: bool = False,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> "MultiTaskModel":
        """A new multi-task model over a pretrained backbone.

        Args:
            name: Hub id or folder of an encoder, a decoder or an encoder-decoder (whose encoder is taken). Where the
                Hub cannot be reached, all-MiniLM-L6-v2 comes from the package of extra `quickstart`.
            tasks: the tasks, with their labels known.
            adapters: a `peft.LoraConfig` or `IA3Config`: each task gets such an adapter of its own and the backbone is
                frozen; or a dict task -> its config, all of one kind. None: the tasks share the whole backbone,
                and it is trained.
            sharing: `private`: an adapter for each task; `shared`: one for all; `shared+private`: both, added up;
                `mtl-lora`: one whose inside and whose mix of outputs are each task's; `poly`: an inventory of skills,
                of which each task takes its own mix.
            sharing_options: `{"ups": 3, "temperature": 0.5}` of `mtl-lora`, `{"skills": 8}` of `poly`.
            first_layer: the lowest layer with adapters. Those below, the trunk, are computed once for all tasks. In an
                encoder-decoder that writes, of both, each by its own count.
            train_backbone: the backbone learns too, together with the adapters.
            revision: branch, tag or commit on the Hub.
            token: Hub token for private repositories.
            cache_dir: where downloads are kept.
            **kwargs: for `AutoModel.from_pretrained`: `dtype` (of the backbone; heads and adapters are float32),
                `attn_implementation`, `device_map`, ...

        Raises:
            ValueError: the backbone, a task or the adapters cannot be used; says which and what would do.
        """
        name = os.fspath(name)
        tasks = tasks_of(tasks)
        hub: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
        found = find_backbone(name, **hub)
        where = found.where
        device_map = kwargs.pop("device_map", None)
        kwargs.setdefault("dtype", "auto")
        kind = kind_needed(tasks, AutoConfig.from_pretrained(where, **hub))
        backbone = auto_class(kind).from_pretrained(where, device_map=device_map, **hub, **kwargs)
        settings: dict[str, Any] = {
            "attn_implementation": backbone.config._attn_implementation,
            "dtype": backbone.dtype,
        }
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(where, **hub), backbone.config, tasks)
        warn_of_lengths(tokenizer, backbone.config, tasks)
        part: Any = text_part(backbone, kind)
        sharing = known_sharing(sharing, sharing_options, adapters)
        decoder = backbone.get_decoder() if kind == "seq2seq" else None
        adapters = from_layer(adapters, first_layer, part, backbone.config.num_hidden_layers, decoder)
        config = MultiTaskConfig(
            text_config=copy.deepcopy(backbone.config),
            tasks=tasks,
            **adapter_settings(adapters, tasks),
            sharing=sharing,
            sharing_options=sharing_options,
            train_backbone=train_backbone,
            backbone_name=name,
            backbone_revision=found.commit,
            language_model=kind,
            mask_token_id=tokenizer.mask_token_id if kind == "masked" else None,
            generation=generation_values(backbone, kind),
            **settings,
        )
        backbone = for_tasks(backbone, kind)
        model = cls(config, backbone=backbone)
        model.heads.to(backbone.device)
        model.tokenizer = tokenizer
        model.eval()
        return model

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Does nothing: the package is never copied beside a model; what lies there imports it."""

    def initialize_weights(self) -> None:
        """Draws what no checkpoint has filled, adapters by peft's rule."""
        reset_missing(self.backbone)
        super().initialize_weights()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StartingBias) and module.bias is not None:
            # Out of a file's reach, which `init` knows: only a bias that no checkpoint has filled.
            init.copy_(module.bias, module.bias.new_tensor(module.start))

    # ------------------------------------------------------------------ training

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **kwargs: Any
    ) -> None:
        super()._set_gradient_checkpointing(enable, replaying(gradient_checkpointing_func), **kwargs)

    def parameter_counts(self) -> dict[str, dict[str, int]]:
        """`backbone` -> {`all`, `trainable`}, without its adapters; each task -> {`head`, `adapter`, `trainable`}."""
        return parameter_counts(self.backbone, self.heads)

    def print_trainable_parameters(self) -> None:
        """Prints the parameters of the backbone, and of each task its head's and its adapter's."""
        sys.stdout.write(parameter_table(self.parameter_counts()) + "\n")


def _build_backbone(config: MultiTaskConfig) -> PreTrainedModel:
    backbone = auto_class(config.language_model).from_config(config.text_config)
    if config.generation is not None:
        backbone.generation_config = GenerationConfig.from_dict(dict(config.generation))
    return for_tasks(backbone, config.language_model)
