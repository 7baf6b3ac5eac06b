"""What a saved model consists of, on disk and on the Hub: weights, all or what learns; tokenizer, card, remote code."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from transformers import PreTrainedModel

from .adapters import bare_parameters, fingerprint
from .config import MultiTaskConfig
from .disk import check_no_file
from .generation import generation_values
from .hub import PUSH_OPTIONS, push_folder
from .model_card import render_card, write_card
from .remote_code import write_remote_code
from .whole_files import written_whole

__all__ = ["SavingMixin"]


class SavingMixin(PreTrainedModel):
    """Saving and pushing for a model with a `MultiTaskConfig` and a tokenizer."""

    config: MultiTaskConfig
    backbone: PreTrainedModel
    tokenizer: Any
    # What `save_pretrained` does where it is not told.
    save_backbone = True

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        *,
        save_backbone: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves weights (safetensors), config, tokenizer, and the few lines that load them by `trust_remote_code`.

        In a folder that is written again each file is the old one or the new one, whenever the process is killed.
        With `push_to_hub=True` the model goes to the Hub too, as `repo_id` or else by the folder's name.

        Args:
            save_directory: the folder.
            is_main_process: whether this process writes what is no weight.
            push_to_hub: whether it goes to the Hub.
            save_backbone: False: only what learns, adapters and heads, is saved. `from_pretrained` loads it over the
                pretrained backbone, whose fingerprint it checks. None: as the attribute `save_backbone` says.
            **kwargs: as for `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: `save_backbone=False` of a model whose backbone learns.
            OSError: there is a file where the folder is to be.
        """
        check_no_file("save_directory", save_directory)
        hub = {k: kwargs.pop(k) for k in ("repo_id", *PUSH_OPTIONS) if push_to_hub and k in kwargs}
        if any(parameter.is_meta for parameter in self.parameters()):
            raise ValueError(
                "Some weights are offloaded by device_map, and cannot be saved from there. Load the model without it."
            )
        self.config.generation = generation_values(self.backbone, self.config.language_model)
        # A distributed checkpoint is written by all processes, into the one folder that they all know.
        alone = is_main_process and not kwargs.get("distributed_checkpoint")
        with written_whole(save_directory) if alone else nullcontext(save_directory) as folder:
            if save_backbone if save_backbone is not None else self.save_backbone:
                super().save_pretrained(folder, is_main_process=is_main_process, **kwargs)
            else:
                self._save_without_backbone(folder, is_main_process, kwargs)
            if is_main_process:
                write_remote_code(folder)
                if self.tokenizer is not None:
                    self.tokenizer.save_pretrained(folder)
        if is_main_process and push_to_hub:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    def _save_without_backbone(self, folder: Any, is_main_process: bool, kwargs: dict[str, Any]) -> None:
        if self.config.adapters is None:
            raise ValueError(
                "save_backbone=False leaves out the backbone, and without adapters it is trained with the tasks: "
                "save all of the model, or train with adapters=LoraConfig(...)."
            )
        if self.config.train_backbone:
            raise ValueError(
                "save_backbone=False leaves out the backbone, which train_backbone=True trains: save all of the model."
            )
        left_out = {id(p) for _, p in bare_parameters(self.backbone) if not p.requires_grad}
        names = {name for name, p in self.named_parameters(remove_duplicate=False) if id(p) in left_out}
        values = kwargs.pop("state_dict", None) or self.state_dict()
        kept = {name: value for name, value in values.items() if name not in names}
        self.config.backbone_fingerprint = self.fingerprint_without(kept)
        try:
            super().save_pretrained(folder, is_main_process=is_main_process, state_dict=kept, **kwargs)
        finally:
            self.config.backbone_fingerprint = None

    def fingerprint_without(self, names: Iterable[str]) -> str:
        """The fingerprint of what the backbone has beside these parameters of the model."""
        names = set(names)
        given = {id(p) for name, p in self.named_parameters(remove_duplicate=False) if name in names}
        without = {name for name, p in bare_parameters(self.backbone) if id(p) in given}
        return fingerprint(self.backbone, without)

    def card(self, model_id: str | None = None) -> ModelCard:
        """The model card, out of the config and its `card_data`."""
        return render_card(self.config, model_id=model_id, **(self.config.card_data or {}))

    def push_to_hub(self, repo_id: str, *, tags: Sequence[str] = (), **kwargs: Any) -> CommitInfo:
        """Uploads the model, its tokenizer and its card in one commit.

        Args:
            repo_id: `user/name`, or a name in the token's own account. Made if it is not there.
            tags: more tags for the card.
            **kwargs: `commit_message`, `commit_description`, `private`, `token`, `revision` (a branch, made if it is
                not there), `create_pr`; anything else is for `save_pretrained`.

        Returns:
            The commit.
        """
        hub = {k: kwargs.pop(k) for k in PUSH_OPTIONS if k in kwargs}

        def write(folder: str, model_id: str) -> None:
            self.save_pretrained(folder, **kwargs)
            data = dict(self.config.card_data or {})
            data["tags"] = [*data.get("tags", ()), *tags]
            write_card(folder, render_card(self.config, model_id=model_id, **data))

        return push_folder(repo_id, write, **hub)
