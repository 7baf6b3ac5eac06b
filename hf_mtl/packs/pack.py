"""The files of a task pack: `task.json`, `head.safetensors`, and the adapter as peft has it."""

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..adapters import ADAPTER_FILES, read_values
from ..hub import fetch_folder
from ..tasks import Task, task_from_dict

__all__ = ["ADAPTER", "TaskPack"]

FORMAT = 1
DESCRIPTION, HEAD, ADAPTER = "task.json", "head.safetensors", "adapter"


@dataclass(frozen=True, kw_only=True)
class TaskPack:
    """What a pack says.

    Args:
        task: with its labels.
        backbone: of the backbone that it belongs to `name`, `revision` (its commit on the Hub, where it is known),
            `model_type` and `fingerprint`.
        adapter: the settings of its adapter, as a model's config keeps them; None: it has none.
        head: the weights of its head.
        card: its part of the model card: `results`, `datasets` and such.
        values: of its adapter, by peft's names.
        source: where it was read from.
    """

    task: Task
    backbone: Mapping[str, Any]
    adapter: Mapping[str, Any] | None
    head: Mapping[str, torch.Tensor]
    card: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    source: str = ""

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes description and head; the adapter's files are peft's business."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        said = {
            "format": FORMAT,
            "task": self.task.to_dict(),
            "backbone": dict(self.backbone),
            "adapter": None if self.adapter is None else dict(self.adapter),
            "card": dict(self.card),
            "versions": {
                name: importlib.metadata.version(name) for name in ("hf_mtl", "transformers", "peft", "torch")
            },
        }
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        Path(folder, DESCRIPTION).write_text(text, encoding="utf-8")
        head = {key: value.detach().cpu().contiguous() for key, value in self.head.items()}
        save_file(head, Path(folder, HEAD), metadata={"format": "pt"})

    @classmethod
    def read(cls, source: str | os.PathLike[str], **hub: Any) -> "TaskPack":
        """A pack out of a folder or a repository of the Hub; `hub` as for `fetch_folder`.

        Raises:
            OSError: there is no such folder or repository, it holds no pack, or a file is damaged.
            ValueError: a newer version made it, or its task is of an unknown type.
        """
        wanted = (DESCRIPTION, HEAD, *(f"{ADAPTER}/{file}" for file in ADAPTER_FILES))
        folder = fetch_folder(source, wanted, **hub)
        if not (folder / DESCRIPTION).is_file():
            raise OSError(
                f"{str(source)!r} is no task pack: it has no {DESCRIPTION}. A pack is made by model.save_task(name, "
                "folder) or model.push_task(name, repo_id); a whole model is loaded by MultiTaskModel.from_pretrained."
            )
        said = _description(folder / DESCRIPTION)
        if said["format"] > FORMAT:
            raise ValueError(
                f"Task pack {str(source)!r} has format {said['format']}, made by hf_mtl {said['versions']['hf_mtl']}; "
                f"this version reads {FORMAT}. Run `pip install -U hf_mtl`."
            )
        return cls(
            task=task_from_dict(said["task"]),
            backbone=said["backbone"],
            adapter=said["adapter"],
            head=_weights(folder / HEAD),
            card=said["card"],
            values={} if said["adapter"] is None else _weights(folder / ADAPTER / ADAPTER_FILES[1]),
            source=os.fspath(source),
        )


def _description(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path} is cut short or damaged ({error}). Copy or download it again.") from error
    if not isinstance(said, dict) or "format" not in said:
        raise OSError(f"{path} is no task pack's: it has no 'format'. A pack is made by model.save_task(name, folder).")
    return said


def _weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise OSError(f"The task pack lacks {path.name}: {path}. Copy or download it again.")
    return read_values(path)
