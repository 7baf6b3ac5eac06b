"""The card of a task pack: the Hub's metadata as a model's card has it, and how the pack is put to use."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard

from ..config import MultiTaskConfig
from ..model_card import render_card
from ..model_card.markdown import code, fenced, python_literal, table, text
from .pack import TaskPack

__all__ = ["pack_card"]


def pack_card(pack: TaskPack, model_id: str | None = None) -> ModelCard:
    """The README of a pack: task, labels, scores, backbone, and the lines that load it."""
    task, name = pack.task, pack.backbone["name"]
    config = MultiTaskConfig(
        tasks=[task], adapters=None if pack.adapter is None else dict(pack.adapter), backbone_name=name
    )
    header: Any = render_card(config, model_id=model_id, **pack.card).data
    header.library_name = "hf_mtl"
    header.tags = ["task-pack", *header.tags]
    if header.base_model is not None:
        header.base_model_relation = "adapter" if pack.adapter else "finetune"
    scores = pack.card.get("results", {}).get(task.name, {})
    labels = task.to_dict().get("labels")
    facts = {
        "Task": code(task.name),
        "Type": text(task.type),
        "Labels": ", ".join(map(code, labels)) if labels else "",
        "Backbone": code(name),
        "Fingerprint": code(pack.backbone["fingerprint"]),
        "Adapter": _adapter(pack.adapter),
    } | {f"Score: {text(metric)}": f"{value:.4f}" for metric, value in scores.items()}
    facts = {key: value for key, value in facts.items() if value}
    where = python_literal(model_id or "path/to/this/pack")
    code_lines = f"""from hf_mtl import MultiTaskModel

model = MultiTaskModel.from_tasks([{where}])  # and more packs on the same backbone
model.load_task({where})  # or into a model that there is already
"""
    body = [
        f"# {text(model_id.rpartition('/')[2] if model_id else task.name)}",
        "One task for multi-task models of [hf_mtl](https://pypi.org/project/hf_mtl): the weights of its head"
        + (" and of its adapter." if pack.adapter else "."),
        table({"": list(facts), " ": list(facts.values())}),
        "## How to use it",
        fenced(code_lines, "python"),
        "It fits the backbone with this fingerprint alone, which is checked.",
    ]
    if pack.adapter is not None:
        body.append("The folder `adapter` is in peft's format: `PeftModel.from_pretrained(backbone, 'adapter')`.")
    return ModelCard(f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")


def _adapter(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return ""
    return f"LoRA, r = {settings['r']}" if "r" in settings else str(settings["peft_type"])
