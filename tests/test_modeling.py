"""MultiTaskModel: every architecture, adapters or not, saved, loaded, changed."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig
from tiny import ARCHITECTURES
from transformers import AutoConfig, AutoModel

from hf_mtl import (
    MultiTaskConfig,
    MultiTaskModel,
    QuestionAnswering,
    Task,
    TextClassification,
    TokenClassification,
)

LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4)


def three_tasks() -> list[Task]:
    return [
        TextClassification(name="topic", labels=("x", "y", "z"), dropout=0.0),
        TokenClassification(name="tags", labels=("O", "B-a", "I-a"), dropout=0.0),
        QuestionAnswering(name="answer"),
    ]


def build(folder: str, adapters: Any = None, tasks: Any = None, **kwargs: Any) -> MultiTaskModel:
    """A model whose adapters do something: a fresh one is the identity."""
    model = MultiTaskModel.from_backbone(folder, tasks or three_tasks(), adapters=adapters, **kwargs)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.2
    return model


def batch(
    model: MultiTaskModel, texts: tuple[str, ...] = ("I lost my card in Paris yesterday", "Hello")
) -> dict[str, Any]:
    return dict(model.tokenizer(list(texts), padding=True, return_tensors="pt"))


def logits(model: MultiTaskModel, inputs: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model.eval()(**inputs, **kwargs).logits


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "adapters"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_answers_trains_and_reloads(
    kind: str, adapters: Any, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = build(tiny_backbone(kind), adapters)
    inputs = batch(model)
    before = logits(model, inputs)
    seq = inputs["input_ids"].shape[1]
    assert (
        before["topic"].shape == (2, 3)
        and before["tags"].shape == (2, seq, 3)
        and before["answer"].shape == (2, seq, 2)
    )
    labels = {
        "topic": torch.tensor([0, 1]),
        "tags": torch.ones_like(inputs["input_ids"]),
        "answer": torch.tensor([[1, 1], [0, 0]]),
    }
    model(**inputs, labels=labels).loss.backward()
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in model.named_parameters() if p.grad is not None} <= learning
    if adapters is not None:
        assert all("lora_" in n or n.startswith("heads.") for n in learning)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, MultiTaskModel)
    kept, loaded = model.state_dict(), again.state_dict()
    assert kept.keys() == loaded.keys() and all(torch.equal(kept[k], loaded[k]) for k in kept)
    after = logits(again, inputs)
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == learning


def test_a_new_process_gives_the_same_logits(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.save_pretrained(tmp_path / "m")
    torch.save(logits(model, batch(model)), tmp_path / "logits.pt")
    script = (
        "import sys, torch, hf_mtl; from transformers import AutoModel\n"
        "m = AutoModel.from_pretrained(sys.argv[1] + '/m').eval()\n"
        "x = m.tokenizer(['I lost my card in Paris yesterday', 'Hello'], padding=True, return_tensors='pt')\n"
        "kept = torch.load(sys.argv[1] + '/logits.pt')\n"
        "with torch.no_grad(): got = m(**x).logits\n"
        "assert all((kept[k] - got[k]).abs().max() <= 1e-6 for k in kept), 'logits differ'\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_a_sharded_checkpoint_loads_to_the_bit(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_fresh_adapters_are_the_identity(tiny_backbone: Any) -> None:
    folder = tiny_backbone()
    model = MultiTaskModel.from_backbone(folder, three_tasks(), adapters=LORA)
    inputs = batch(model)
    with torch.no_grad():
        bare = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
        routed = model.encode(["tags"], **inputs)[-1]
    assert torch.equal(bare, routed)


@pytest.mark.parametrize("removed", ["topic", "tags", "answer"])
def test_after_a_task_is_removed_the_others_still_learn(removed: str, tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.config.card_data = {"results": {"topic": {"accuracy": 1.0}, "tags": {"f1": 1.0}, "answer": {"f1": 1.0}}}
    model.remove_task(removed)
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    assert adapters and all(p.requires_grad for p in adapters)
    assert model.card().data.eval_results and removed not in model.config.card_data["results"]


def test_the_only_task_stays(tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA, tasks=three_tasks()[:1])
    with pytest.raises(ValueError, match="only task"):
        model.remove_task("topic")


def test_options_of_the_backbone_that_are_no_tensors_go_with_rows_of_several_tasks(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("gpt2"), LORA)
    inputs, ids = batch(model), torch.tensor([1, 0])
    wanted = logits(model, inputs, task_ids=ids)
    found = logits(model, inputs, task_ids=ids, use_cache=False)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["gpt2", "deberta-v2"])
def test_inputs_that_are_one_for_all_rows_go_with_rows_of_several_tasks(kind: str, tiny_backbone: Any) -> None:
    model = build(tiny_backbone(kind), LORA)
    inputs, ids = (
        batch(model, ("I lost my card", "Where is Paris?", "Hello", "A fourth text")),
        torch.tensor([1, 0, 1, 1]),
    )
    places = torch.arange(inputs["input_ids"].shape[1])[None].flip(1) % 5
    wanted = logits(model, inputs, task_ids=ids, position_ids=places.expand(4, -1))
    found = logits(model, inputs, task_ids=ids, position_ids=places)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position_ids", torch.arange(2)[:, None]),
        ("head_mask", torch.ones(2, 4)),
        ("encoder_outputs", (torch.ones(4, 3, 32),)),
        ("mems", [torch.ones(4, 3, 32)]),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "deberta-v2"])
def test_an_input_that_has_no_rows_is_not_given_whole_to_those_of_a_task(
    kind: str, name: str, value: Any, tiny_backbone: Any
) -> None:
    model = build(tiny_backbone(kind), LORA)
    inputs = batch(model, ("I lost my card", "Where is Paris?", "Hello", "A fourth text"))
    with pytest.raises(ValueError, match=rf"{name} \(.*\) cannot be taken apart into the rows of several tasks"):
        model(**inputs, task_ids=torch.tensor([1, 0, 1, 0]), **{name: value})


def test_a_cache_that_every_task_would_add_to_is_refused(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("gpt2"), LORA)
    inputs = batch(model)
    cache = model.backbone(**inputs, use_cache=True).past_key_values
    for asked in ({}, {"tasks": ["topic"]}, {"task_ids": torch.tensor([0, 1])}):
        with pytest.raises(ValueError, match="takes no past_key_values: give all of the input_ids"):
            model(**inputs, **asked, past_key_values=cache)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "modernbert", "deberta-v2"])
def test_rows_of_several_tasks_in_a_batch_equal_each_task_alone(kind: str, tiny_backbone: Any) -> None:
    model = build(tiny_backbone(kind), LORA)
    inputs = batch(model, ("I lost my card", "Where is Paris, my friend?", "Hello", "A fourth text"))
    alone = logits(model, inputs)
    ids = torch.tensor([1, 0, 2, 0])
    mixed = logits(model, inputs, task_ids=ids)
    for number, name in enumerate(model.tasks):
        assert torch.allclose(mixed[name], alone[name][ids == number], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_padding_on_either_side_gives_the_same_answers(kind: str, tiny_backbone: Any) -> None:
    model = build(tiny_backbone(kind), None)
    right = batch(model)
    model.tokenizer.padding_side = "left"
    left = batch(model)
    # Absolute positions begin at the first real token.
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    model.tokenizer.padding_side = "right"
    assert torch.allclose(logits(model, right)["topic"], logits(model, left)["topic"], atol=1e-5)


def test_checkpointed_gradients_equal_plain_ones_with_two_tasks_in_a_batch(tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = batch(model)
    labels = {"topic": torch.tensor([2]), "tags": torch.ones_like(inputs["input_ids"][:1])}

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**inputs, task_ids=torch.tensor([0, 1]), labels=labels).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.activation_checkpointing_enable()
    replayed = gradients()
    assert plain.keys() == replayed.keys()
    assert all(torch.allclose(plain[n], replayed[n], atol=1e-7) for n in plain)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("adapters", [None, LORA], ids=["all", "adapters"])
def test_gradients_are_taken_from_every_parameter(adapters: Any, tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"), adapters)
    model.register_parameter("nothing", None)
    model.add_module("no_module", None)
    model.add_module("traced", torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(1, 3)))
    for to_none in (False, True):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model.zero_grad(set_to_none=to_none)
        for name, parameter in model.named_parameters():
            assert parameter.grad is None if to_none else not parameter.grad.any(), name


class Stubborn(torch.nn.Dropout):
    def train(self, mode: bool = True) -> "Stubborn":
        return super().train(False)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_training_and_evaluation_reach_every_module(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("bert"), LORA)
    model.add_module("no_module", None)
    model.add_module("traced", torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(1, 3)))
    model.add_module("stubborn", torch.nn.Sequential(Stubborn(), torch.nn.Dropout()))
    held = model.heads["topic"]
    held.train = lambda mode=True: held  # as is done to keep a part as it is
    for mode in (True, False, True):
        assert model.train(mode) is model
        for name, module in model.named_modules():
            if not name.startswith("heads.topic"):
                assert module.training == (mode and not isinstance(module, Stubborn)), name
    assert not held.training
    with pytest.raises(ValueError, match="boolean"):
        model.train("yes")


def test_training_one_task_leaves_the_others_bit_identical(tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA)
    inputs = batch(model)
    before = logits(model, inputs)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()(**inputs, tasks=["topic"], labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = logits(model, inputs)
    assert torch.equal(before["tags"], after["tags"]) and torch.equal(before["answer"], after["answer"])
    assert not torch.allclose(before["topic"], after["topic"])


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "adapters"])
def test_tasks_come_and_go_without_touching_the_others(adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), adapters)
    inputs = batch(model)
    before = logits(model, inputs)
    model.add_task(TextClassification(name="mood", labels=("good", "bad")))
    added = logits(model, inputs)
    assert added["mood"].shape == (2, 2) and all(torch.equal(before[n], added[n]) for n in before)
    model.remove_task("tags")
    assert list(model.tasks) == ["topic", "answer", "mood"]
    assert not any(".tags" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = logits(MultiTaskModel.from_pretrained(tmp_path), inputs)
    assert all(torch.allclose(added[n], again[n], atol=1e-6) for n in again) and list(again) == list(model.tasks)


def test_tasks_that_a_checkpoint_lacks_start_as_the_identity(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.save_pretrained(tmp_path)
    config = MultiTaskConfig.from_pretrained(tmp_path)
    config.tasks = [*config.tasks, TextClassification(name="mood", labels=("good", "bad")).to_dict()]
    more = MultiTaskModel.from_pretrained(tmp_path, config=config)
    inputs = batch(model)
    with torch.no_grad():
        bare = AutoModel.from_pretrained(tiny_backbone()).eval()(**inputs).last_hidden_state
        assert torch.equal(more.encode(["mood"], **inputs)[-1], bare)
    assert torch.allclose(logits(more, inputs)["topic"], logits(model, inputs)["topic"], atol=1e-6)


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "adapters"])
def test_on_a_bfloat16_backbone_heads_and_adapters_are_float32(
    adapters: Any, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = build(tiny_backbone(), adapters, dtype=torch.bfloat16)
    model.add_task(TextClassification(name="mood", labels=("good", "bad")))

    def right(model: MultiTaskModel) -> bool:
        own = {n: p.dtype for n, p in model.named_parameters() if n.startswith("heads.") or "lora_" in n}
        rest = {p.dtype for n, p in model.named_parameters() if n not in own}
        return set(own.values()) == {torch.float32} and rest == {torch.bfloat16}

    assert right(model)
    output = model(**batch(model), tasks=["topic"], labels=torch.tensor([0, 1]))
    assert output.loss.dtype == torch.float32
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert right(again)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert MultiTaskModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_implementation_reaches_the_backbone(attention: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), attn_implementation=attention)
    assert model.backbone.config._attn_implementation == attention
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path, attn_implementation=attention)
    assert again.backbone.config._attn_implementation == attention
    assert torch.allclose(logits(model, batch(model))["tags"], logits(again, batch(model))["tags"], atol=1e-5)


def test_a_device_map_places_the_whole_model(tiny_backbone: Any, tmp_path: Any) -> None:
    build(tiny_backbone(), LORA).save_pretrained(tmp_path)
    model = MultiTaskModel.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert logits(model, batch(model))["topic"].shape == (2, 3)


def test_heads_read_the_layer_they_name(tiny_backbone: Any) -> None:
    deep = TextClassification(name="deep", labels=("x", "y"), layer=0)
    model = build(tiny_backbone(), tasks=[deep])
    inputs = batch(model)
    with torch.no_grad():
        states = model.encode(["deep"], **inputs)
        embedded = model.backbone(**inputs, output_hidden_states=True).hidden_states[0]
        assert torch.equal(states[0], embedded) and len(states) == 3
        assert torch.equal(
            logits(model, inputs)["deep"], model.heads["deep"](embedded, inputs["attention_mask"]).logits
        )


def test_the_config_keeps_the_order_of_tasks_and_hides_remote_code(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert [task["name"] for task in written["tasks"]] == ["topic", "tags", "answer"]
    assert (
        written["auto_map"]["AutoModel"] == "hf_mtl_remote.MultiTaskModel" and (tmp_path / "hf_mtl_remote.py").exists()
    )
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, MultiTaskConfig) and getattr(config, "custom_pipelines", None) is None
    assert written["adapters"] == {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": "all-linear",
    }


def test_the_table_of_parameters_adds_up(tiny_backbone: Any, capsys: Any) -> None:
    model = build(tiny_backbone(), LORA)
    model.print_trainable_parameters()
    table = capsys.readouterr().out
    total = sum(p.numel() for p in model.parameters())
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trainable: {learn:,} of {total:,} parameters" in table and "topic" in table


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, x: m(**x, tasks=["topics"]), "no task 'topics'.*Did you mean 'topic'"),
        (lambda m, x: m(**x, tasks=m.config.tasks), "by its name, a string, not by dict.*Known: .*'topic'"),
        (lambda m, x: m(**x, tasks=["topic"], task_ids=torch.tensor([0, 0])), "not both"),
        (lambda m, x: m(**x, task_ids=torch.tensor([0, 3])), r"task_ids must lie in 0 to 2.*\[0, 3\]"),
        (lambda m, x: m(**x, task_ids=torch.tensor([0])), r"task_ids must be of shape \[2\].* is \[1\]"),
        (lambda m, x: m(**x, task_ids=torch.tensor([0, 1, 0])), r"task_ids must be of shape \[2\].* is \[3\]"),
        (lambda m, x: m(**x, task_ids=torch.tensor([[0], [1]])), r"task_ids must be of shape \[2\].* is \[2, 1\]"),
        (lambda m, x: m(**x, task_ids=torch.tensor([0.0, 1.0])), "task_ids must be a tensor of whole numbers.*0., 1."),
        (lambda m, x: m(**x, task_ids=["topic", "tags"]), "task_ids must be a tensor.*list.*tasks="),
        (lambda m, x: m.add_task({"type": "text-classification", "name": "q"}), "must hold tasks.*got dict"),
        (lambda m, x: m(**x, labels=torch.tensor([0, 1])), "give labels as a dict"),
        (lambda m, x: m(**x, labels={"topics": torch.tensor([0, 1])}), "labels has 'topics'.*Did you mean 'topic'"),
        (lambda m, x: m(**x, output_hidden_states=True), "ask model.encode"),
        (lambda m, x: m.add_task(TextClassification(name="m", labels=("x", "y"), layer=9)), "layer=9.*0 to 2"),
        (lambda m, x: m(attention_mask=x["attention_mask"]), "needs input_ids"),
        (lambda m, x: m.add_task(three_tasks()[0]), "has a task 'topic' already"),
        (lambda m, x: m.remove_task("topics"), "no task 'topics'"),
    ],
)
def test_wrong_calls_say_what_to_do(wrong: Any, message: str, tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), LORA)
    with pytest.raises(ValueError, match=message):
        wrong(model, batch(model))


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (LoraConfig(target_modules=["qery", "vale"]), r"\['qery', 'vale'\] fits no module .*Did you mean 'query'\?"),
        (LoraConfig(target_modules=r".*\.0\..*qery"), "qery' fits no module .*'query'"),
        (LoraConfig(target_modules=["position_embeddings"]), "position_embeddings.*no table of tokens"),
        (LoraConfig(init_lora_weights="eva", eva_config=EvaConfig()), "init_lora_weights='eva' changes the backbone"),
        (LoraConfig(modules_to_save=["classifier"]), "modules_to_save"),
        (LoraConfig(bias="all"), "bias='all'"),
        ({"r": 8}, "adapters names a task 'r' that is not among the tasks"),
    ],
)
def test_adapters_that_cannot_be_routed_are_refused(adapters: Any, message: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(tiny_backbone(), three_tasks(), adapters=adapters)


@pytest.mark.parametrize(("targets", "told"), [(["query", "valu"], "['valu']"), (["query", "attention.self.key"], "")])
def test_a_target_that_is_named_in_vain_is_told(targets: Any, told: str, tiny_backbone: Any, caplog: Any) -> None:
    build(tiny_backbone("bert"), LoraConfig(r=2, target_modules=targets))
    said = [record.getMessage() for record in caplog.records if "target_modules" in record.getMessage()]
    wanted = f"target_modules: {told} fits no module of what gets adapters (BertModel), and has none."
    assert said == ([wanted] if told else [])


@pytest.mark.parametrize("name", ["a.b", "keys", "", "1st", "é", 7])
def test_unusable_task_names_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="cannot be used"):
        TextClassification(name=name)


def test_repeated_task_names_are_refused(tiny_backbone: Any) -> None:
    tasks = [
        TextClassification(name="a", labels=("x", "y")),
        TokenClassification(name="a", labels=("x", "y")),
    ]
    with pytest.raises(ValueError, match=r"repeated: \['a'\]"):
        MultiTaskModel.from_backbone(tiny_backbone(), tasks)


def test_unlearned_labels_are_named(tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match="'a': its labels are not known"):
        MultiTaskModel.from_backbone(tiny_backbone(), [TextClassification(name="a")])


def test_a_checkpoint_cut_short_is_refused(tiny_backbone: Any, tmp_path: Any) -> None:
    build(tiny_backbone(), LORA).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="cut short or damaged"):
        MultiTaskModel.from_pretrained(tmp_path)


def test_a_plain_model_is_no_multi_task_model(tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=r"no multi-task model: .*a 'bert' model\. .*from_backbone\('.*', tasks="):
        MultiTaskModel.from_pretrained(tiny_backbone())


@pytest.mark.parametrize(("kind", "most"), [("bert", 128), ("t5", 512)])
def test_a_max_length_beyond_the_longest_input_is_said(
    kind: str, most: int, tiny_backbone: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def task(name: str, length: int | None) -> Task:
        return TextClassification(name=name, labels=("x", "y"), max_length=length)

    model = MultiTaskModel.from_backbone(tiny_backbone(kind), [task("a", most + 1), task("b", most), task("c", None)])
    model.add_task(task("d", 10 * most))
    said = [record.message for record in caplog.records if "has no effect" in record.message]
    assert [message.partition(":")[0] for message in said] == ["Task 'a'", "Task 'd'"]
    assert f"max_length={10 * most} has no effect, its inputs have {most} subwords at most: " in said[1]
    assert ("the backbone may take more" in said[1]) == (kind == "t5")
    assert [t.limit(model.tokenizer) for t in model.tasks.values()] == [most] * 4


def test_a_changed_number_of_labels_is_refused(tiny_backbone: Any, tmp_path: Any) -> None:
    build(tiny_backbone(), LORA).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["tasks"][0]["labels"].append("more")
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(RuntimeError, match=r"heads\.topic\.classifier|size mismatch|ignore_mismatched_sizes"):
        MultiTaskModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("tasks", "message"), [([], "tasks is empty"), (["topic"], "must hold tasks.*str 'topic'"), ([None], "NoneType")]
)
def test_what_is_no_task_is_refused(tasks: Any, message: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(tiny_backbone(), tasks)


def test_a_slip_in_an_arguments_name_is_not_lost_in_the_backbone(tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), TextClassification(name="topic", labels=("x", "y")))
    with pytest.raises(ValueError, match=r"no argument 'task'\. Did you mean 'tasks'"):
        model(input_ids=torch.ones(1, 3, dtype=torch.long), task="topic")
