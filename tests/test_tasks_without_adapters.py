"""Tasks without an adapter in models whose others have one: their heads read the bare backbone, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig
from test_adapters import tasks
from test_own_adapters import MADE, NEW, answers, moved, texts
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_mtl import MultiTaskModel, TextClassification

LORA = LoraConfig(r=2, lora_alpha=3, target_modules="all-linear")
KINDS: dict[str, dict[str, Any]] = MADE | {
    "private": {"adapters": LORA},
    "upper layers": {"adapters": LORA, "first_layer": 1},
    "dora": {"adapters": LoraConfig(r=2, target_modules="all-linear", use_dora=True)},
    "token table": {"adapters": LoraConfig(r=2, target_modules=["word_embeddings", "query"])},
    "ia3": {
        "adapters": IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])
    },
}
BARE = TextClassification(name="bare", labels=["no", "yes"], pooling="first")


def with_one_bare(folder: str, kind: str) -> tuple[MultiTaskModel, dict[str, torch.Tensor]]:
    """A model that was given a task without an adapter, and what it answered before."""
    model = MultiTaskModel.from_backbone(folder, tasks(), **KINDS[kind])
    moved(model)
    before = answers(model.eval())
    model.add_task(BARE, adapter=False)
    return model, before


@torch.no_grad()
def by_the_backbone_alone(model: MultiTaskModel, folder: str, order: torch.Tensor | None = None) -> torch.Tensor:
    inputs = texts() if order is None else {name: value[order] for name, value in texts().items()}
    hidden = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    return model.head("bare", (hidden,), inputs["attention_mask"]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_its_head_reads_the_bare_backbone_alone_and_beside_others(kind: str, tiny_backbone: Any) -> None:
    model, before = with_one_bare(tiny_backbone(), kind)
    assert not any(".bare." in name for name, _ in model.backbone.named_parameters())
    found, names = answers(model), list(model.tasks)
    assert all(torch.equal(found[name], before[name]) for name in before)
    assert torch.equal(found["bare"], by_the_backbone_alone(model, tiny_backbone()))
    own = names.index("bare")
    for ids in ([0, 0, own, own, 1, 1, 2, 2], [own, 0, own, 3, 1, own, 2, 0], [own, own, own, 0, 0, 0, own, own]):
        order = torch.argsort(torch.tensor(ids), stable=True)  # as the rows go through the backbone
        wanted = by_the_backbone_alone(model, tiny_backbone(), order)[torch.tensor(ids)[order] == own]
        for learning in (False, True):
            with torch.set_grad_enabled(learning):
                together = model(**texts(), task_ids=torch.tensor(ids)).logits
            assert torch.equal(together["bare"], wanted)
            for k in set(ids) - {own}:
                rows = [row for row, task in enumerate(ids) if task == k]
                torch.testing.assert_close(together[names[k]], found[names[k]][rows], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["private", "shared+private", "poly", "pissa"])
def test_training_it_changes_its_head_alone_and_training_the_others_leaves_it(kind: str, tiny_backbone: Any) -> None:
    model, _ = with_one_bare(tiny_backbone(), kind)
    for trained in ("bare", "a"):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        answered = answers(model.eval())
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        model.train()(**texts(), tasks=[trained], labels=torch.arange(8) % 2).loss.backward()
        optimizer.step()
        model.zero_grad()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        if trained == "bare":
            assert changed and all(name.startswith("heads.bare.") for name in changed)
        else:
            assert any("lora_" in name for name in changed)
            assert torch.equal(answers(model.eval())["bare"], answered["bare"])


@pytest.mark.parametrize("kind", ["private", "mtl-lora", "pissa", "ia3"])
def test_it_is_saved_and_loaded_as_any(kind: str, tiny_backbone: Any, tmp_path: Path) -> None:
    model, _ = with_one_bare(tiny_backbone(), kind)
    kept = answers(model)
    for options in ({}, {"save_backbone": False}):
        model.save_pretrained(tmp_path / "whole", **options)
        model = MultiTaskModel.from_pretrained(tmp_path / "whole")
        found = answers(model)
        assert all(torch.equal(found[name], kept[name]) for name in kept)
        assert model.config.adapter_of("bare") is None
    model.rename_task("bare", "other")
    assert torch.equal(answers(model)["other"], kept["bare"])
    model.remove_task("other")
    assert "other" not in (model.config.task_adapters or {})
    model.add_task(TextClassification(name="other", labels=["no", "yes"]))
    assert any(".other" in name for name, _ in model.backbone.named_parameters())


@pytest.mark.parametrize("kind", ["private", "shared+private", "mtl-lora"])
def test_it_is_merged_exported_packed_and_loaded(kind: str, tiny_backbone: Any, tmp_path: Path) -> None:
    model, before = with_one_bare(tiny_backbone(), kind)
    kept = answers(model)["bare"]
    plain = AutoModel.from_pretrained(tiny_backbone(), add_pooling_layer=False).state_dict()
    merged = model.merge_task("bare").state_dict()
    assert merged.keys() == plain.keys() and all(torch.equal(merged[name], plain[name]) for name in plain)
    model.export_task("bare", tmp_path / "plain")
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        torch.testing.assert_close(exported(**texts()).logits, kept, atol=1e-4, rtol=1e-4)
    model.save_task("bare", tmp_path / "pack")
    assert not (tmp_path / "pack" / "adapter").exists()
    model.remove_task("bare")
    model.load_task(tmp_path / "pack")
    found = answers(model)
    assert torch.equal(found["bare"], kept) and all(torch.equal(found[name], before[name]) for name in before)
    model.save_task("a", tmp_path / "a")
    both = MultiTaskModel.from_tasks([tmp_path / "pack", tmp_path / "a"])
    assert torch.equal(answers(both)["bare"], kept) and both.config.adapter_of("bare") is None


def test_where_all_go_through_one_adapter_no_task_goes_without(tiny_backbone: Any, tmp_path: Path) -> None:
    with_one_bare(tiny_backbone(), "private")[0].save_task("bare", tmp_path)
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks(), adapters=LORA, sharing="shared")
    message = r"'bare' cannot go without an adapter: all rows of this model go through one \(sharing='shared'\)"
    with pytest.raises(ValueError, match=message):
        model.add_task(BARE, adapter=False)
    with pytest.raises(ValueError, match=message):
        model.load_task(tmp_path)
    assert "bare" not in model.tasks and model.config.task_adapters is None


def test_it_starts_from_no_other_and_no_other_from_it(tiny_backbone: Any) -> None:
    model, _ = with_one_bare(tiny_backbone(), "private")
    model.add_task(NEW)
    for name, source in (("bare", "a"), ("new", "bare")):
        with pytest.raises(ValueError, match="'bare' has no adapter: its head reads the backbone itself"):
            model.start_task(name, source)


def test_without_adapters_at_all_it_says_nothing_new(tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks())
    model.add_task(BARE, adapter=False)
    assert model.config.task_adapters is None and "bare" in answers(model.eval())
