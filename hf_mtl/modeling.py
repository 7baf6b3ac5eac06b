"""MultiTaskModel: one backbone, a head for each task, and an adapter for each task where there are adapters."""

import copy
import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from .adapters import (
    Route,
    adapter_from_dict,
    adapter_parameters,
    adapter_to_dict,
    delete_adapter,
    inject_adapters,
    parameter_counts,
    parameter_table,
    replaying,
    reset_missing,
    use_route,
)
from .backbone import prepare_tokenizer, rows_come_first
from .bundled import locate_backbone
from .config import MultiTaskConfig
from .saving import SavingMixin
from .tasks import Task, TaskOutput
from .tasks.base import nearest, shown
from .tasks.groups import gather_groups

__all__ = ["MultiTaskModel", "MultiTaskOutput"]


@dataclass
class MultiTaskOutput(ModelOutput):
    """What `MultiTaskModel.forward` gives.

    Args:
        loss: `[]`, the sum of the losses of the tasks present, each times its task's weight.
        logits: task -> logits of the rows that are of this task, in their order.
        task_losses: task -> `[]`, the loss before its weight.
    """

    loss: torch.Tensor | None = None
    logits: dict[str, torch.Tensor] | None = None
    task_losses: dict[str, torch.Tensor] | None = None


class MultiTaskModel(SavingMixin, PreTrainedModel):
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
    _keep_in_fp32_modules_strict = ["heads", "lora_A", "lora_B", "lora_magnitude_vector"]  # noqa: RUF012

    def __init__(self, config: MultiTaskConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.tasks: dict[str, Task] = config.get_tasks()
        self.tokenizer: Any = None
        text_config: Any = config.text_config
        self.backbone = _build_backbone(text_config) if backbone is None else backbone
        self._takes = frozenset(inspect.signature(self.backbone.forward).parameters)
        adapters = adapter_from_dict(config.adapters)
        if adapters is not None and self.tasks:
            if backbone is None:
                # Initialisations that read the base weights have nothing to read here; the values are loaded.
                adapters.init_lora_weights = True
            inject_adapters(self.backbone, adapters, list(self.tasks))
        for task in self.tasks.values():
            _check_layer(task, text_config)
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
            adapters: a `peft.LoraConfig`: each task gets such an adapter of its own and the backbone is frozen.
                None: the tasks share the whole backbone, and it is trained.
            revision: branch, tag or commit on the Hub.
            token: Hub token for private repositories.
            cache_dir: where downloads are kept.
            **kwargs: for `AutoModel.from_pretrained`: `dtype` (of the backbone; heads and adapters are float32),
                `attn_implementation`, `device_map`, ...

        Raises:
            ValueError: the backbone, a task or the adapters cannot be used; says which and what would do.
        """
        name = os.fspath(name)
        tasks = _tasks_of(tasks)
        hub: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
        where = locate_backbone(name, **hub)
        device_map = kwargs.pop("device_map", None)
        kwargs.setdefault("dtype", "auto")
        backbone = AutoModel.from_pretrained(where, device_map=device_map, **hub, **kwargs)
        settings: dict[str, Any] = {
            "attn_implementation": backbone.config._attn_implementation,
            "dtype": backbone.dtype,
        }
        config = MultiTaskConfig(
            text_config=copy.deepcopy(backbone.config),
            tasks=tasks,
            adapters=adapter_to_dict(adapters),
            backbone_name=name,
            **settings,
        )
        backbone = _for_tokens(backbone)
        model = cls(config, backbone=backbone)
        model.heads.to(backbone.device)
        model.tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(where, **hub), config.text_config)
        model.eval()
        return model

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads a model and, where it lies beside it, its tokenizer. See `PreTrainedModel.from_pretrained`.

        A `config` with more tasks than the checkpoint gives them fresh heads and adapters.

        Raises:
            OSError: there is no such model, or its weights are cut short or damaged.
        """
        try:
            loaded: Any = super().from_pretrained(name, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights of {str(name)!r} cannot be read: a file is cut short or damaged ({error}). "
                "Copy or download it again."
            ) from error
        model: MultiTaskModel = loaded[0] if kwargs.get("output_loading_info") else loaded
        model._freeze()
        if name is not None:
            hub = {
                k: kwargs[k] for k in ("revision", "token", "cache_dir", "local_files_only", "subfolder") if k in kwargs
            }
            if cached_file(name, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False, **hub):
                model.tokenizer = prepare_tokenizer(
                    AutoTokenizer.from_pretrained(name, **hub), model.config.text_config
                )
        return loaded

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Does nothing: the package is never copied beside a model; what lies there imports it."""

    def initialize_weights(self) -> None:
        """Draws what no checkpoint has filled, adapters by peft's rule."""
        reset_missing(self.backbone)
        super().initialize_weights()

    # ------------------------------------------------------------------ tasks

    def task(self, name: str) -> Task:
        """The task of this name; raises ValueError where there is none."""
        if name not in self.tasks:
            raise ValueError(f"The model has no task {name!r}. {nearest(str(name), self.tasks)}")
        return self.tasks[name]

    def add_task(self, task: Task) -> None:
        """Adds a task with a fresh head and adapter. No other task's answers change by a bit.

        Raises:
            ValueError: the model has a task of this name already, or it is no task.
        """
        _tasks_of(task)
        if task.name in self.tasks:
            raise ValueError(f"The model has a task {task.name!r} already. Remove it first, or take another name.")
        _check_layer(task, self.config.text_config)
        head = task.build_head(self.config.text_config).to(self.device)
        head.apply(self._init_weights)
        adapters = adapter_from_dict(self.config.adapters)
        if adapters is not None:
            training = self.training
            inject_adapters(self.backbone, adapters, [task.name])
            self.backbone.train(training)
        self.heads[task.name] = head.train(self.training)
        self.tasks[task.name] = task
        self.config.tasks = [*(self.config.tasks or []), task.to_dict()]
        self._freeze()

    def replace_task(self, task: Task) -> None:
        """Puts a task in the place of that of its name, whose head and adapter it keeps: for a tuned threshold.

        Raises:
            ValueError: there is no such task, or it needs another head.
        """
        before = self.task(task.name)
        _check_layer(task, self.config.text_config)
        head, kept = task.build_head(self.config.text_config), self.heads[task.name]
        shapes = [{k: v.shape for k, v in module.state_dict().items()} for module in (head, kept)]
        if task.type != before.type or shapes[0] != shapes[1] or task.labels_of_head() != before.labels_of_head():
            raise ValueError(
                f"Task {task.name!r} cannot be replaced: the new one needs another head. Remove it and add the new one."
            )
        for path, parameter in list(kept.named_parameters()):
            module, _, leaf = path.rpartition(".")
            setattr(head.get_submodule(module), leaf, parameter)
        self.heads[task.name] = head.train(kept.training)
        self.tasks[task.name] = task
        self.config.tasks = [task.to_dict() if v["name"] == task.name else v for v in self.config.tasks or []]

    def remove_task(self, name: str) -> None:
        """Takes a task out, with its head, its adapter and its part of the card.

        Raises:
            ValueError: there is no such task, or it is the only one.
        """
        self.task(name)
        if len(self.tasks) == 1:
            raise ValueError(f"{name!r} is the model's only task. Add another one before you remove it.")
        del self.heads[name], self.tasks[name]
        if self.config.adapters is not None:
            delete_adapter(self.backbone, name)
        self.config.tasks = [values for values in self.config.tasks or [] if values["name"] != name]
        for part in (self.config.card_data or {}).values():
            if isinstance(part, dict):
                part.pop(name, None)
        self._freeze()  # taking an adapter out, peft freezes the others

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        tasks: Sequence[str] | None = None,
        task_ids: torch.Tensor | None = None,
        word_positions: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        row_groups: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        labels: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> MultiTaskOutput:
        """Logits, and with `labels` the loss, of some tasks.

        Args:
            input_ids: `[batch, seq]`.
            attention_mask: `[batch, seq]`, 1 for real tokens; padding may be on either side.
            token_type_ids: `[batch, seq]`, for backbones that know them.
            inputs_embeds: `[batch, seq, width]`, in place of `input_ids`.
            tasks: names: every row is answered by each of these tasks. All tasks where neither this nor `task_ids`
                is given.
            task_ids: `[batch]`: each row is answered by one task, numbered in the order of `config.tasks`.
            word_positions: `[batch, words]`, for tasks that read words: which subwords their heads see, -1 where
                there are no more. A tensor when only one task is asked, else task -> those of this task's rows.
                Where it is not given such a head sees every subword.
            row_groups: `[examples, inputs]`, for tasks whose examples have several inputs each: which of the task's
                rows they are, -1 where there are no more; said as `word_positions` are.
            labels: a tensor when only one task is asked, else task -> the labels of this task's rows.
            **kwargs: more of the backbone's inputs. Hidden states are had from `encode`.

        Raises:
            ValueError: an unknown task, both `tasks` and `task_ids`, or labels, positions or groups that do not say
                whose they are.
        """
        _check_names(kwargs, self._takes)
        for name in {"output_hidden_states", "output_attentions", "return_dict"} & kwargs.keys():
            if kwargs.pop(name) not in (None, name == "return_dict"):
                raise ValueError(f"forward gives logits and losses, not {name}: ask model.encode, or model.backbone.")
        tasks = [tasks] if isinstance(tasks, str) else tasks
        first = inputs_embeds if inputs_embeds is not None else input_ids
        if first is None:
            raise ValueError("forward needs input_ids, or inputs_embeds in their place; both are None.")
        if attention_mask is None:
            attention_mask = torch.ones(first.shape[:2], dtype=torch.long, device=first.device)
        inputs = {
            "input_ids": input_ids,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
        } | kwargs
        if task_ids is None:
            names = list(self.tasks) if tasks is None else [self.task(name).name for name in tasks]
            seen = self._every_row_by_each(names, attention_mask, inputs)
        elif tasks is None:
            seen = self._each_row_by_its_own(task_ids, attention_mask, inputs)
        else:
            raise ValueError("Give `tasks` (each answers every row) or `task_ids` (one task a row), not both.")
        gold = _of_tasks("labels", labels, list(seen))
        places = _of_tasks("word_positions", word_positions, list(seen))
        groups = _of_tasks("row_groups", row_groups, list(seen))
        outputs = {
            name: self.head(name, *states, labels=gold.get(name), positions=places.get(name), groups=groups.get(name))
            for name, states in seen.items()
        }
        losses = {name: output.loss for name, output in outputs.items() if output.loss is not None}
        loss = torch.stack([losses[name] * self.tasks[name].weight for name in losses]).sum() if losses else None
        return MultiTaskOutput(
            loss=loss,
            logits={name: output.logits for name, output in outputs.items()},
            task_losses=losses or None,
        )

    def encode(
        self,
        names: Sequence[str],
        attention_mask: torch.Tensor,
        index: torch.Tensor | None = None,
        **inputs: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Hidden states `[batch, seq, width]` for the heads of these tasks: all layers' where one reads an inner layer.

        Args:
            names: the tasks whose adapters the rows go through.
            attention_mask: `[batch, seq]`.
            index: `[batch]` which of `names` each row belongs to; None where there is one name, or no adapters.
            **inputs: the backbone's other inputs.
        """
        deep = any(self.tasks[name].layer != -1 for name in names)
        given = {k: v for k, v in inputs.items() if v is not None and (k != "token_type_ids" or k in self._takes)}
        route = None if self.config.adapters is None else Route(names, index)
        with use_route(route):
            output = self.backbone(attention_mask=attention_mask, output_hidden_states=deep, return_dict=True, **given)
        return (*(output.hidden_states or ())[:-1], output.last_hidden_state)

    def head(
        self,
        name: str,
        states: tuple[torch.Tensor, ...],
        mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        groups: torch.Tensor | None = None,
    ) -> TaskOutput:
        """One task's head on what `encode` gave, or on the subwords at `positions` of it. See `forward`."""
        hidden = states[self.tasks[name].layer]
        if self.tasks[name].grouped:
            if groups is None:
                raise ValueError(
                    f"Task {name!r} answers examples of several inputs: give row_groups, which rows each example has."
                )
            hidden, mask = gather_groups(hidden, mask, groups.to(hidden.device))
        if positions is not None and self.tasks[name].per_word:
            positions = positions.to(hidden.device)
            mask = (positions >= 0).to(mask.dtype)
            hidden = hidden.gather(1, positions.clamp(min=0).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return self.heads[name](hidden, mask, labels)

    def _every_row_by_each(
        self, names: list[str], mask: torch.Tensor, inputs: dict[str, Any]
    ) -> dict[str, tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        if self.config.adapters is None:
            states = self.encode(names, mask, **inputs)
            return dict.fromkeys(names, (states, mask))
        return {name: (self.encode([name], mask, **inputs), mask) for name in names}

    def _each_row_by_its_own(
        self, task_ids: torch.Tensor, mask: torch.Tensor, inputs: dict[str, Any]
    ) -> dict[str, tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        present, index = torch.unique(task_ids, return_inverse=True)
        known = list(self.tasks)
        numbers = present.tolist()
        if numbers[0] < 0 or numbers[-1] >= len(known):
            raise ValueError(f"task_ids must lie in 0 to {len(known) - 1} (tasks {known}), got {numbers}.")
        names = [known[k] for k in numbers]
        if len(names) > 1 and self.config.adapters is not None and not rows_come_first(self.config.text_config):
            rows = {n: torch.nonzero(index == k).squeeze(1) for k, n in enumerate(names)}
            parts = {n: {k: v if v is None else v[r] for k, v in inputs.items()} for n, r in rows.items()}
            return {n: (self.encode([n], mask[r], **parts[n]), mask[r]) for n, r in rows.items()}
        states = self.encode(names, mask, index, **inputs)
        if len(names) == 1:
            return {names[0]: (states, mask)}
        chosen = [torch.nonzero(index == k).squeeze(1) for k in range(len(names))]
        return {n: (tuple(s[r] for s in states), mask[r]) for n, r in zip(names, chosen, strict=True)}

    # ------------------------------------------------------------------ training

    def _freeze(self) -> None:
        """With adapters only they and the heads learn. Loading makes every parameter trainable, so it is said anew."""
        if self.config.adapters is not None:
            self.backbone.requires_grad_(False)
            for name in self.tasks:
                for parameter in adapter_parameters(self.backbone, name):
                    parameter.requires_grad = True

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


def _build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    return _for_tokens(AutoModel.from_config(config))


def _for_tokens(model: PreTrainedModel) -> PreTrainedModel:
    """The part that gives the text's hidden states: an encoder-decoder's encoder; no pooler, which no head reads."""
    backbone = model.get_encoder() if model.config.is_encoder_decoder else model
    if "pooler" in dict(backbone.named_children()):
        backbone.pooler = None
    return backbone


def _check_layer(task: Task, config: Any) -> None:
    states = config.num_hidden_layers + 1
    if not -states <= task.layer < states:
        raise ValueError(
            f"Task {task.name!r}: layer={task.layer}, but the backbone has hidden states 0 to {states - 1}."
        )


def _tasks_of(value: Any) -> list[Task]:
    tasks = [value] if isinstance(value, Task) else list(value)
    for task in tasks:
        if not isinstance(task, Task):
            raise ValueError(f"tasks must hold tasks, such as TextClassification(name=...), got {shown(task)}.")
    if not tasks:
        raise ValueError("tasks is empty: a model needs one task or more. More are added by add_task.")
    return tasks


def _check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """A slip of the pen (`task=`) would go to the backbone, which takes anything, and be lost there."""
    own = [name for name in inspect.signature(MultiTaskModel.forward).parameters if name not in ("self", "kwargs")]
    for name in set(given) - set(known) - {"return_dict"}:
        if close := difflib.get_close_matches(name, own, n=1, cutoff=0.8):
            raise ValueError(f"forward has no argument {name!r}. Did you mean {close[0]!r}?")


def _of_tasks(
    what: str, values: torch.Tensor | Mapping[str, torch.Tensor] | None, names: list[str]
) -> Mapping[str, torch.Tensor]:
    if values is None:
        return {}
    if isinstance(values, Mapping):
        for name in values:
            if name not in names:
                raise ValueError(f"{what} has {name!r}, which the batch does not ask. {nearest(str(name), names)}")
        return values
    if len(names) != 1:
        raise ValueError(f"The batch asks tasks {names}: give {what} as a dict task -> tensor, not as one tensor.")
    return {names[0]: values}
