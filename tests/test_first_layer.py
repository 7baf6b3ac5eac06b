"""`first_layer` where a model has two stacks of layers: each is counted by itself."""

import copy
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import AutoConfig, AutoModel, AutoTokenizer

from hf_mtl import MultiTaskModel, TextClassification, Translation
from hf_mtl.adapters import RoutedLinear

TOPIC, WRITE = TextClassification(name="topic", labels=("x", "y")), Translation(name="write")
COUNTS = {"t5": ("num_layers", "num_decoder_layers"), "bart": ("encoder_layers", "decoder_layers")}


def uneven(folder: str, kind: str, counts: tuple[int, int], path: Path) -> str:
    """The tiny backbone with other numbers of layers in its encoder and its decoder."""
    config = copy.deepcopy(AutoConfig.from_pretrained(folder))
    for name, count in zip(COUNTS[kind], counts, strict=True):
        setattr(config, name, count)
    AutoModel.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(path)
    return str(path)


def layers_with(model: MultiTaskModel, task: str) -> dict[str, set[int]]:
    """Stack -> the layers in which all linear modules, or none, have a task's adapter: those with it."""
    found: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for path, module in model.backbone.named_modules():
        if isinstance(module, RoutedLinear) and module.has(task):
            number = next(int(piece) for piece in path.split(".") if piece.isdigit())
            found["decoder" if "decoder." in path else "encoder"].add(number)
    return found


@pytest.mark.parametrize(
    ("counts", "first", "encoder", "decoder"),
    [((2, 4), 1, {1}, {1, 2, 3}), ((4, 2), 1, {1, 2, 3}, {1}), ((3, 3), 2, {2}, {2})],
)
@pytest.mark.parametrize("kind", COUNTS)
def test_adapters_begin_at_that_layer_of_both_stacks_and_go_to_the_last_of_each(
    kind: str,
    counts: tuple[int, int],
    first: int,
    encoder: set[int],
    decoder: set[int],
    tiny_backbone: Any,
    tmp_path: Path,
) -> None:
    folder = uneven(tiny_backbone(kind), kind, counts, tmp_path)
    lora = LoraConfig(r=2, target_modules="all-linear")
    model = MultiTaskModel.from_backbone(folder, [TOPIC, WRITE], adapters=lora, first_layer=first)
    assert layers_with(model, "write") == {"encoder": encoder, "decoder": decoder}
    assert layers_with(model, "topic") == {"encoder": encoder, "decoder": set()}
    assert len(model._trunk()) == first
    crossing = {n.rpartition(".")[2] for n, m in model.backbone.named_modules() if isinstance(m, RoutedLinear)}
    assert crossing == ({"q", "k", "v", "o", "wi", "wo"} if kind == "t5" else {
        "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"
    })  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "first", "message"),
    [
        ((2, 4), 2, "first_layer=2, but the encoder has layers 0 to 1"),
        ((4, 2), 3, "first_layer=3, but the decoder has layers 0 to 1, and none of them would have an adapter"),
    ],
)
def test_a_layer_that_one_of_the_stacks_lacks_is_refused(
    counts: tuple[int, int], first: int, message: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    folder = uneven(tiny_backbone("t5"), "t5", counts, tmp_path)
    lora = LoraConfig(r=2, target_modules=["q", "v"])
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(folder, [TOPIC, WRITE], adapters=lora, first_layer=first)
    if counts == (4, 2):  # without a task that writes there is no decoder
        model = MultiTaskModel.from_backbone(folder, [TOPIC], adapters=lora, first_layer=first)
        assert layers_with(model, "topic") == {"encoder": {3}, "decoder": set()}
