"""PiSSA and OLoRA where they meet other kinds of layers, of numbers and of adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_adapters import model_of, tasks
from transformers import AutoModel

from hf_mtl import MultiTaskModel, TextClassification
from hf_mtl.adapters import RoutedLinear

NEW = TextClassification(name="e", labels=["no", "yes"])


def started(folder: str, init: str, **kwargs: Any) -> MultiTaskModel:
    rank = kwargs.pop("r", 4)
    lora = LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=init)
    return MultiTaskModel.from_backbone(folder, tasks(), adapters=lora, **kwargs)


@pytest.mark.parametrize("init", ["olora", "pissa"])
def test_transposed_layers_start_from_their_weight_too(init: str, tiny_backbone: Any) -> None:
    for module in started(tiny_backbone("gpt2"), init).modules():
        if isinstance(module, RoutedLinear):
            base: Any = module.base_layer
            weight = base.weight.detach().numpy().T  # Conv1D's
            if init == "olora":
                q, r = np.linalg.qr(weight)
                wanted = q[:, :4] @ r[:4]
            else:
                left, values, right = np.linalg.svd(weight, full_matrices=False)
                wanted = left[:, :4] * values[:4] @ right[:4] / module.scaling["a"]
            found = module.lora_B["a"].weight @ module.lora_A["a"].weight
            np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("init", ["olora", "pissa"])
def test_on_16_bits_tasks_start_where_all_do_to_the_bit(init: str, tiny_backbone: Any) -> None:
    model = started(tiny_backbone(), init, dtype=torch.bfloat16)
    model.add_task(NEW)
    for module in model.modules():
        if isinstance(module, RoutedLinear):
            for name in ("a", "d", "e"):
                assert torch.equal(module.lora_A[name].weight, module.lora_A["+start"].weight)
                assert torch.equal(module.lora_B[name].weight, module.lora_B["+start"].weight)


def test_a_rank_above_a_layers_is_refused(tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=r"'pissa' with r=48.*no more than 32 components"):
        started(tiny_backbone(), "pissa", r=48)


def test_one_task_cannot_start_from_the_base_weights_alone(tiny_backbone: Any) -> None:
    model = model_of(tiny_backbone())
    with pytest.raises(ValueError, match="'e' cannot have init_lora_weights='olora' alone"):
        model.add_task(NEW, adapter=LoraConfig(target_modules="all-linear", init_lora_weights="olora"))
    assert "e" not in model.tasks


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
def test_pefts_own_adapter_of_a_changed_backbone_is_refused(tiny_backbone: Any, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=["query"], init_lora_weights="pissa")
    get_peft_model(AutoModel.from_pretrained(tiny_backbone()), lora).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'pissa'.*path_initial_model_for_weight_conversion"):
        model_of(tiny_backbone()).attach_adapter("a", tmp_path)
