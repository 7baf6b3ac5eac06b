"""The language-model head of every family, beside transformers' own class."""

from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from test_language_models import TEXTS, batch_of, made
from transformers import AutoConfig

from hf_mtl import FillMask, MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextGeneration
from hf_mtl.language_model import auto_class, predictor, text_part

SMALL = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
ENCODER_DECODER = {
    "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
EXPERTS = SMALL | {"num_key_value_heads": 1}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("causal", EXPERTS | {"num_local_experts": 2}),
    "qwen2_moe": (
        "causal",
        EXPERTS
        | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16},
    ),
    "mamba": ("causal", SMALL),
    "opt": ("causal", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 16}),
    "longformer": ("masked", SMALL | {"attention_window": 8}),
    "luke": ("masked", SMALL),
    "deberta": ("masked", SMALL | {"legacy": False}),
    "deberta-v2": ("masked", SMALL | {"legacy": False}),
    "m2m_100": ("seq2seq", ENCODER_DECODER),
    "blenderbot": ("seq2seq", ENCODER_DECODER),
    "blenderbot-small": ("seq2seq", ENCODER_DECODER),
    "nllb-moe": (
        "seq2seq",
        ENCODER_DECODER | {"num_experts": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
    ),
    "switch_transformers": (
        "seq2seq",
        {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "num_experts": 2}
        | {"decoder_start_token_id": 0},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_predicts_what_its_own_class_does(family: str) -> None:
    kind, fields = FAMILIES[family]
    torch.manual_seed(0)
    model = auto_class(kind).from_config(AutoConfig.for_model(family, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases are zeros at first, and would hide that they are left out
            parameter += torch.randn_like(parameter) * 0.1
        ids, labels = torch.randint(3, 50, (1, 8)), torch.randint(3, 50, (1, 5))
        mask = torch.ones_like(ids)
        hidden = text_part(model, kind)(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
        predict = predictor(model, kind, hidden, mask)
        if kind == "seq2seq":
            own = model(input_ids=ids, attention_mask=mask, labels=labels).logits
            torch.testing.assert_close(predict(labels), own, atol=1e-5, rtol=1e-5)
        else:
            own = model(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(predict(hidden[0]), own[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "task"), [("gpt2", TextGeneration(name="it")), ("bert", FillMask(name="it"))])
def test_a_backbone_under_accelerates_hooks_has_the_same_loss(kind: str, task: Any, tiny_backbone: Any) -> None:
    model = made(tiny_backbone(kind), [task])
    batch = batch_of(model, {"it": [{"text": text} for text in TEXTS]})
    before = model(**batch).loss
    add_hook_to_module(model.backbone, AlignDevicesHook(io_same_device=True))
    torch.testing.assert_close(model(**batch).loss, before)


def test_an_offloaded_backbone_gives_losses_and_refuses_to_be_trained_or_saved(
    tiny_backbone: Any, tmp_path: Any
) -> None:
    task = TextGeneration(name="it")
    parts = ("transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.ln_f", "lm_head")
    placed = dict.fromkeys(parts, "cpu") | {"transformer.h.1": "disk"}
    model = MultiTaskModel.from_backbone(
        tiny_backbone("gpt2"), [task], device_map=placed, offload_folder=str(tmp_path / "off")
    )
    whole = made(tiny_backbone("gpt2"), [task])
    batch = batch_of(whole, {"it": [{"text": text} for text in TEXTS]})
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, whole(**batch).loss)
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"device_map.*trainer moves it as a whole"):
        MultiTaskTrainer(model, args, train_dataset={"it": [{"text": "a"}]})
    with pytest.raises(ValueError, match="offloaded by device_map"):
        model.save_pretrained(tmp_path / "saved")
