"""Lower layers that stay as they are."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import make_tokenizer
from transformers import AutoConfig, AutoModel

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification

TOPIC = TextClassification(name="topic", labels=("x", "y"))
ROWS = [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(["I lost my card", "a card", "lost", "my"])]
KINDS = ["bert", "roberta", "distilbert", "mpnet", "electra", "modernbert", "gpt2", "llama", "t5", "bart"]

EMBEDDINGS = {
    "embeddings",
    "embeddings_project",
    "wte",
    "wpe",
    "embed_tokens",
    "embed_positions",
    "layernorm_embedding",
}


def trained(model: MultiTaskModel, folder: Any, **options: Any) -> set[str]:
    """The backbone's parameters that a few steps have changed."""
    args = MultiTaskTrainingArguments(
        output_dir=str(folder), max_steps=3, learning_rate=1e-2, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True, **options,
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    MultiTaskTrainer(model, args, train_dataset={"topic": ROWS}).train()
    return {name for name, p in model.backbone.named_parameters() if not torch.equal(before[name], p)}


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_and_lower_layers_stay_and_the_others_learn(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(kind), [TOPIC])
    everything = trained(model, tmp_path)
    model = MultiTaskModel.from_backbone(tiny_backbone(kind), [TOPIC])
    changed = trained(model, tmp_path, freeze_layers=1)
    stacks = [m for m in model.backbone.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2]
    lower, upper = ({id(p) for p in layer.parameters()} for layer in stacks[0])
    named = dict(model.backbone.named_parameters())
    frozen = {name for name, p in named.items() if id(p) in lower or name.split(".")[0] in EMBEDDINGS}
    assert len(frozen) > len(lower) and not frozen & changed
    assert {name for name in everything if id(named[name]) in upper} <= changed
    assert not any(p.requires_grad for p in stacks[0][0].parameters())


def test_frozen_layers_have_no_dropout_and_learn_again_when_they_are_let(tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), [TOPIC])
    model.freeze_layers(1)
    model.train()
    layers: Any = model.backbone.encoder.layer
    assert [layer.training for layer in layers] == [False, True] and not model.backbone.embeddings.training
    model.freeze_layers(0)
    assert all(layer.training for layer in layers) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", [*KINDS, "deberta-v2", "xlm-roberta", "marian"])
def test_what_comes_out_of_frozen_layers_stays_as_it_is(kind: str, count: int, tiny_backbone: Any) -> None:
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(tiny_backbone(kind), [TOPIC])
    model.freeze_layers(count)
    model.train()
    stack = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    seen: list[torch.Tensor] = []
    stack[count - 1].register_forward_hook(lambda module, args, out: seen.append(out[0]))
    ids = model.tokenizer("I lost my card", return_tensors="pt")["input_ids"]
    for _ in range(2):
        output = model(input_ids=ids, labels=torch.tensor([0]))
        learned = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(output.loss, learned, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(learned, gradients, strict=True):
                if gradient is not None:
                    parameter -= gradient
    assert not seen[0].requires_grad and torch.equal(seen[0], seen[1])  # no dropout, nothing that learns


def test_a_trainer_that_says_nothing_leaves_what_was_frozen(tiny_backbone: Any, tmp_path: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), [TOPIC])
    model.freeze_layers(2)
    assert trained(model, tmp_path) == set()


def test_what_cannot_be_frozen_is_named(tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), [TOPIC])
    with pytest.raises(ValueError, match="has 2 layers: 3 of them"):
        model.freeze_layers(3)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [TOPIC], adapters=LoraConfig(target_modules="all-linear"))
    with pytest.raises(ValueError, match=r"first_layer=1"):
        model.freeze_layers(1)


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_layers_that_are_kept_in_several_lists_are_frozen_whole(kind: str, tmp_path: Any) -> None:
    tokenizer = make_tokenizer("wordpiece")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "it")
    ids = {"pad_index": 0, "bos_index": 1, "eos_index": 2, "unk_index": 3}
    sizes = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 128}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer) + 24, **sizes, **ids)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "it")
    model = MultiTaskModel.from_backbone(str(tmp_path / "it"), [TOPIC])
    above = {name for name, _ in model.backbone.named_parameters() if ".1." in name}
    assert len(above) == 16  # attention, feed-forward, and the norms behind them
    changed = trained(model, tmp_path / "out", freeze_layers=1)
    keys = {name for name in above if name.endswith("k_lin.bias")}  # a softmax takes no notice of it
    assert above - keys <= changed <= above
    model.freeze_layers(2)
    model.train()
    assert not any(p.requires_grad for p in model.backbone.parameters())
    given = {"input_ids": torch.tensor([[1, 7, 8, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    first, second = (model.backbone(**given).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)  # no dropout
