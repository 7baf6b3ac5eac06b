"""What a saved model consists of beside its weights, on disk and on the Hub: tokenizer, card, remote code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from transformers import PreTrainedModel

from .config import MultiTaskConfig
from .hub import PUSH_OPTIONS, push_folder
from .model_card import render_card, write_card
from .remote_code import write_remote_code

__all__ = ["SavingMixin"]


class SavingMixin(PreTrainedModel):
    """Saving and pushing for a model with a `MultiTaskConfig` and a tokenizer."""

    config: MultiTaskConfig
    tokenizer: Any

    def save_pretrained(
        self, save_directory: Any, is_main_process: bool = True, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves weights (safetensors), config, tokenizer, and the few lines that load them by `trust_remote_code`.

        With `push_to_hub=True` the model goes to the Hub too, as `repo_id` or else by the folder's name.
        """
        hub = {k: kwargs.pop(k) for k in ("repo_id", *PUSH_OPTIONS) if push_to_hub and k in kwargs}
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_remote_code(save_directory)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(save_directory)
            if push_to_hub:
                self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

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
