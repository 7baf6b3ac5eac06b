"""Task packs: saved, pushed, loaded into other models on the same backbone, and refused by those on another."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_scripts import BUILD
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_modeling import batch, build, logits, three_tasks
from tiny import ARCHITECTURES
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from hf_mtl import FillMask, MultiTaskModel, TextClassification, TextGeneration, Translation
from hf_mtl.adapters import fingerprint

# peft 0.21 asks transformers 5.23 by an attribute's old name; only plain PeftModel does, which the package never makes.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4)
WIDE = LoraConfig(r=4, target_modules=["query", "value"], use_rslora=True)
DORA = LoraConfig(r=2, target_modules="all-linear", use_dora=True)
MOOD = TextClassification(name="mood", labels=("good", "bad"))


def trained_everywhere(model: MultiTaskModel) -> MultiTaskModel:
    """Every weight of adapters and heads moved, DoRA's magnitudes too."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("adapters", [LORA, WIDE, DORA], ids=["lora", "rslora", "dora"])
def test_a_pack_gives_the_same_answers_in_another_model(adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), adapters))
    inputs = batch(model)
    kept = logits(model, inputs)
    for name in model.tasks:
        model.save_task(name, tmp_path / name)
    other = build(tiny_backbone(), LORA, tasks=[MOOD])
    before = logits(other, inputs)["mood"]
    other.load_task(tmp_path / "topic", name="subject")
    other.load_task(tmp_path / "answer")
    found = logits(other, inputs)
    assert list(found) == ["mood", "subject", "answer"] and torch.equal(found["mood"], before)
    assert torch.equal(found["subject"], kept["topic"]) and torch.equal(found["answer"], kept["answer"])
    other.save_pretrained(tmp_path / "whole")
    again = logits(MultiTaskModel.from_pretrained(tmp_path / "whole"), inputs)
    assert all(torch.allclose(again[name], found[name], atol=1e-6) for name in found)
    assert all(p.requires_grad for n, p in other.named_parameters() if "lora_" in n)


def test_a_pack_in_16_bits_is_half_as_large_and_answers_nearly_the_same(tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), LORA))
    for name, dtype in {"whole": None, "small": torch.float16}.items():
        model.save_task("topic", tmp_path / name, dtype=dtype)
        model.load_task(tmp_path / name, name=name)
    sizes = [load_file(tmp_path / n / "adapter" / "adapter_model.safetensors").values() for n in ("whole", "small")]
    full, half = (sum(value.nbytes for value in values) for values in sizes)
    assert half * 2 == full
    found = logits(model, batch(model))
    assert torch.equal(found["topic"], found["whole"]) and torch.allclose(found["whole"], found["small"], atol=1e-2)
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if ".small." in n)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_plain_peft_reads_a_packs_adapter(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(kind), LORA))
    model.save_task("tags", tmp_path)
    inputs = batch(model)
    backbone: Any = AutoModel.from_pretrained(tiny_backbone(kind))
    if backbone.config.is_encoder_decoder:
        backbone = backbone.get_encoder()
    plain = PeftModel.from_pretrained(backbone, tmp_path / "adapter").eval()
    with torch.no_grad():
        ours, theirs = model.encode(["tags"], **inputs)[-1], plain(**inputs).last_hidden_state
        bare = model.backbone(**inputs).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-4) and not torch.allclose(ours, bare, atol=1e-2)


# With it users of peft say for which class of theirs an adapter is.
TYPED = LoraConfig(r=2, target_modules=["query"], task_type="CAUSAL_LM")


@pytest.mark.parametrize("adapters", [WIDE, DORA, TYPED], ids=["rslora", "dora", "task_type"])
def test_plain_peft_reads_every_form(adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), adapters))
    model.save_task("tags", tmp_path)
    inputs = batch(model)
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_backbone()), tmp_path / "adapter").eval()
    with torch.no_grad():
        ours, theirs = model.encode(["tags"], **inputs)[-1], plain(**inputs).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_model_is_assembled_of_packs_with_different_adapters(tiny_backbone: Any, tmp_path: Any) -> None:
    one = trained_everywhere(build(tiny_backbone(), LORA))
    two = trained_everywhere(build(tiny_backbone(), WIDE, tasks=[MOOD]))
    one.config.card_data = {"results": {"topic": {"accuracy": 0.5}}, "split": "test"}
    inputs = batch(one)
    kept = logits(one, inputs) | logits(two, inputs)
    one.save_task("topic", tmp_path / "topic")
    two.save_task("mood", tmp_path / "mood")
    model = MultiTaskModel.from_tasks([tmp_path / "topic", tmp_path / "mood"])
    found = logits(model, inputs)
    assert list(found) == ["topic", "mood"] and all(torch.equal(found[n], kept[n]) for n in found)
    mixed = logits(model, inputs, task_ids=torch.tensor([0, 1]))
    assert torch.allclose(mixed["topic"], kept["topic"][:1], atol=1e-6)
    assert torch.allclose(mixed["mood"], kept["mood"][1:], atol=1e-6)
    assert model.config.card_data == {"results": {"topic": {"accuracy": 0.5}}, "split": "test"}
    assert model.card().data.eval_results and model.tokenizer is not None
    named = MultiTaskModel.from_tasks({"a": tmp_path / "topic", "b": tmp_path / "topic"})
    assert list(named.tasks) == ["a", "b"] and torch.equal(logits(named, inputs)["b"], kept["topic"])
    with pytest.raises(ValueError, match="both have a task 'topic'"):
        MultiTaskModel.from_tasks([tmp_path / "topic", tmp_path / "topic"])
    with pytest.raises(ValueError, match="one task pack or more"):
        MultiTaskModel.from_tasks([])


def test_a_task_of_a_decoder_or_an_encoder_decoder_that_writes_is_a_pack(tiny_backbone: Any, tmp_path: Any) -> None:
    topic = three_tasks()[0]
    for kind, task in {"gpt2": TextGeneration(name="write"), "t5": Translation(name="write")}.items():
        model = trained_everywhere(build(tiny_backbone(kind), LORA, tasks=[topic, task]))
        inputs = batch(model)
        kept = model.eval().generate(inputs["input_ids"], inputs["attention_mask"], task="write", max_new_tokens=5)
        both = {name: tmp_path / kind / name for name in model.tasks}
        for name, folder in both.items():
            model.save_task(name, folder)
        again = MultiTaskModel.from_tasks(both).eval()
        found = again.generate(inputs["input_ids"], inputs["attention_mask"], task="write", max_new_tokens=5)
        assert torch.equal(kept, found)
        assert torch.allclose(
            logits(again, inputs, tasks=["topic"])["topic"], logits(model, inputs, tasks=["topic"])["topic"]
        )
        reader = build(tiny_backbone(kind), LORA, tasks=[MOOD])  # without a language model
        reader.load_task(both["topic"])
        with pytest.raises(ValueError, match="needs a language model"):
            reader.load_task(both["write"])
        assert list(reader.tasks) == ["mood", "topic"]


def test_the_fingerprint_is_of_the_backbone_alone(tiny_backbone: Any, tmp_path: Any) -> None:
    folder = tiny_backbone()
    plain = build(folder, None)
    found = plain.backbone_fingerprint("topic")
    assert len(found) == 32 and found == fingerprint(AutoModel.from_pretrained(folder, add_pooling_layer=False))
    for model in (build(folder, LORA), build(folder, DORA), build(folder, LORA, dtype=torch.bfloat16)):
        assert model.backbone_fingerprint("tags") == found
    masked = build(folder, LORA, tasks=[MOOD, FillMask(name="fill")])
    assert masked.backbone_fingerprint("mood") == found != masked.backbone_fingerprint("fill")
    masked.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert [again.backbone_fingerprint(n) for n in again.tasks] == [masked.backbone_fingerprint(n) for n in again.tasks]
    with torch.no_grad():
        plain.backbone.encoder.layer[1].output.dense.bias[3] += 1e-2
    assert plain.backbone_fingerprint("topic") != found


def test_a_pack_is_refused_by_a_model_on_another_backbone(tiny_backbone: Any, tmp_path: Any) -> None:
    build(tiny_backbone(), LORA).save_task("topic", tmp_path)
    other = build(tiny_backbone("electra"), LORA, tasks=[MOOD])
    keys = list(other.state_dict())
    wanted = r"belongs to the backbone '.*bert.*' \(bert, fingerprint \w{32}\).*model is on '.*electra.*' \(electra"
    with pytest.raises(ValueError, match=wanted + r".*from_tasks\(\[\.\.\.\]\).*the pack's own backbone, '.*bert"):
        other.load_task(tmp_path)
    with pytest.raises(ValueError, match="belongs to the backbone"):
        MultiTaskModel.from_tasks([tmp_path], backbone=tiny_backbone("electra"))
    assert list(other.tasks) == ["mood"] and list(other.state_dict()) == keys and other.config.task_adapters is None


def test_a_pack_of_a_backbone_that_was_trained_says_so(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA, train_backbone=True)
    with torch.no_grad():
        next(model.backbone.parameters()).add_(1)
    model.save_task("topic", tmp_path)
    with pytest.raises(ValueError, match=r"one name and other weights.*train_backbone.*on just its backbone"):
        MultiTaskModel.from_tasks([tmp_path])


def test_a_pack_without_an_adapter_fits_only_the_backbone_trained_with_it(tiny_backbone: Any, tmp_path: Any) -> None:
    model = trained_everywhere(build(tiny_backbone(), None))
    inputs = batch(model)
    kept = logits(model, inputs)["topic"]
    model.save_task("topic", tmp_path / "pack")
    assert not (tmp_path / "pack" / "adapter").exists()
    with pytest.raises(
        ValueError, match=r"has no adapter: .*only into models on just that backbone, which was trained"
    ):
        MultiTaskModel.from_tasks([tmp_path / "pack"])
    model.remove_task("topic")
    model.save_pretrained(tmp_path / "rest")
    again = MultiTaskModel.from_pretrained(tmp_path / "rest")
    again.load_task(tmp_path / "pack")
    assert torch.allclose(logits(again, inputs)["topic"], kept, atol=1e-6)
    adapted = build(tiny_backbone(), LORA, tasks=[MOOD])
    adapted.save_task("mood", tmp_path / "mood")
    with pytest.raises(ValueError, match="has an adapter, and this model's tasks share all of the backbone"):
        again.load_task(tmp_path / "mood")


def test_a_frozen_backbones_head_alone_goes_beside_adapters(tiny_backbone: Any, tmp_path: Any) -> None:
    probe = build(
        tiny_backbone(),
        {"mood": None, "other": LORA},
        tasks=[MOOD, TextClassification(name="other", labels=("x", "y"))],
    )
    probe.save_task("mood", tmp_path)
    model = build(tiny_backbone(), LORA)
    model.load_task(tmp_path)
    assert torch.equal(logits(model, batch(model))["mood"], logits(probe, batch(model))["mood"])


def test_the_card_and_the_description_say_what_it_is(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.config.card_data = {"results": {"topic": {"accuracy": 0.875}, "tags": {"f1": 1.0}}, "license": "apache-2.0"}
    model.config.backbone_name = "google-bert/bert-base-uncased"
    model.save_task("topic", tmp_path, model_id="me/topic-pack")
    said = json.loads((tmp_path / "task.json").read_text())
    assert said["task"]["labels"] == ["x", "y", "z"] and said["adapter"]["r"] == 2 and said["format"] == 1
    assert set(said["versions"]) == {"hf_mtl", "transformers", "peft", "torch"}
    assert said["card"] == {"results": {"topic": {"accuracy": 0.875}}, "license": "apache-2.0"}
    card = (tmp_path / "README.md").read_text()
    for part in (
        "base_model: google-bert/bert-base-uncased",
        "base_model_relation: adapter",
        "- task-pack",
        "`x`, `y`",
        "0.8750",
        said["backbone"]["fingerprint"],
        'load_task("me/topic-pack")',
        "license: apache-2.0",
    ):
        assert part in card, part
    assert "f1" not in card
    assert not (tmp_path / "adapter_config.json").exists()  # it would make transformers load an adapter there


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "adapters"])
def test_a_fill_mask_task_is_no_pack(adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), adapters, tasks=[MOOD, FillMask(name="fill")])
    with pytest.raises(ValueError, match=r"'fill'.*head of a masked language model.*save_pretrained"):
        model.save_task("fill", tmp_path)


def damaged(folder: Path, how: str) -> None:
    if how == "no pack":
        (folder / "task.json").unlink()
    elif how == "newer":
        said = json.loads((folder / "task.json").read_text())
        (folder / "task.json").write_text(json.dumps(said | {"format": 2}))
    elif how == "cut description":
        (folder / "task.json").write_text((folder / "task.json").read_text()[:-9])
    elif how == "foreign":
        (folder / "task.json").write_text("{}")
    elif how == "no adapter":
        (folder / "adapter" / "adapter_model.safetensors").unlink()
    else:
        weights = folder / "head.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("no pack", OSError, "is no task pack: it has no task.json.*save_task"),
        ("newer", ValueError, "format 2.*this version reads 1.*pip install -U"),
        ("cut description", OSError, r"task\.json is cut short or damaged"),
        ("foreign", OSError, r"task\.json is no task pack's.*save_task"),
        ("no adapter", OSError, "lacks adapter_model.safetensors"),
        ("cut", OSError, "head.safetensors is cut short or damaged"),
    ],
)
def test_what_is_no_whole_pack_is_refused(
    how: str, error: Any, message: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = build(tiny_backbone(), LORA)
    model.save_task("topic", tmp_path)
    damaged(tmp_path, how)
    with pytest.raises(error, match=message):
        model.load_task(tmp_path, name="more")
    assert list(model.tasks) == ["topic", "tags", "answer"]


@pytest.mark.parametrize(
    ("source", "name", "error", "message"),
    [
        ("pack", None, ValueError, "has a task 'topic' already"),
        ("pack", "a.b", ValueError, "cannot be used"),
        ("me/nothing", None, OSError, "'me/nothing' is no folder here.*cannot be reached"),
        ("no such folder!", None, OSError, "neither a folder that exists nor a repository's id"),
    ],
)
def test_wrong_loads_say_what_to_do(
    source: str, name: Any, error: Any, message: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = build(tiny_backbone(), LORA)
    model.save_task("topic", tmp_path / "pack")
    with pytest.raises(error, match=message):
        model.load_task(tmp_path / "pack" if source == "pack" else source, name=name)


def test_a_pack_or_an_adapter_alone_is_no_model(tiny_backbone: Any, tmp_path: Any) -> None:
    build(tiny_backbone(), LORA).save_task("topic", tmp_path)
    with pytest.raises(ValueError, match=r"is a task pack, .*from_tasks\(\['.*'\]\), .*model\.load_task\("):
        MultiTaskModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is an adapter of peft, .*model\.attach_adapter\(task, '.*adapter'\)"):
        MultiTaskModel.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize(("way", "name"), [("save_pretrained", "save_directory"), ("save_task", "folder")])
def test_a_folder_below_a_file_is_refused(way: str, name: str, tiny_backbone: Any, tmp_path: Any) -> None:
    (tmp_path / "taken").write_text("")
    model = build(tiny_backbone(), LORA)
    given = ("topic",) if way == "save_task" else ()
    for folder in (tmp_path / "taken", tmp_path / "taken" / "out"):
        with pytest.raises(OSError, match=rf"^{name}='.*': .*taken is a file\. Name another folder\.$"):
            getattr(model, way)(*given, folder)
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


# ---------------------------------------------------------------------- adapters made by plain peft


def made_by_peft(model: Any, folder: Path, **settings: Any) -> Any:
    torch.manual_seed(5)
    plain = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    plain.save_pretrained(folder)
    return plain.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3, "target_modules": ["query", "dense"], "lora_alpha": 6},
        {"r": 3, "target_modules": "all-linear", "rank_pattern": {"layer.0.attention.self.query": 5},
         "alpha_pattern": {"value": 9}, "use_dora": True},
    ],
    ids=["lora", "patterns"],
)  # fmt: skip
def test_an_adapter_made_by_plain_peft_becomes_a_tasks(settings: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    plain = made_by_peft(AutoModel.from_pretrained(tiny_backbone()), tmp_path / "lora", **settings)
    model = build(tiny_backbone(), LORA)
    inputs = batch(model)
    before = logits(model, inputs)
    model.attach_adapter("tags", tmp_path / "lora")
    with torch.no_grad():
        wanted, found = plain(**inputs).last_hidden_state, model.encode(["tags"], **inputs)[-1]
    assert torch.allclose(wanted, found, atol=1e-5)
    assert torch.equal(logits(model, inputs)["topic"], before["topic"])
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model")
    assert torch.allclose(again.encode(["tags"], **inputs)[-1], found, atol=1e-5)
    model.save_task("tags", tmp_path / "pack")
    back = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_backbone()), tmp_path / "pack" / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(back(**inputs).last_hidden_state, wanted, atol=1e-5)


def test_of_a_classifiers_adapter_the_backbones_part_is_taken(
    tiny_backbone: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(tiny_backbone())
    plain = made_by_peft(classifier, tmp_path, r=2, target_modules=["query", "dense"], task_type="SEQ_CLS")
    model = build(tiny_backbone(), LORA)
    inputs = batch(model)
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        model.attach_adapter("topic", tmp_path)
    assert "pooler.dense" in caplog.text and "classifier" in caplog.text
    with torch.no_grad():
        wanted = plain.base_model.model.bert(**inputs).last_hidden_state
    assert torch.allclose(model.encode(["topic"], **inputs)[-1], wanted, atol=1e-5)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSeq2SeqLM])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_of_an_encoder_decoders_adapter_a_task_takes_what_it_runs_through(
    kind: str, auto: Any, tiny_backbone: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["q", "v"] if kind == "t5" else ["q_proj", "v_proj"]
    plain = made_by_peft(auto.from_pretrained(tiny_backbone(kind)), tmp_path, r=2, target_modules=names)
    tasks = [three_tasks()[0], Translation(name="write")]
    for given in (tasks[:1], tasks):
        model = build(tiny_backbone(kind), LORA, tasks=given)
        inputs = batch(model)
        for task in given:
            caplog.clear()
            with caplog.at_level(logging.WARNING, "hf_mtl"):
                model.attach_adapter(task.name, tmp_path)
            assert ("decoder" in caplog.text) == (task.name == "topic")  # which does not run through it
            with torch.no_grad():
                wanted, found = plain.get_encoder()(**inputs)[0], model.encode([task.name], **inputs)[-1]
            assert torch.allclose(wanted, found, atol=1e-5)


def test_a_damaged_adapter_leaves_the_tasks_own(tiny_backbone: Any, tmp_path: Any) -> None:
    made_by_peft(AutoModel.from_pretrained(tiny_backbone()), tmp_path, r=5, target_modules=["query", "dense"])
    file = tmp_path / "adapter_model.safetensors"
    values = load_file(file)
    del values[next(key for key in values if "lora_B" in key)]
    save_file(values, file, metadata={"format": "pt"})
    model = build(tiny_backbone(), LORA)
    inputs, config = batch(model), model.config.to_dict()
    before, learned = logits(model, inputs), {name for name, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match=r"'topic' does not fit: the file lacks .*lora_B"):
        model.attach_adapter("topic", tmp_path)
    assert all(torch.equal(found, before[name]) for name, found in logits(model, inputs).items())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == learned
    assert model.config.to_dict() == config
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(OSError, match=r"adapter_model\.safetensors is cut short or damaged"):
        model.attach_adapter("topic", tmp_path)


def test_an_adapter_that_does_not_fit_is_refused(tiny_backbone: Any, tmp_path: Any) -> None:
    made_by_peft(AutoModel.from_pretrained(tiny_backbone("gpt2")), tmp_path / "gpt2", r=2, fan_in_fan_out=True)
    model = build(tiny_backbone(), LORA)
    inputs = batch(model)
    before = logits(model, inputs)
    with pytest.raises(ValueError, match="for another backbone"):
        model.attach_adapter("topic", tmp_path / "gpt2")
    with pytest.raises(OSError, match=r"no adapter in peft's format: it has no adapter_config\.json"):
        model.attach_adapter("topic", tiny_backbone())
    assert torch.equal(logits(model, inputs)["topic"], before["topic"])
    wide = AutoModel.from_config(
        AutoConfig.for_model("bert", num_hidden_layers=2, hidden_size=48, num_attention_heads=2)
    )
    made_by_peft(wide, tmp_path / "wide", r=2, target_modules=["query"])
    with pytest.raises(ValueError, match=r"for another backbone: .*query.* has shape \(2, 48\)"):
        model.attach_adapter("topic", tmp_path / "wide")
    assert torch.equal(logits(model, inputs)["topic"], before["topic"])
    made_by_peft(AutoModel.from_pretrained(tiny_backbone()), tmp_path / "bert", r=2)
    with pytest.raises(ValueError, match="'topic' cannot have an adapter"):
        build(tiny_backbone(), None).attach_adapter("topic", tmp_path / "bert")


# ---------------------------------------------------------------------- the Hub

PUSH = """
    with torch.no_grad():
        torch.save((inputs, model(**inputs).logits), {folder!r} + "/logits.pt")
    model.push_task("topic", "user/topic-pack")
    model.push_task("tags", "user/tags-pack", private=True)
"""

PULL = """
    import torch, hf_mtl
    from hf_mtl import MultiTaskModel
    from huggingface_hub import HfApi, ModelCard
    inputs, kept = torch.load({folder!r} + "/logits.pt")
    model = MultiTaskModel.from_tasks(["user/topic-pack", "user/tags-pack"]).eval()
    with torch.no_grad():
        found = model(**inputs).logits
    assert all(torch.equal(found[k], kept[k]) for k in kept)
    model.load_task("user/topic-pack", name="again")
    with torch.no_grad():
        assert torch.equal(model(**inputs, tasks=["again"]).logits["again"], kept["topic"])
    card = ModelCard.load("user/topic-pack")
    assert "task-pack" in card.data.tags and 'load_task("user/topic-pack")' in card.content, card.content
    files = {{"task.json", "head.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}}
    assert files <= set(HfApi().list_repo_files("user/topic-pack"))
"""

LOCKED = """
    from hf_mtl import MultiTaskModel
    for name in ("user/tags-pack", "user/nothing"):
        try:
            MultiTaskModel.from_tasks([name])
        except OSError as error:
            assert name in str(error) and "hf auth login" in str(error), error
        else:
            raise AssertionError("a private pack was read without a token")
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the server's sockets, closed by the client late
def test_a_pushed_pack_is_pulled_into_an_empty_cache(loopback_hub: Any, tiny_backbone: Any, tmp_path: Path) -> None:
    names = {"backbone": tiny_backbone(), "folder": str(tmp_path)}
    loopback_hub.run((BUILD + PUSH).format(**names), cache=tmp_path / "pusher")
    loopback_hub.run(PULL.format(**names), cache=tmp_path / "puller")
    loopback_hub.run(LOCKED, cache=tmp_path / "locked", token=False)
