"""Checkpoints of adapters and heads alone, loaded back over the backbone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from test_modeling import batch, build, logits
from test_packs import trained_everywhere
from transformers import AutoModel, pipeline

from hf_mtl import FillMask, MultiTaskConfig, MultiTaskModel, TextClassification

LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4)
DORA = LoraConfig(r=2, target_modules=["query"], use_dora=True)
MOOD = TextClassification(name="mood", labels=("good", "bad"))


@pytest.mark.parametrize(
    ("kind", "adapters", "dtype"),
    [
        ("bert", LORA, torch.float32),
        ("bert", DORA, torch.float32),
        ("gpt2", LORA, torch.float32),
        ("t5", LORA, torch.float32),
        ("bert", LORA, torch.bfloat16),
    ],
)
def test_the_model_comes_back_bit_for_bit(
    kind: str, adapters: Any, dtype: torch.dtype, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = trained_everywhere(build(tiny_backbone(kind), adapters, dtype=dtype))
    inputs = batch(model)
    kept = logits(model, inputs)
    model.save_pretrained(tmp_path, save_backbone=False)
    saved = load_file(tmp_path / "model.safetensors")
    assert all("lora_" in name or name.startswith("heads.") for name in saved)
    assert model.config.backbone_fingerprint is None
    again = AutoModel.from_pretrained(tmp_path)
    found = logits(again, inputs)
    assert isinstance(again, MultiTaskModel) and again.tokenizer is not None
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    again.save_pretrained(tmp_path / "whole")  # all of it again
    whole = logits(MultiTaskModel.from_pretrained(tmp_path / "whole"), inputs)
    assert all(torch.equal(whole[name], kept[name]) for name in kept)


def test_a_pipeline_answers_from_it(tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), LORA, tasks=[MOOD]))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "light", save_backbone=False)
    found = [pipeline("multitask-nlp", model=str(tmp_path / name))("Hello") for name in ("whole", "light")]
    assert found[0] == found[1]


def test_what_of_a_masked_language_model_learns_is_saved_too(tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), LORA, tasks=[MOOD, FillMask(name="fill")]))
    inputs = batch(model)
    model.save_pretrained(tmp_path, save_backbone=False)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert all(torch.equal(logits(again, inputs)[name], value) for name, value in logits(model, inputs).items())


def test_another_backbone_is_refused_and_the_right_one_may_have_moved(tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), LORA, tasks=[MOOD]))
    model.save_pretrained(tmp_path / "light", save_backbone=False)
    other = AutoModel.from_pretrained(tiny_backbone())
    with torch.no_grad():
        other.encoder.layer[0].output.dense.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "other")
    model.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was saved without its backbone.*from_pretrained\(\.\.\., backbone=\.\.\.\)"):
        MultiTaskModel.from_pretrained(tmp_path / "light", backbone=tmp_path / "other")
    moved = Path(tiny_backbone()).rename(tmp_path / "moved")
    try:
        again = MultiTaskModel.from_pretrained(tmp_path / "light", backbone=moved)
    finally:
        moved.rename(tiny_backbone())
    inputs = batch(model)
    assert torch.equal(logits(again, inputs)["mood"], logits(model, inputs)["mood"])


@pytest.mark.parametrize(
    ("adapters", "sharing"), [(LORA, "private"), (LORA, "mtl-lora"), (LoraConfig(init_lora_weights="pissa"), "private")]
)
@pytest.mark.parametrize("of_the_model", [False, True], ids=["the folder's", "the model's"])
def test_a_config_may_be_given_and_have_more_tasks(
    of_the_model: bool, adapters: Any, sharing: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    adapters = copy.deepcopy(adapters)
    adapters.target_modules = "all-linear"
    model = trained_everywhere(build(tiny_backbone(), adapters, tasks=[MOOD], sharing=sharing))
    model.save_pretrained(tmp_path, save_backbone=False)
    config = copy.deepcopy(model.config) if of_the_model else MultiTaskConfig.from_pretrained(tmp_path)
    config.tasks = [*config.tasks, TextClassification(name="new", labels=("a", "b")).to_dict()]
    again, inputs = MultiTaskModel.from_pretrained(tmp_path, config=config), batch(model)
    assert torch.equal(logits(again, inputs)["mood"], logits(model, inputs)["mood"])
    for name, parameter in again.named_parameters():
        if "lora_A.new" in name and sharing == "private" and adapters.init_lora_weights == "pissa":
            assert torch.equal(parameter, again.get_parameter(name.replace(".new.", ".+start.")))
        assert parameter.isfinite().all()


def test_a_backbone_that_learns_cannot_be_left_out(tiny_backbone: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="without adapters it is trained with the tasks"):
        build(tiny_backbone(), None).save_pretrained(tmp_path, save_backbone=False)
    assert not list(tmp_path.iterdir())


def test_a_light_checkpoint_cut_short_is_refused(tiny_backbone: Any, tmp_path: Any) -> None:
    build(tiny_backbone(), LORA).save_pretrained(tmp_path, save_backbone=False)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="cut short or damaged"):
        MultiTaskModel.from_pretrained(tmp_path)
