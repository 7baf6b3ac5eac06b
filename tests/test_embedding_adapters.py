"""Adapters on the table of tokens: every row through its own task's, as plain peft would do it, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_adapters import INDICES, NAMES, route_of, tasks, texts
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from hf_mtl import FillMask, MultiTaskModel, TextClassification, TextGeneration, Translation
from hf_mtl.adapters import Route, RoutedEmbedding, inject_adapters, use_route

# peft 0.21 asks transformers 5.23 by an attribute's old name; only plain PeftModel does, which the package never makes.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TABLES = {
    "bert": "word_embeddings",
    "deberta-v2": "word_embeddings",
    "modernbert": "tok_embeddings",
    "gpt2": "wte",
    "llama": "embed_tokens",
    "t5": "embed_tokens",
    "bart": "embed_tokens",
}


def table(**kwargs: Any) -> RoutedEmbedding:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(30, 12, padding_idx=0))
    inject_adapters(module, LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **kwargs), NAMES)
    for parameter in module.parameters():
        nn.init.normal_(parameter.requires_grad_(True))
    found = module[0]
    assert isinstance(found, RoutedEmbedding)
    return found


def by_row(module: RoutedEmbedding, ids: torch.Tensor, index: list[int]) -> torch.Tensor:
    """The definition, token by token: E[i] + s B(t) A(t)[:, i]."""
    base: Any = module.base_layer
    rows = []
    for row, i in zip(ids, index, strict=True):
        a, b = module.lora_embedding_A[NAMES[i]], module.lora_embedding_B[NAMES[i]]
        rows.append(torch.stack([base.weight[k] + module.scaling[NAMES[i]] * (b @ a[:, k]) for k in row]))
    return torch.stack(rows)


def on_tokens(folder: str, kind: str = "bert", more: tuple[str, ...] = (), **kwargs: Any) -> MultiTaskModel:
    targets = [TABLES[kind], *more]
    kwargs.setdefault("adapters", LoraConfig(r=2, lora_alpha=3, target_modules=targets))
    model = MultiTaskModel.from_backbone(folder, kwargs.pop("tasks", None) or tasks(), **kwargs)
    moved(model)
    return model.eval()


def moved(model: nn.Module) -> None:
    """Gives adapters values that a fresh one has not: it does nothing."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("scales", [False, True], ids=["one scale", "a scale a task"])
@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_each_row_is_looked_up_in_its_own_tasks_table(index: list[int], scales: bool) -> None:
    module, ids = table(), torch.randint(1, 30, (8, 5))
    if scales:
        module.scaling = {name: 0.5 + i for i, name in enumerate(NAMES)}
    expected = by_row(module, ids, index)
    up = torch.randn(8, 5, 12)
    learning = list(module.parameters())
    wanted = torch.autograd.grad((expected * up).sum(), learning, allow_unused=True)
    with use_route(route_of(index)):
        found = module(ids)
        with torch.no_grad():
            torch.testing.assert_close(module(ids), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad((found * up).sum(), learning, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module(ids), module.base_layer(ids))  # without a route


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"0": 5}}], ids=str
)
def test_a_mixed_batch_is_each_task_by_itself(settings: dict[str, Any]) -> None:
    module, index, ids = table(**settings), INDICES["in any order"], torch.randint(0, 30, (8, 5))
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            with use_route(route_of(index)):
                mixed = module(ids)
            for row, i in enumerate(index):
                with use_route(Route([NAMES[i]])):
                    torch.testing.assert_close(mixed[row], module(ids[row : row + 1])[0], atol=1e-5, rtol=1e-5)


def test_tables_of_different_ranks_and_of_none_stand_in_one_batch() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(30, 12))
    inject_adapters(module, LoraConfig(r=3, target_modules=["0"]), ["a", "b"])
    inject_adapters(module, LoraConfig(r=5, target_modules=["0"]), ["c"])
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    ids, index = torch.randint(0, 30, (8, 5)), INDICES["in any order"]
    with use_route(route_of(index)):
        mixed = module(ids)
    for row, i in enumerate(index):
        with use_route(Route([NAMES[i]])):  # "d" has none
            torch.testing.assert_close(mixed[row], module(ids[row : row + 1])[0], atol=1e-5, rtol=1e-5)


def test_what_is_made_does_not_grow_with_the_vocabulary() -> None:
    module = nn.Sequential(nn.Embedding(200_000, 4))
    inject_adapters(module, LoraConfig(r=2, target_modules=["0"]), NAMES)
    made: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result._base is None and not isinstance(result, nn.Parameter):
                made.append(result.numel())
            return result

    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), use_route(route_of(INDICES["in any order"])), Watch():
            module(torch.randint(0, 200_000, (8, 5)))
    assert made and max(made) <= 8 * 5 * 4


@pytest.mark.parametrize("kind", TABLES)
def test_a_task_on_the_table_is_plain_peft_and_goes_all_ways(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    folder, more = tiny_backbone(kind), () if kind in ("gpt2", "bart") else (r"dense",) if kind == "bert" else ()
    model, inputs, ids = on_tokens(folder, kind, more), texts(), torch.tensor(INDICES["in any order"])
    assert model._trunk() == []  # below the layers there are adapters
    seen = inputs["attention_mask"].bool()
    before = model(**inputs).logits
    mixed = model(**inputs, task_ids=ids).logits
    for i, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[name], before[name][ids == i], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before["a"], before["b"])
    # Packs, opened by plain peft and by another model.
    model.save_task("b", tmp_path / "pack")
    bare: Any = AutoModel.from_pretrained(folder)
    bare = bare.get_encoder() if bare.config.is_encoder_decoder else bare
    plain = PeftModel.from_pretrained(bare, tmp_path / "pack" / "adapter").eval()
    with torch.no_grad():
        routed = model.encode(["b"], inputs["attention_mask"], input_ids=inputs["input_ids"])[-1]
        torch.testing.assert_close(plain(**inputs).last_hidden_state[seen], routed[seen], atol=1e-5, rtol=1e-4)
        merged = model.merge_task("b")(**inputs).last_hidden_state
    torch.testing.assert_close(merged[seen], routed[seen], atol=1e-4, rtol=1e-4)
    alone = MultiTaskModel.from_tasks([tmp_path / "pack"], backbone=folder).eval()
    torch.testing.assert_close(alone(**inputs).logits["b"], before["b"], atol=1e-5, rtol=1e-4)
    # Saved whole and light; tasks that come, go and are renamed.
    for place, options in (("all", {}), ("light", {"save_backbone": False})):
        model.save_pretrained(tmp_path / place, **options)
        again = MultiTaskModel.from_pretrained(tmp_path / place)
        torch.testing.assert_close(again(**inputs).logits, before, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(again(**inputs, task_ids=ids).logits, mixed, atol=1e-5, rtol=1e-4)
    model.add_task(TextClassification(name="e", labels=["no", "yes"]))
    model.rename_task("b", "new")
    model.remove_task("a")
    assert torch.equal(model(**inputs, tasks=["new"]).logits["new"], before["b"])
    with torch.no_grad():
        fresh = model.encode(["e"], inputs["attention_mask"], input_ids=inputs["input_ids"])[-1]
        torch.testing.assert_close(fresh[seen], bare_states(folder, inputs)[seen], atol=1e-5, rtol=1e-4)
    assert all(p.requires_grad for n, p in model.named_parameters() if "lora_" in n)
    counts = model.parameter_counts()
    assert counts["new"]["adapter"] == sum(
        p.numel() for n, p in model.named_parameters() if ".new" in n and "lora" in n
    )
    model.load_task(tmp_path / "pack")
    torch.testing.assert_close(model(**inputs, tasks=["b"]).logits["b"], before["b"])


def bare_states(folder: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    bare: Any = AutoModel.from_pretrained(folder).eval()
    bare = bare.get_encoder() if bare.config.is_encoder_decoder else bare
    return bare(**inputs).last_hidden_state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_a_task_moves_its_own_table_and_no_other(dtype: torch.dtype, tiny_backbone: Any) -> None:
    model = on_tokens(tiny_backbone(), dtype=dtype, more=("query",))
    inputs, ids = texts(), torch.tensor(INDICES["two of the tasks"])
    labels = {name: torch.zeros(int((ids == i).sum()), dtype=torch.long) for i, name in enumerate(NAMES) if i in (1, 3)}
    model.train()
    model(**inputs, task_ids=ids, labels=labels).loss.backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None and "lora_" in name}
    assert got == {n for n, p in model.named_parameters() if "lora_" in n and (".b" in n[-9:] or ".d" in n[-9:])}
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if "lora_" in n)
    column = next(p.grad for n, p in model.named_parameters() if n.endswith("lora_embedding_A.b"))
    read = inputs["attention_mask"].bool() & (ids == 1).unsqueeze(1)
    used = set(inputs["input_ids"][read].tolist())
    assert set(column.abs().sum(0).nonzero().squeeze(1).tolist()) == used


def test_one_table_of_all_tasks_is_shared(tiny_backbone: Any, tmp_path: Any) -> None:
    model, inputs = on_tokens(tiny_backbone(), sharing="shared"), texts()
    before = model(**inputs, tasks=["b"]).logits["b"]
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if "lora_embedding" in n} == {"+all"}
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(**inputs, tasks=["b"]).logits["b"], before)
    model.save_task("b", tmp_path / "pack")
    alone = MultiTaskModel.from_tasks([tmp_path / "pack"], backbone=tiny_backbone()).eval()
    torch.testing.assert_close(alone(**inputs).logits["b"], before, atol=1e-5, rtol=1e-4)


def test_a_task_that_the_checkpoint_has_not_gets_a_fresh_table(tiny_backbone: Any, tmp_path: Any) -> None:
    model, inputs = on_tokens(tiny_backbone()), texts()
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(model.config)
    config.tasks = [*config.tasks, TextClassification(name="e", labels=["no", "yes"]).to_dict()]
    again = MultiTaskModel.from_pretrained(tmp_path, config=config)
    torch.testing.assert_close(again(**inputs, tasks=["b"]).logits["b"], model(**inputs, tasks=["b"]).logits["b"])
    found = dict(again.named_parameters())
    down = next(p for n, p in found.items() if n.endswith("lora_embedding_A.e"))
    up = next(p for n, p in found.items() if n.endswith("lora_embedding_B.e"))
    assert torch.count_nonzero(down) == 0 and 0.5 < up.std() < 1.5  # peft's: zeros, and a normal distribution


def test_a_table_made_by_plain_peft_becomes_a_tasks(
    tiny_backbone: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["word_embeddings", "query"])
    plain = get_peft_model(AutoModel.from_pretrained(tiny_backbone()), lora).eval()
    moved(plain)
    plain.save_pretrained(tmp_path, save_embedding_layers=True)  # the backbone's own table lies in the file too
    assert any("base_layer" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    model, inputs = on_tokens(tiny_backbone()), texts()
    before = model(**inputs).logits
    model.attach_adapter("b", tmp_path)
    with torch.no_grad():
        wanted = plain(**inputs).last_hidden_state
        found = model.encode(["b"], inputs["attention_mask"], input_ids=inputs["input_ids"])[-1]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(model(**inputs, tasks=["a"]).logits["a"], before["a"]) and not caplog.text
    plain.base_model.model.embeddings.word_embeddings.base_layer.weight.data += 1.0
    plain.save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(ValueError, match="for another backbone: it has a table of its own"):
        model.attach_adapter("b", tmp_path)


@pytest.mark.parametrize("method", ["svd", "linear"])
def test_a_task_starts_from_other_tables(method: str, tiny_backbone: Any) -> None:
    model, inputs = on_tokens(tiny_backbone()), texts()
    model.start_task("a", "b", method=method)
    states = [model.encode([name], inputs["attention_mask"], input_ids=inputs["input_ids"])[-1] for name in "ab"]
    torch.testing.assert_close(*states, atol=1e-4, rtol=1e-4)


def test_gradients_of_many_losses_can_be_taken_at_once() -> None:
    module, ids = table(), torch.randint(0, 30, (8, 5))
    ups = torch.randn(3, 8, 5, 12)
    with use_route(route_of(INDICES["in any order"])):
        found = module(ids)
    learning = [module.lora_embedding_A["a"], module.lora_embedding_B["a"]]
    together = torch.autograd.grad(found, learning, ups, is_grads_batched=True, retain_graph=True)
    for k, up in enumerate(ups):
        for one, all_of_them in zip(torch.autograd.grad(found, learning, up, retain_graph=True), together, strict=True):
            torch.testing.assert_close(all_of_them[k], one, atol=1e-5, rtol=1e-5)


WORD = TextClassification(name="topic", labels=["no", "yes"])


@pytest.mark.parametrize(
    ("kind", "extra", "given", "message"),
    [
        ("bert", FillMask(name="more"), {}, r"'embeddings.word_embeddings', whose weight is tied.*cls.*all-l"),
        ("gpt2", TextGeneration(name="more"), {}, r"'wte', whose weight is tied.*lm_head.*tie_word_embeddings=False"),
        ("t5", Translation(name="more"), {}, r"weight is tied.*shared.weight"),
        ("bart", Translation(name="more"), {}, r"weight is tied.*shared.weight"),
        ("bert", None, {"sharing": "poly"}, "made of shared parts.*sharing='private' or 'shared'"),
        ("bert", None, {"init_lora_weights": "pissa"}, "start from the base weights"),
        ("bert", None, {"target_modules": ["token_type_embeddings"]}, "no table of tokens: positions and the like"),
        ("t5", None, {"target_modules": ["relative_attention_bias"]}, "no table of tokens"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_routed_is_refused(
    kind: str, extra: Any, given: dict[str, Any], message: str, tiny_backbone: Any
) -> None:
    given = dict(given)
    sharing = given.pop("sharing", "private")
    lora = LoraConfig(**({"target_modules": [TABLES[kind]]} | given))
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(
            tiny_backbone(kind), [WORD, *([extra] if extra else [])], adapters=lora, sharing=sharing
        )


@pytest.mark.parametrize(("kind", "table"), [("t5", "shared.weight"), ("bart", "model.shared.weight")])
def test_an_output_layer_that_is_the_table_is_refused_and_all_linear_leaves_it_out(
    kind: str, table: str, tiny_backbone: Any
) -> None:
    folder, more = tiny_backbone(kind), [Translation(name="more")]
    tied = LoraConfig(r=2, target_modules=["lm_head"])
    with pytest.raises(ValueError, match=rf"'lm_head', whose weight is tied \({table}.*lm_head.weight\)"):
        MultiTaskModel.from_backbone(folder, more, adapters=tied)
    model = MultiTaskModel.from_backbone(folder, more, adapters=LoraConfig(r=2, target_modules="all-linear"))
    assert not any("lm_head" in name for name, _ in model.named_parameters() if "lora_" in name)


def test_a_task_that_cannot_have_a_table_leaves_the_model_as_it_is(tiny_backbone: Any) -> None:
    linear = LoraConfig(r=2, target_modules=["query"])
    model = MultiTaskModel.from_backbone(tiny_backbone(), [WORD, FillMask(name="fill")], adapters=linear)
    keys = list(model.state_dict())
    tied = LoraConfig(r=2, target_modules=["word_embeddings"])
    with pytest.raises(ValueError, match="weight is tied"):
        model.add_task(TextClassification(name="e", labels=["no", "yes"]), adapter=tied)
    assert list(model.state_dict()) == keys and list(model.tasks) == ["topic", "fill"]
    assert model.config.task_adapters is None


def test_an_untied_decoder_writes_with_tables_of_its_own(tiny_backbone: Any, tmp_path: Any) -> None:
    untied = AutoModelForCausalLM.from_pretrained(tiny_backbone("llama"), tie_word_embeddings=False)
    nn.init.normal_(untied.lm_head.weight)
    untied.save_pretrained(tmp_path / "untied")
    MultiTaskModel.from_backbone(tiny_backbone("llama"), tasks()).tokenizer.save_pretrained(tmp_path / "untied")
    both = [TextGeneration(name="one"), TextGeneration(name="two")]
    model = on_tokens(str(tmp_path / "untied"), "llama", tasks=both)
    inputs = texts(2)
    kept = {
        n: model.generate(inputs["input_ids"], inputs["attention_mask"], task=n, max_new_tokens=5)
        for n in ("one", "two")
    }
    assert not torch.equal(kept["one"], kept["two"])
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model").eval()
    for name, wanted in kept.items():
        found = again.generate(inputs["input_ids"], inputs["attention_mask"], task=name, max_new_tokens=5)
        assert torch.equal(found, wanted)
