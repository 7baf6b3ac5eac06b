"""A task starts from other tasks' adapters: merged as peft merges them, and the nearest ones."""

import logging
from typing import Any

import datasets
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from test_modeling import batch, build, logits
from test_packs import trained_everywhere
from transformers import AutoModel

from hf_mtl import FillMask, MultipleChoice, MultiTaskModel, TextClassification, TokenClassification
from hf_mtl.adapters import COMBINATIONS, adapter_layers

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = LoraConfig(r=4, target_modules=["query", "dense"], lora_alpha=8)
MOOD = TextClassification(name="mood", labels=("good", "bad"))


def delta(layer: Any, name: str) -> torch.Tensor:
    return layer.get_delta_weight(name).detach()


def by_peft(folder: str, packs: Any, weights: dict[str, float], path: str, method: str, **options: Any) -> Any:
    """What peft's own merge of the same adapters adds to a layer of a plain model."""
    names = list(weights)
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), packs / names[0] / "adapter", names[0])
    for name in names[1:]:
        plain.load_adapter(packs / name / "adapter", name)
    tuner: Any = plain.base_model
    if "dare" not in method:
        tuner.add_weighted_adapter(names, list(weights.values()), "merged", method, **options)
        return delta(tuner.model.get_submodule(path), "merged")
    # Making a new adapter draws numbers before the merge does, so that its part is called by itself.
    layer = tuner.model.get_submodule(path)
    torch.manual_seed(7)
    if method.endswith("svd"):
        down, up = tuner._svd_generalized_task_arithmetic_weighted_adapter(
            method, names, list(weights.values()), 4, layer, None, None, options["density"], "total"
        )
    else:
        down, up = tuner._generalized_task_arithmetic_weighted_adapter(
            method, names, list(weights.values()), layer, options["density"], "total"
        )
    return up.detach() @ down.detach()


@pytest.mark.parametrize("method", COMBINATIONS)
def test_the_merge_is_pefts(method: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA)
    weights = {"topic": 0.7, "tags": -0.4}
    for name in weights:
        model.save_task(name, tmp_path / name)
    model.add_task(MOOD, adapter=LoraConfig(r=4, target_modules=["query", "dense"], lora_alpha=2))
    before = logits(model, batch(model))
    model.start_task("mood", weights, method=method, density=0.6, seed=7)
    last = ["encoder.layer.1.output.dense"] if "dare" not in method else []  # there the draws have gone on
    for path in ["encoder.layer.0.attention.self.query", *last]:
        ours = delta(model.backbone.get_submodule(path), "mood")
        options = {} if method in ("svd", "linear") else {"density": 0.6}
        assert torch.allclose(ours, by_peft(tiny_backbone(), tmp_path, weights, path, method, **options), atol=1e-5)
        assert ours.abs().max() > 0.01
    after = logits(model, batch(model))
    assert all(torch.equal(before[name], after[name]) for name in before if name != "mood")


def test_one_task_is_taken_over_as_it_is_whatever_the_scale(tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.add_task(MOOD, adapter=LoraConfig(r=6, target_modules=["query", "dense"], lora_alpha=1, use_rslora=True))
    model.start_task("mood", "tags")
    inputs = batch(model)
    with torch.no_grad():
        states = [model.encode([name], **inputs)[-1] for name in ("tags", "mood")]
    assert torch.allclose(*states, atol=1e-5)
    parameters = {n for n, p in model.named_parameters() if p.requires_grad and ".mood." in n and "lora" in n}
    model.train()(**inputs, tasks=["mood"], labels=torch.tensor([0, 1])).loss.backward()
    assert parameters == {n for n, p in model.named_parameters() if p.grad is not None and "lora" in n}


def test_the_mean_of_several_is_the_mean_of_what_they_add(tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.add_task(MOOD, adapter=LoraConfig(r=12, target_modules=["query", "dense"]))  # room for all of it
    model.start_task("mood", ["topic", "tags", "answer"])
    for layer in (model.backbone.encoder.layer[0].attention.self.query, model.backbone.encoder.layer[1].output.dense):
        wanted = sum(delta(layer, name) for name in ("topic", "tags", "answer")) / 3
        assert torch.allclose(delta(layer, "mood"), wanted, atol=1e-6)


@pytest.mark.parametrize("target", ["query", "word_embeddings"])
def test_rank_that_the_sources_do_not_fill_adds_nothing_and_learns(target: str, tiny_backbone: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), LoraConfig(r=2, target_modules=[target])))
    model.add_task(MOOD, adapter=LoraConfig(r=6, target_modules=[target]))
    model.start_task("mood", "tags")
    inputs = batch(model)
    with torch.no_grad():
        states = [model.encode([name], **inputs)[-1] for name in ("tags", "mood")]
    assert torch.allclose(*states, atol=1e-5)
    model.train()(**inputs, tasks=["mood"], labels=torch.tensor([0, 1])).loss.backward()
    for layer in adapter_layers(model.backbone):
        down, up = (kind[0].grad for kind in layer.weights(["mood"]))
        assert (down.abs().sum(1) + up.abs().sum(0) > 0).all()  # each of the six directions


@pytest.mark.parametrize(
    "adapters",
    [
        [LoraConfig(r=2, target_modules=["query"]), LoraConfig(r=2, target_modules=["query", "value"])],
        [IA3Config(target_modules=names, feedforward_modules=[]) for names in (["query"], ["query", "value"])],
    ],
    ids=["lora", "ia3"],
)
def test_of_a_learned_task_nothing_is_left_where_no_source_has_an_adapter(adapters: Any, tiny_backbone: Any) -> None:
    own = dict(zip(("topic", "tags", "answer"), (*adapters, None), strict=True))
    model = trained_everywhere(build(tiny_backbone(), own))
    model.start_task("tags", "topic")
    with torch.no_grad():
        states = [model.encode([name], **batch(model))[-1] for name in ("topic", "tags")]
    assert torch.allclose(*states, atol=1e-5)


def test_what_sources_have_in_layers_without_an_adapter_is_said_to_be_left_out(
    tiny_backbone: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(tiny_backbone(), LORA)
    model.add_task(MOOD, adapter=LoraConfig(r=4, target_modules=["query"]))
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        model.start_task("mood", ["topic", "tags"])
        assert "'mood' has no adapter in 6 layers where 'topic', 'tags' have (encoder.layer.0.att" in caplog.text
        caplog.clear()
        model.start_task("topic", "tags")
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "sources", "options", "message"),
    [
        ("mood", "topics", {}, "no task 'topics'.*Did you mean 'topic'"),
        ("moods", "topic", {}, "no task 'moods'"),
        ("mood", [], {}, "one task or more"),
        ("mood", "bare", {}, "'bare' has no adapter"),
        ("mood", "topic", {"method": "tie"}, "Unknown method 'tie'.*Did you mean 'ties'"),
        ("mood", "topic", {"density": 0.0}, "density must be above 0"),
        ("mood", "topic", {"method": "ties"}, "different ranks.*'ties_svd'"),
        ("mood", "dora", {}, "DoRA adapters cannot be combined"),
        ("mood", "biased", {}, "lora_bias=True cannot be combined"),
    ],
)
def test_what_cannot_be_combined_is_refused_and_changes_nothing(
    name: str, sources: Any, options: Any, message: str, tiny_backbone: Any
) -> None:
    extra = {n: TextClassification(name=n, labels=("x", "y")) for n in ("topic", "bare", "dora", "biased")}
    own = {"topic": LORA, "bare": None, "dora": LoraConfig(r=2, target_modules=["query"], use_dora=True)}
    own["biased"] = LoraConfig(r=2, target_modules=["query"], lora_bias=True)
    model = build(tiny_backbone(), own, tasks=list(extra.values()))
    model.add_task(MOOD, adapter=LoraConfig(r=2, target_modules=["query", "dense"]))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.start_task(name, sources, **options)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------------- the nearest


def test_the_nearest_task_is_the_one_that_learned_the_same(tiny_backbone: Any, rows: Any) -> None:
    texts = [row["text"] for row in rows("intent", "train", 90)]
    given = [{"text": text, "label": "card" if "card" in text else "other"} for text in texts]
    far = TextClassification(name="far", labels=("a", "b"), dropout=0.0)
    same = TextClassification(name="same", labels=("card", "other"), dropout=0.0)
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [far, same], adapters=LORA)
    inputs = batch(model, tuple(texts))
    gold = torch.tensor([int(row["label"] == "other") for row in given])
    labels = {"same": gold, "far": gold[torch.randperm(len(gold))]}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    model.add_task(TextClassification(name="again", labels=("other", "card")))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    near = model.nearest_tasks("again", given)
    assert next(iter(near)) == "same" and set(near) == {"same", "far", "again"}
    assert list(near.values()) == sorted(near.values())
    assert near == model.nearest_tasks("again", datasets.Dataset.from_list(given))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="six labelled rows"):
        model.nearest_tasks("again", given[:3])


def test_nearness_is_measured_where_layers_do_not_see_a_row_for_each_text(tiny_backbone: Any, rows: Any) -> None:
    names = ("one", "other")
    some = [TextClassification(name=name, labels=("card", "other"), dropout=0.0) for name in names]
    model = MultiTaskModel.from_backbone(tiny_backbone("deberta-v2"), some, adapters=LORA)
    texts = [row["text"] for row in rows("intent", "train", 30)]
    given = [{"text": text, "label": "card" if "card" in text else "other"} for text in texts]
    assert model.nearest_tasks("one", given, steps=1).keys() == set(names)


def test_nearness_is_measured_for_tasks_on_words_and_choices_too(tiny_backbone: Any, rows: Any) -> None:
    pos = datasets.Dataset.from_list(rows("pos", "train", 12))
    choices = [{"question": f"Which is {i}?", "choices": ["one", "two", "three"], "label": i % 3} for i in range(9)]
    tasks = [TokenClassification.from_dataset("pos", pos), MultipleChoice(name="pick"), FillMask(name="fill")]
    model = build(tiny_backbone(), LORA, tasks=tasks)
    for name, given in {"pos": pos, "pick": choices}.items():
        assert set(model.nearest_tasks(name, given, steps=3)) == set(model.tasks)
    with pytest.raises(ValueError, match=r"'fill'.*no head of its own"):
        model.nearest_tasks("fill", pos)
