"""IA3: every row scaled by its own task's vectors, as plain peft scales one task's, and all that adapters can do."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from recipe_files import recipe_values, write_recipe
from test_adapters import INDICES, NAMES, route_of, tasks, texts
from torch import nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from hf_mtl import MultiTaskModel, TextClassification, TextGeneration
from hf_mtl.adapters import Route, RoutedScaling, inject_adapters, use_route
from hf_mtl.recipe import Recipe

# peft 0.21 asks transformers 5.23 by an attribute's old name; only plain PeftModel does, which the package never makes.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MORE = TextClassification(name="e", labels=["no", "yes"])
# Those that peft names no layers for.
NAMED = {
    "modernbert": IA3Config(target_modules=["Wqkv", "mlp.Wo"], feedforward_modules=["mlp.Wo"]),
    "distilbert": IA3Config(target_modules=["k_lin", "v_lin", "lin2"], feedforward_modules=["lin2"]),
    "bart": IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"]),
    "deberta-v2": IA3Config(
        target_modules=["key_proj", "value_proj", "output.dense"], feedforward_modules=["output.dense"]
    ),
}
KINDS = ["bert", "roberta", "gpt2", "llama", "t5", *NAMED]


def layer(base: nn.Module, inputs: bool) -> RoutedScaling:
    torch.manual_seed(0)
    module = nn.Sequential(base)
    config = IA3Config(target_modules=["0"], feedforward_modules=["0"] if inputs else [])
    inject_adapters(module, config, NAMES)
    for parameter in module.parameters():
        nn.init.normal_(parameter.requires_grad_(True))
    found = module[0]
    assert isinstance(found, RoutedScaling)
    return found


def by_row(module: RoutedScaling, x: torch.Tensor, index: list[int]) -> torch.Tensor:
    """The definition, row by row: y = l(t) * (W x + b), or W (l(t) * x) + b."""
    base: Any = module.base_layer
    weight = base.weight.T if isinstance(base, Conv1D) else base.weight
    rows = []
    for row, i in zip(x, index, strict=True):
        vector = module.ia3_l[NAMES[i]].flatten()
        if module.is_feedforward:
            rows.append((row * vector) @ weight.T + base.bias)
        else:
            rows.append(vector * (row @ weight.T + base.bias))
    return torch.stack(rows)


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "tokens in one row"])
@pytest.mark.parametrize("inputs", [False, True], ids=["output", "input"])
@pytest.mark.parametrize("base", [nn.Linear(12, 20), Conv1D(20, 12)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_each_row_is_scaled_by_its_own_vector(index: list[int], base: nn.Module, inputs: bool, flat: bool) -> None:
    module = layer(copy.deepcopy(base), inputs).double()
    x = torch.randn(8, 5, 12, dtype=torch.double, requires_grad=True)
    expected, up = by_row(module, x, index), torch.randn(8, 5, 20, dtype=torch.double)
    learning = [x, *module.parameters()]
    wanted = torch.autograd.grad((expected * up).sum(), learning, allow_unused=True)
    given = x.flatten(0, 1) if flat else x
    with use_route(route_of(index)):
        found = module(given).view(8, 5, 20)
        with torch.no_grad():
            torch.testing.assert_close(module(given).view(8, 5, 20), expected)
    torch.testing.assert_close(found, expected)
    got = torch.autograd.grad((found * up).sum(), learning, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(module(x), module.base_layer(x))  # without a route


def test_a_row_of_a_task_without_vectors_stays_as_it_is() -> None:
    module, x = layer(nn.Linear(12, 20), False), torch.randn(8, 5, 12)
    module.delete_adapter("a")
    with use_route(route_of(INDICES["in any order"])):
        mixed = module(x)
    for row, i in enumerate(INDICES["in any order"]):
        with use_route(Route([NAMES[i]])):
            torch.testing.assert_close(mixed[row], module(x[row : row + 1])[0])
    torch.testing.assert_close(mixed[1], module.base_layer(x[1]))


def scaled(folder: str, adapters: Any = None, more: Any = None, **kwargs: Any) -> MultiTaskModel:
    kind = next((kind for kind in NAMED if Path(folder).name.startswith(kind)), "")
    given = adapters or NAMED.get(kind) or IA3Config()
    model = MultiTaskModel.from_backbone(folder, more or tasks(), adapters=given, **kwargs)
    moved(model)
    return model.eval()


def moved(model: nn.Module) -> None:
    """Gives vectors values that fresh ones have not, which are all 1."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "ia3_l" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.4)


def states(model: MultiTaskModel, name: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found = model.encode([name], inputs["attention_mask"], input_ids=inputs["input_ids"])[-1]
    return found[inputs["attention_mask"].bool()]


def bare(folder: str) -> Any:
    model: Any = AutoModel.from_pretrained(folder).eval()
    return model.get_encoder() if model.config.is_encoder_decoder else model


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_plain_peft_and_goes_all_ways(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    folder = tiny_backbone(kind)
    model, inputs, ids = scaled(folder), texts(), torch.tensor(INDICES["in any order"])
    seen = inputs["attention_mask"].bool()
    assert {m.is_feedforward for m in model.modules() if isinstance(m, RoutedScaling)} == {True, False}
    before = model(**inputs).logits
    mixed = model(**inputs, task_ids=ids).logits
    for i, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[name], before[name][ids == i], atol=1e-5, rtol=1e-4)
    routed = states(model, "b", inputs)
    # Packs, opened by plain peft and by another model; merged.
    model.save_task("b", tmp_path / "pack")
    plain = PeftModel.from_pretrained(bare(folder), tmp_path / "pack" / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).last_hidden_state[seen], routed, atol=1e-5, rtol=1e-4)
        merged = model.merge_task("b")(**inputs).last_hidden_state[seen]
        assert not torch.allclose(routed, bare(folder)(**inputs).last_hidden_state[seen], atol=1e-3)
    torch.testing.assert_close(merged, routed, atol=1e-4, rtol=1e-4)
    alone = MultiTaskModel.from_tasks([tmp_path / "pack"], backbone=folder).eval()
    torch.testing.assert_close(alone(**inputs).logits["b"], before["b"], atol=1e-5, rtol=1e-4)
    # Saved whole and light; tasks that come, go and are renamed.
    for place, options in (("all", {}), ("light", {"save_backbone": False})):
        model.save_pretrained(tmp_path / place, **options)
        again = MultiTaskModel.from_pretrained(tmp_path / place)
        assert again.config.adapters["peft_type"] == "IA3"
        torch.testing.assert_close(again(**inputs).logits, before, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(again(**inputs, task_ids=ids).logits, mixed, atol=1e-5, rtol=1e-4)
    model.add_task(MORE)
    model.rename_task("b", "new")
    model.remove_task("a")
    assert torch.equal(model(**inputs, tasks=["new"]).logits["new"], before["b"])
    with torch.no_grad():
        untouched = bare(folder)(**inputs).last_hidden_state[seen]
    torch.testing.assert_close(states(model, "e", inputs), untouched, atol=1e-5, rtol=1e-4)
    own = {n: p for n, p in model.named_parameters() if "ia3_l" in n}
    assert own and all(p.requires_grad for p in own.values())
    assert model.parameter_counts()["new"]["adapter"] == sum(p.numel() for n, p in own.items() if n.endswith(".new"))
    model.load_task(tmp_path / "pack")
    torch.testing.assert_close(model(**inputs, tasks=["b"]).logits["b"], before["b"])
    assert model.backbone_fingerprint("b") == MultiTaskModel.from_backbone(folder, tasks()).backbone_fingerprint("a")


def test_all_linear_is_all_linear_for_every_task(tiny_backbone: Any) -> None:
    model = scaled(tiny_backbone(), IA3Config(target_modules="all-linear", feedforward_modules=["output.dense"]))
    model.add_task(MORE)
    found = [module for module in model.backbone.modules() if isinstance(module, RoutedScaling)]
    assert len(found) == 12 and all(module.has(name) for module in found for name in (*NAMES, "e"))
    assert not any(isinstance(module.base_layer, RoutedScaling) for module in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_a_task_moves_its_own_vectors_and_no_other(dtype: torch.dtype, tiny_backbone: Any) -> None:
    model, inputs, ids = scaled(tiny_backbone(), dtype=dtype), texts(), torch.tensor(INDICES["two of the tasks"])
    labels = {name: torch.zeros(int((ids == i).sum()), dtype=torch.long) for i, name in enumerate(NAMES) if i in (1, 3)}
    model(**inputs, task_ids=ids, labels=labels).loss.backward()
    vectors = {n: p for n, p in model.named_parameters() if "ia3_l" in n}
    assert {n for n, p in vectors.items() if p.grad is not None} == {n for n in vectors if n[-2:] in (".b", ".d")}
    assert all(p.dtype == torch.float32 for p in vectors.values())
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("ia3_l" in n or n.startswith("heads.") for n in learning)


def test_vectors_of_all_tasks_are_shared(tiny_backbone: Any, tmp_path: Any) -> None:
    model, inputs = scaled(tiny_backbone(), sharing="shared"), texts()
    before = model(**inputs, tasks=["b"]).logits["b"]
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if "ia3_l" in n} == {"+all"}
    assert model.parameter_counts()["shared adapters"]["all"] > 0
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(**inputs, tasks=["b"]).logits["b"], before)
    model.save_task("b", tmp_path / "pack")
    alone = MultiTaskModel.from_tasks([tmp_path / "pack"], backbone=tiny_backbone()).eval()
    torch.testing.assert_close(alone(**inputs).logits["b"], before, atol=1e-5, rtol=1e-4)


def test_a_task_that_the_checkpoint_has_not_gets_vectors_of_ones(tiny_backbone: Any, tmp_path: Any) -> None:
    model, inputs = scaled(tiny_backbone()), texts()
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(model.config)
    config.tasks = [*config.tasks, MORE.to_dict()]
    again = MultiTaskModel.from_pretrained(tmp_path, config=config)
    torch.testing.assert_close(again(**inputs, tasks=["b"]).logits["b"], model(**inputs, tasks=["b"]).logits["b"])
    fresh = [p for n, p in again.named_parameters() if n.endswith("ia3_l.e")]
    assert fresh and all(torch.equal(p, torch.ones_like(p)) for p in fresh)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_vectors_made_by_plain_peft_become_a_tasks(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    plain = get_peft_model(AutoModel.from_pretrained(tiny_backbone(kind)), IA3Config(fan_in_fan_out=kind == "gpt2"))
    moved(plain.eval())
    plain.save_pretrained(tmp_path / "ia3")
    model, inputs = scaled(tiny_backbone(kind)), texts()
    before = model(**inputs).logits
    model.attach_adapter("b", tmp_path / "ia3")
    with torch.no_grad():
        wanted = plain(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    torch.testing.assert_close(states(model, "b", inputs), wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(model(**inputs, tasks=["a"]).logits["a"], before["a"])
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(states(again, "b", inputs), wanted, atol=1e-5, rtol=1e-4)
    lora = MultiTaskModel.from_backbone(tiny_backbone(kind), tasks(), adapters=LoraConfig(r=2))
    kept = lora(**inputs).logits
    with pytest.raises(ValueError, match="are of one kind, and these are of several: IA3, LORA"):
        lora.attach_adapter("b", tmp_path / "ia3")
    torch.testing.assert_close(lora(**inputs).logits, kept)


def test_a_task_starts_from_the_sum_of_others_vectors(tiny_backbone: Any) -> None:
    model = scaled(tiny_backbone())
    model.start_task("a", {"b": 0.25, "c": 0.75})
    for module in model.modules():
        if isinstance(module, RoutedScaling):
            held = module.ia3_l
            torch.testing.assert_close(held["a"].data, 0.25 * held["b"].data + 0.75 * held["c"].data)
    with pytest.raises(ValueError, match="only be added up, not combined by 'ties'"):
        model.start_task("a", ["b", "c"], method="ties")


def test_layers_below_the_first_with_vectors_are_computed_once(tiny_backbone: Any) -> None:
    ia3 = IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])
    model = scaled(tiny_backbone(), ia3, first_layer=1)
    assert len(model._trunk()) == 1
    inputs = texts()
    together = model(**inputs).logits
    torch.testing.assert_close(together["b"], model(**inputs, tasks=["b"]).logits["b"])


def test_a_decoder_writes_with_its_tasks_vectors(tiny_backbone: Any, tmp_path: Any) -> None:
    model = scaled(tiny_backbone("gpt2"), more=[TextGeneration(name="one"), TextGeneration(name="two")])
    inputs = texts(2)
    given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "max_new_tokens": 5}
    kept = {name: model.generate(**given, task=name) for name in ("one", "two")}
    for name in kept:
        model.save_task(name, tmp_path / name)
    again = MultiTaskModel.from_tasks({name: tmp_path / name for name in kept}).eval()
    assert all(torch.equal(again.generate(**given, task=name), kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sharing": "poly"}, r"sharing='poly' is of low-rank adapters \(LoraConfig\), got IA3Config"),
        ({"adapters": {"a": IA3Config(), "b": LoraConfig(), "c": None, "d": None}}, "of several: IA3, LORA"),
        ({"adapters": IA3Config(modules_to_save=["pooler"])}, "cannot be kept per task"),
        (
            {"adapters": IA3Config(target_modules=["word_embeddings"], feedforward_modules=[])},
            "the embedding 'embeddings.word_embeddings': IA3 scales linear layers",
        ),
        (
            {"adapters": IA3Config(target_modules=["LayerNorm"], feedforward_modules=[])},
            "takes in a LayerNorm: IA3 scales linear",
        ),
        ({"adapters": IA3Config(target_modules=["qery"], feedforward_modules=[])}, "Did you mean 'query'"),
    ],
)
def test_vectors_that_cannot_be_routed_are_refused(given: dict[str, Any], message: str, tiny_backbone: Any) -> None:
    given = {"adapters": IA3Config()} | given
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(tiny_backbone(), tasks(), **given)


def test_a_layer_scales_its_input_for_all_tasks_or_its_output(tiny_backbone: Any) -> None:
    model = scaled(tiny_backbone())
    keys = list(model.state_dict())
    other = IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["key"])
    with pytest.raises(ValueError, match=r"feedforward_modules=\['key'\] .*has .*self.key.* the other way"):
        model.add_task(MORE, adapter=other)
    assert list(model.state_dict()) == keys and "e" not in model.tasks and model.config.task_adapters is None
    with pytest.raises(ValueError, match="of several: IA3, LORA"):
        model.add_task(MORE, adapter=LoraConfig(r=2))


def test_a_recipe_trains_vectors_and_the_card_says_so(tiny_backbone: Any, tmp_path: Any) -> None:
    values = recipe_values(tmp_path, tiny_backbone())
    values["adapters"] = {
        "type": "ia3",
        "target_modules": ["key", "output.dense"],
        "feedforward_modules": ["output.dense"],
    }
    model = Recipe.load(write_recipe(tmp_path, values)).train(tmp_path / "out").model
    vectors = [p for name, p in model.named_parameters() if "ia3_l" in name]
    assert vectors and any(not torch.equal(p, torch.ones_like(p)) for p in vectors)
    assert model.config.adapters["peft_type"] == "IA3" and "each task has an IA3 adapter" in str(model.card())
    values["adapters"] = {"type": "ia3", "r": 8}
    with pytest.raises(ValueError, match="adapters has no key 'r'"):
        Recipe.load(write_recipe(tmp_path, values))
