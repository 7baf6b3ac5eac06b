"""Tasks with adapters of their own alone in models whose other tasks share: they come, learn and go by themselves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from test_adapters import model_of, tasks
from test_adapters import texts as random_texts
from torch import nn
from transformers import AutoModel

from hf_mtl import MultiTaskModel, TextClassification

# peft 0.21 asks transformers 5.23 by an attribute's old name; only plain PeftModel does, which the package never makes.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SHARED = LoraConfig(r=2, lora_alpha=3, target_modules="all-linear")
MADE: dict[str, dict[str, Any]] = {
    "shared+private": {"sharing": "shared+private", "adapters": SHARED},
    "mtl-lora": {"sharing": "mtl-lora", "adapters": SHARED},
    "poly": {"sharing": "poly", "adapters": SHARED},
    "pissa": {"adapters": LoraConfig(r=2, target_modules="all-linear", init_lora_weights="pissa")},
}
OWN = {
    "as the others'": SHARED,
    "of another rank and scale": LoraConfig(r=5, lora_alpha=2, target_modules="all-linear"),
    "in some layers": LoraConfig(r=3, target_modules=["query", "q_proj", "c_attn", "q"]),
    "dora": LoraConfig(r=2, target_modules="all-linear", use_dora=True),
}
NEW = TextClassification(name="new", labels=["no", "yes"])


def texts() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return random_texts()


def moved(model: MultiTaskModel, *names: str) -> None:
    """Every weight of adapters and heads somewhere else: all of them, or these tasks' alone."""
    torch.manual_seed(len(names))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and (not names or set(names) & set(key.split("."))):
                parameter += 0.1 * torch.randn_like(parameter)


def made(folder: str, sharing: str) -> MultiTaskModel:
    model = MultiTaskModel.from_backbone(folder, tasks(), **MADE[sharing])
    moved(model)
    return model.eval()


def answers(model: MultiTaskModel) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(**texts()).logits


@pytest.mark.parametrize("own", OWN.values(), ids=list(OWN))
@pytest.mark.parametrize("sharing", MADE)
def test_a_task_with_its_own_adapter_comes_learns_and_goes_by_itself(
    sharing: str, own: LoraConfig, tiny_backbone: Any
) -> None:
    model = made(tiny_backbone(), sharing)
    before = answers(model)
    model.add_task(NEW, adapter=own)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        loss = model.train()(**texts(), tasks=["new"], labels=torch.arange(8) % 2).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    found = answers(model)
    assert all(torch.equal(found[name], before[name]) for name in before)
    with torch.no_grad():
        bare = model.head("new", (model.backbone(**texts()).last_hidden_state,), texts()["attention_mask"]).logits
    assert not torch.allclose(found["new"], bare, atol=1e-4)
    model.remove_task("new")
    model.add_task(NEW)  # now it shares
    assert all(torch.equal(answers(model)[name], before[name]) for name in before)
    changed = model.train()(**texts(), tasks=["new"], labels=torch.arange(8) % 2)
    changed.loss.backward()
    if sharing != "pissa":
        assert any(p.grad is not None and ".+" in name for name, p in model.named_parameters())


@pytest.mark.parametrize("grad", [True, False], ids=["learning", "answering"])
@pytest.mark.parametrize("own", OWN.values(), ids=list(OWN))
@pytest.mark.parametrize("sharing", MADE)
def test_its_rows_stand_in_a_batch_beside_others(sharing: str, own: LoraConfig, grad: bool, tiny_backbone: Any) -> None:
    model = made(tiny_backbone(), sharing)
    model.add_task(NEW, adapter=own)
    moved(model, "new")
    alone, names = answers(model), list(model.tasks)
    for ids in ([0, 0, 1, 1, 4, 4, 2, 2], [4, 0, 4, 3, 1, 4, 2, 0], [4, 4, 4, 0, 0, 0, 4, 4]):
        with torch.set_grad_enabled(grad):
            together = model(**texts(), task_ids=torch.tensor(ids)).logits
        for k in set(ids):
            rows = [row for row, task in enumerate(ids) if task == k]
            torch.testing.assert_close(together[names[k]], alone[names[k]][rows], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("sharing", MADE)
def test_a_pack_answers_as_in_the_model_it_comes_from(
    sharing: str, kind: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    source = model_of(tiny_backbone(kind)).eval()
    moved(source)
    source.save_task("b", tmp_path / "pack")
    model = made(tiny_backbone(kind), sharing)
    before, kept = answers(model), answers(source)["b"]
    model.load_task(tmp_path / "pack", name="loaded")
    model.rename_task("loaded", "new")
    for options in ({}, {"save_backbone": False}):
        found = answers(model)
        assert torch.equal(found["new"], kept) and all(torch.equal(found[name], before[name]) for name in before)
        model.save_pretrained(tmp_path / "whole", **options)
        model = MultiTaskModel.from_pretrained(tmp_path / "whole")
        assert {name for name, p in model.named_parameters() if "lora_" in name and not p.requires_grad} == {
            name for name, p in model.named_parameters() if "+start" in name
        }
    model.save_task("new", tmp_path / "again")
    other = MultiTaskModel.from_tasks([tmp_path / "again"], backbone=tiny_backbone(kind)).eval()
    assert torch.equal(answers(other)["new"], kept)
    hidden = model.merge_task("new")(**texts()).last_hidden_state
    with torch.no_grad():
        routed = model.encode(["new"], texts()["attention_mask"], input_ids=texts()["input_ids"])[-1]
    seen = texts()["attention_mask"].bool()
    torch.testing.assert_close(hidden[seen], routed[seen], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sharing", MADE)
def test_an_adapter_of_peft_takes_the_place_of_a_shared_one(sharing: str, tiny_backbone: Any, tmp_path: Path) -> None:
    plain: Any = get_peft_model(AutoModel.from_pretrained(tiny_backbone()), OWN["of another rank and scale"])
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter += 0.3 * torch.randn_like(parameter) if "lora_B" in name else 0
    plain.save_pretrained(tmp_path)
    model = made(tiny_backbone(), sharing)
    before, config = answers(model), model.config.to_dict()
    (tmp_path / "damaged").mkdir()
    text = (tmp_path / "adapter_config.json").read_text().replace('"r": 5', '"r": 4')
    (tmp_path / "damaged" / "adapter_config.json").write_text(text.replace('"lora_bias": false', '"lora_bias": true'))
    (tmp_path / "damaged" / "adapter_model.safetensors").write_bytes(
        (tmp_path / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="'b' does not fit"):
        model.attach_adapter("b", tmp_path / "damaged")
    found = answers(model)
    assert model.config.to_dict() == config and all(torch.equal(found[name], before[name]) for name in before)
    model.attach_adapter("b", tmp_path)
    found = answers(model)
    assert all(torch.equal(found[name], before[name]) for name in before if name != "b")
    wanted = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_backbone()), tmp_path).eval()
    with torch.no_grad():
        ours = model.encode(["b"], texts()["attention_mask"], input_ids=texts()["input_ids"])[-1]
        torch.testing.assert_close(ours, wanted(**texts()).last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sharing", MADE)
def test_a_task_of_its_own_starts_from_shared_adapters(sharing: str, tiny_backbone: Any) -> None:
    model = made(tiny_backbone(), sharing)
    before = answers(model)
    model.add_task(NEW, adapter=LoraConfig(r=8, lora_alpha=4, target_modules="all-linear"))
    model.train().start_task("new", {"a": 0.25, "c": 0.75})  # in which tasks of `poly` draw their skills
    model.eval()
    with torch.no_grad():
        for layer in (m for m in model.modules() if hasattr(m, "effective")):
            (a, c, new) = (up @ down for down, up in map(layer.effective, ["a", "c", "new"]))
            torch.testing.assert_close(new, 0.25 * a + 0.75 * c, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(answers(model)[name], before[name]) for name in before)
    with pytest.raises(ValueError, match=r"'a' cannot be given other values: .*add_task\(task, adapter="):
        model.start_task("a", "c")


@pytest.mark.parametrize("sharing", ["private", *MADE])
def test_the_order_of_the_parameters_is_that_of_the_tasks_however_they_came(
    sharing: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    """A checkpoint knows an optimizer's state by it alone."""
    options = MADE.get(sharing, {"adapters": SHARED})
    plain: Any = get_peft_model(AutoModel.from_pretrained(tiny_backbone()), OWN["of another rank and scale"])
    plain.save_pretrained(tmp_path)
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks(), **options)
    before = [name for name, _ in model.named_parameters()]
    model.add_task(NEW, adapter=OWN["dora"])
    model.add_task(TextClassification(name="last", labels=["no", "yes"]))
    if sharing != "poly" and sharing != "mtl-lora":  # whose parts of a task are others
        model.attach_adapter("a", tmp_path)
        assert [n for n, _ in model.named_parameters() if "new" not in n and "last" not in n] == before
    model.save_pretrained(tmp_path / "whole")
    loaded = MultiTaskModel.from_pretrained(tmp_path / "whole")
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_where_all_go_through_one_adapter_no_task_has_its_own(tiny_backbone: Any, tmp_path: Path) -> None:
    model = model_of(tiny_backbone(), sharing="shared")
    model.save_task("a", tmp_path)
    message = r"'new' cannot have an adapter of its own: .*sharing='shared'.*another sharing"
    with pytest.raises(ValueError, match=message):
        model.add_task(NEW, adapter=LoraConfig(r=4))
    with pytest.raises(ValueError, match=message):
        model.load_task(tmp_path, name="new")
    with pytest.raises(ValueError, match=message.replace("new", "a")):
        model.attach_adapter("a", tmp_path / "adapter")
    with pytest.raises(ValueError, match=message.replace("new", "a")):
        model.start_task("a", "b")
    assert list(model.tasks) == list(dict.fromkeys(task.name for task in tasks()))
    assert isinstance(model.heads, nn.ModuleDict) and "new" not in model.heads
