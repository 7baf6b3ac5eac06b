"""Tasks that come and go as packs: saved, pushed, loaded, and whole models made of them."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import Self

from ..adapters import (
    adapter_from_dict,
    adapter_name,
    adapter_tensors,
    adapter_to_dict,
    check_may_have_own,
    fill_adapter,
    fingerprint,
    read_adapter,
    save_adapter,
    written_settings,
)
from ..bundled import find_backbone
from ..config import MultiTaskConfig
from ..disk import check_no_file
from ..hub import PUSH_OPTIONS, fetch_folder, push_folder
from ..language_model import text_part
from ..model_card import write_card
from ..tasks import Task
from ..whole_files import written_whole
from .card import pack_card
from .pack import ADAPTER, TaskPack

__all__ = ["PacksMixin"]

Source = str | os.PathLike[str]


class PacksMixin(PreTrainedModel):
    """The part of a `MultiTaskModel` that deals in packs."""

    config: MultiTaskConfig
    tasks: dict[str, Task]
    heads: nn.ModuleDict
    backbone: PreTrainedModel
    task: Callable[[str], Task]
    add_task: Callable[..., None]
    remove_task: Callable[[str], None]
    from_backbone: Callable[..., Any]
    _add: Callable[[Task, Mapping[str, Any] | None, bool], None]
    _part: Callable[[Task], PreTrainedModel]
    _set_adapter: Callable[[str, Mapping[str, Any] | None, bool], None]

    # ------------------------------------------------------------------ out

    def save_task(
        self, name: str, folder: Source, *, model_id: str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Writes a task as a pack: `task.json`, `head.safetensors`, `adapter/` in peft's format, and a card.

        In a folder that is written again each file is the old one or the new one, whenever the process is killed.

        Args:
            name: the task's.
            folder: made where it is not there.
            model_id: the pack's id on the Hub, for the card.
            dtype: of the weights in the files, such as `torch.float16`, which halves them; None: as they are, so that
                answers are the same to the bit.

        Raises:
            ValueError: there is no such task, or its answers come from weights that are the whole model's.
            OSError: there is a file where the folder is to be.
        """
        check_no_file("folder", folder)
        task = self.task(name)
        if task.language_model == "masked":
            raise ValueError(
                f"Task {name!r} ({task.type}) is answered by the backbone's head of a masked language model, which is "
                "trained with the model and is all such tasks'. Save the whole model: model.save_pretrained(folder)."
            )
        base = self.config.backbone_name or self.config.text_config.model_type  # type: ignore[union-attr]
        settings, held = self.config.adapter_of(name), adapter_name(self.config, name)
        if settings is not None:
            lora: Any = adapter_from_dict(settings)
            lora = written_settings(self._part(task), held, lora)
            settings = adapter_to_dict(lora)
        pack = TaskPack(
            task=task,
            backbone={
                "name": base,
                "revision": self.config.backbone_revision,
                "model_type": self.config.text_config.model_type,  # type: ignore[union-attr]
                "fingerprint": self.backbone_fingerprint(name),
            },
            adapter=settings,
            head={key: value.to(dtype or value.dtype) for key, value in self.heads[name].state_dict().items()},
            card=self._card_of(name),
        )
        with written_whole(folder) as aside:
            pack.write(aside)
            if settings is not None:
                save_adapter(self._part(task), held, lora, aside / ADAPTER, base, dtype)
            write_card(aside, pack_card(pack, model_id))

    def push_task(self, name: str, repo_id: str, *, dtype: torch.dtype | None = None, **hub: Any) -> CommitInfo:
        """Uploads a task as a pack in one commit.

        Args:
            name: the task's.
            repo_id: `user/name`, or a name in the token's own account. Made if it is not there.
            dtype: as for `save_task`.
            **hub: `commit_message`, `commit_description`, `private`, `token`, `revision`, `create_pr`.

        Returns:
            The commit.
        """
        for option in hub:
            if option not in PUSH_OPTIONS:
                raise ValueError(f"push_task has no option {option!r}. Known: {list(PUSH_OPTIONS)}.")
        hub.setdefault("commit_message", f"Upload task {name}")

        def write(folder: str, model_id: str) -> None:
            self.save_task(name, folder, model_id=model_id, dtype=dtype)

        return push_folder(repo_id, write, **hub)

    def backbone_fingerprint(self, name: str) -> str:
        """The fingerprint of what a task runs through beside its own weights: all of the backbone that it reads."""
        return self._fingerprint(self.task(name))

    def _fingerprint(self, task: Task) -> str:
        read = text_part(self.backbone, self.config.language_model)
        return fingerprint(read if task.language_model is None else self.backbone)

    def _card_of(self, name: str) -> dict[str, Any]:
        """A task's part of the card."""
        found: dict[str, Any] = {}
        for key, value in (self.config.card_data or {}).items():
            if isinstance(value, Mapping):
                found |= {key: {name: value[name]}} if name in value else {}
            elif key in ("split", "license", "language"):
                found[key] = value
        return found

    # ------------------------------------------------------------------ in

    def load_task(self, source: Source, name: str | None = None, **hub: Any) -> Task:
        """Adds the task of a pack. No other task's answers change by a bit.

        Args:
            source: a folder, or a repository of the Hub.
            name: what the task is called here; None: as in the pack.
            **hub: `revision`, `token`, `cache_dir`.

        Returns:
            The task.

        Raises:
            OSError: there is no such pack.
            ValueError: the pack belongs to another backbone, or the model has a task of this name.
        """
        pack = TaskPack.read(source, **hub)
        check_may_have_own(self.config, name or pack.task.name, pack.adapter)
        task = dataclasses.replace(pack.task, name=name or pack.task.name)
        if pack.adapter is not None and self.config.adapters is None:
            raise ValueError(
                f"Task pack {pack.source!r} has an adapter, and this model's tasks share all of the backbone, which is "
                "trained with them. Load it into a model made by from_backbone(..., adapters=LoraConfig(...)), or by "
                "MultiTaskModel.from_tasks([...])."
            )
        if task.language_model in (None, self.config.language_model):  # of another kind _add has more to say
            self._check_backbone(task, pack)
        self._add(task, pack.adapter, True)
        try:
            self._fill(task.name, pack)
        except (ValueError, RuntimeError):
            self.remove_task(task.name)
            raise
        return task

    @classmethod
    def from_tasks(
        cls, sources: Iterable[Source] | Mapping[str, Source], backbone: Source | None = None, **kwargs: Any
    ) -> Self:
        """A model made of packs over the backbone that they belong to.

        Args:
            sources: folders or repositories of the Hub; or a dict task name -> such a one.
            backbone: where the backbone is, if not where the packs say.
            **kwargs: `token` and `cache_dir`, and what else `from_backbone` takes: `revision`, if the backbone is to be
                at another than the commit that the first pack was made on.

        Raises:
            OSError: there is no such pack.
            ValueError: the packs belong to different backbones, or two tasks have one name.
        """
        given = sources if isinstance(sources, Mapping) else {str(i): source for i, source in enumerate(sources)}
        hub = {key: kwargs[key] for key in ("token", "cache_dir") if key in kwargs}
        packs: dict[str, TaskPack] = {}
        for key, source in given.items():
            pack = TaskPack.read(source, **hub)
            name = key if isinstance(sources, Mapping) else pack.task.name
            if name in packs:
                raise ValueError(
                    f"Task packs {packs[name].source!r} and {pack.source!r} both have a task {name!r}. Name them: "
                    "from_tasks({'one': ..., 'other': ...})."
                )
            packs[name] = dataclasses.replace(pack, task=dataclasses.replace(pack.task, name=name))
        if not packs:
            raise ValueError("from_tasks needs one task pack or more, got none.")
        own = next(iter(packs.values())).backbone
        where = os.fspath(backbone or own["name"])
        if where == own["name"] and own.get("revision") is not None and "revision" not in kwargs:
            # By what is here, where the Hub is out of reach: the packs' fingerprints are compared below.
            kwargs["revision"] = find_backbone(where, revision=own["revision"], checked=True, **hub).commit
        adapters = {name: adapter_from_dict(pack.adapter) for name, pack in packs.items()}  # type: ignore[arg-type]
        model: Any = cls.from_backbone(
            where,
            [pack.task for pack in packs.values()],
            adapters=adapters if any(adapters.values()) else None,
            **kwargs,
        )
        for name, pack in packs.items():
            model._check_backbone(pack.task, pack)
            model._fill(name, pack)
        return model

    def attach_adapter(self, name: str, source: Source, **hub: Any) -> None:
        """Puts an adapter that plain peft made in the place of a task's own. Its head stays.

        Args:
            name: the task's.
            source: a folder or a repository with `adapter_config.json` and `adapter_model.safetensors`.
            **hub: `revision`, `token`, `cache_dir`.

        Raises:
            OSError: there is no such adapter.
            ValueError: the adapter is of another kind than the model's, or for another backbone, or the model has none.
        """
        task = self.task(name)
        check_may_have_own(self.config, name)
        folder = fetch_folder(source, ("adapter_config.json", "adapter_model.safetensors"), **hub)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise OSError(f"{str(source)!r} holds no adapter in peft's format: it has no {file}.")
        part = self._part(task)
        encoder = self.config.text_config.is_encoder_decoder and task.language_model is None  # type: ignore[union-attr]
        settings, values = read_adapter(folder, part, "encoder." if encoder else "")
        before, own = self.config.adapter_of(name), name in (self.config.task_adapters or {})
        kept = {place: values.detach().clone() for place, values in adapter_tensors(self.backbone, name)}
        try:
            self._set_adapter(name, settings, True)
            fill_adapter(part, name, values)
        except Exception:
            self._set_adapter(name, before, own)
            with torch.no_grad():
                for place, parameter in adapter_tensors(self.backbone, name):
                    parameter.copy_(kept[place])
            raise

    def _check_backbone(self, task: Task, pack: TaskPack) -> None:
        own, wanted, config = self._fingerprint(task), pack.backbone, self.config
        if own == wanted["fingerprint"]:
            return
        if pack.adapter is None:
            out = (
                "The pack has no adapter: it goes only into models on just that backbone, which was trained with it if "
                "its model had no adapters."
            )
        elif wanted["name"] == config.backbone_name:
            out = (
                "They have one name and other weights: one was trained with its model (train_backbone), or is another "
                "revision. The pack goes into models on just its backbone."
            )
        else:
            out = f"MultiTaskModel.from_tasks([...]) makes a model on the pack's own backbone, {wanted['name']!r}."
        raise ValueError(
            f"Task pack {pack.source!r} belongs to the backbone {wanted['name']!r} ({wanted['model_type']}, "
            f"fingerprint {wanted['fingerprint']}), and this model is on {config.backbone_name!r} "
            f"({config.text_config.model_type}, fingerprint {own}). {out}"  # type: ignore[union-attr]
        )

    def _fill(self, name: str, pack: TaskPack) -> None:
        """Gives a task, which there is already, the weights of a pack, and its part of the card."""
        if pack.adapter is not None:
            fill_adapter(self._part(self.tasks[name]), name, pack.values)
        self.heads[name].load_state_dict(dict(pack.head))
        card = dict(self.config.card_data or {})
        if card.get("split") in (None, pack.card.get("split")):  # scores of one split stand in one table
            for key, value in pack.card.items():
                if isinstance(value, Mapping):
                    card[key] = {**card.get(key, {}), name: next(iter(value.values()))}
                elif key == "split":
                    card[key] = value
        self.config.card_data = card or None
