"""A trainer over two tiny tasks, for the tests of how parameters are trained."""

from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from torch import Tensor

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification, TokenClassification

SIZES = {"intent": 40, "pos": 24}


def lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules="all-linear")


def two_tasks(folder: str, rows: Any, output_dir: Path, adapters: Any = None, **kwargs: Any) -> MultiTaskTrainer:
    """16 steps in two epochs, of two batches each; what is trained with the same arguments is the same to the bit."""
    data = {name: datasets.Dataset.from_list(rows(name, "train", n)) for name, n in SIZES.items()}
    data["intent"] = data["intent"].map(lambda row: {"label": "card" if "card" in row["label"] else "other"})
    tasks = [
        TextClassification.from_dataset("intent", data["intent"]),
        TokenClassification.from_dataset("pos", data["pos"]),
    ]
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 4, "num_train_epochs": 2, "report_to": "none",
        "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "mixing": "uniform",
        "gradient_accumulation_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
    args = MultiTaskTrainingArguments(**(settings | kwargs))
    few = {name: part.select(range(8)) for name, part in data.items()}
    return MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=few)


def weights(trainer: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same to the bit."""
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]
