"""A task of a model gets another name, its adapter becomes another one, and tasks are made out of others."""

import logging
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from test_modeling import batch, build, logits, three_tasks
from transformers import AutoModel

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification

LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4, lora_dropout=0.1)
DORA = LoraConfig(r=2, target_modules="all-linear", use_dora=True)
MOOD = TextClassification(name="mood", labels=("good", "bad"))


@pytest.mark.parametrize("adapters", [None, LORA, DORA], ids=["shared", "lora", "dora"])
def test_a_renamed_task_answers_bit_for_bit_as_before(adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), adapters)
    model.config.card_data = {"results": {"topic": {"accuracy": 1.0}}, "license": "apache-2.0"}
    inputs = batch(model)
    mixed = {"task_ids": torch.tensor([0, 1])}
    before, before_mixed = logits(model, inputs), logits(model, inputs, **mixed)
    parameters = {id(p) for p in model.parameters()}
    model.rename_task("topic", "subject")
    after, after_mixed = logits(model, inputs), logits(model, inputs, **mixed)
    assert list(after) == list(model.tasks) == ["subject", "tags", "answer"]
    assert torch.equal(before["topic"], after["subject"]) and torch.equal(before["tags"], after["tags"])
    assert torch.equal(before_mixed["topic"], after_mixed["subject"])
    assert {id(p) for p in model.parameters()} == parameters  # what an optimizer holds is still the model's
    assert not any("topic" in name for name in model.state_dict()) and model.task("subject").name == "subject"
    assert model.config.card_data == {"results": {"subject": {"accuracy": 1.0}}, "license": "apache-2.0"}
    model.save_pretrained(tmp_path)
    again = logits(MultiTaskModel.from_pretrained(tmp_path), inputs)
    assert all(torch.allclose(after[name], again[name], atol=1e-6) for name in after)


@pytest.mark.parametrize("rows", [2, 150], ids=["few words", "as many as are folded for one task"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_task_answers_bit_for_bit_alone_and_beside_others(kind: str, rows: int, tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(kind), [MOOD], adapters=LORA).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    texts = batch(model)
    inputs = {k: v[:1].expand(rows, -1) for k, v in texts.items()}
    alone = logits(model, inputs)["mood"]
    model.add_task(TextClassification(name="topic", labels=("sport", "war")))
    together, asked = logits(model, inputs), logits(model, inputs, tasks=["mood"])
    assert torch.equal(together["mood"], alone) and torch.equal(asked["mood"], alone)


def test_after_a_renaming_tasks_still_learn_come_and_go(tiny_backbone: Any) -> None:
    model = build(tiny_backbone("t5"), LORA)
    model.rename_task("topic", "subject")
    model.train()(**batch(model), tasks=["subject"], labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_B.subject" in n)
    model.remove_task("subject")
    model.rename_task("tags", "topic")
    assert list(model.tasks) == ["topic", "answer"] and not any("subject" in n for n in model.state_dict())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("topics", "x", "no task 'topics'.*Did you mean 'topic'"),
        ("topic", "tags", "cannot become 'tags': the model has such a task"),
        ("topic", "a.b", "cannot be used"),
        ("topic", "keys", "cannot be used"),
        ("topic", None, "cannot be used"),
    ],
)
def test_names_that_cannot_be_are_refused_and_change_nothing(
    old: str, new: Any, message: str, tiny_backbone: Any
) -> None:
    model = build(tiny_backbone(), LORA)
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.rename_task(old, new)
    assert list(model.state_dict()) == keys and list(model.tasks) == ["topic", "tags", "answer"]


# ---------------------------------------------------------------------- adapters that differ


def test_tasks_may_have_adapters_of_different_rank_and_targets(tiny_backbone: Any, tmp_path: Any) -> None:
    own = {
        "topic": LORA,
        "tags": LoraConfig(r=3, target_modules=["query"], layers_to_transform=[1]),
        "answer": None,
    }
    model = build(tiny_backbone(), own)
    model.add_task(MOOD, adapter=LoraConfig(r=5, target_modules=["value"]))
    ranks = {n: model.parameter_counts()[n]["adapter"] for n in model.tasks}
    assert ranks["tags"] == 3 * 2 * 32 and ranks["mood"] == 2 * 5 * 2 * 32 and ranks["answer"] == 0
    inputs = batch(model)
    before = logits(model, inputs)
    with torch.no_grad():
        bare = AutoModel.from_pretrained(tiny_backbone()).eval()(**inputs).last_hidden_state
        assert torch.equal(model.encode(["answer"], **inputs)[-1], bare)
    mixed = logits(model, inputs, task_ids=torch.tensor([1, 0]))
    assert torch.allclose(mixed["topic"], before["topic"][1:], atol=1e-6)
    assert torch.allclose(mixed["tags"], before["tags"][:1], atol=1e-6)
    model.rename_task("tags", "marks")
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert all(torch.allclose(logits(again, inputs)[n], logits(model, inputs)[n], atol=1e-6) for n in model.tasks)
    assert again.config.adapter_of("marks")["r"] == 3 and again.config.adapter_of("answer") is None
    again.remove_task("marks")
    assert "marks" not in again.config.task_adapters
    assert again.config.adapter_of("next")["r"] == 2  # tasks to come have the first


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ({"topics": LORA}, "names a task 'topics'.*Did you mean 'topic'"),
        ({"topic": LORA, "tags": LORA}, "says nothing of task 'answer'"),
        ({"topic": LORA, "tags": 8, "answer": None}, "must be a peft LoraConfig.*got int"),
    ],
)
def test_adapters_that_do_not_fit_the_tasks_are_refused(adapters: Any, message: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(tiny_backbone(), three_tasks(), adapters=adapters)


def test_a_fully_shared_model_gives_no_task_an_adapter(tiny_backbone: Any) -> None:
    model = build(tiny_backbone(), None)
    with pytest.raises(ValueError, match="'mood' cannot have an adapter"):
        model.add_task(MOOD, adapter=LORA)
    assert "mood" not in model.tasks and model.config.task_adapters is None


# ---------------------------------------------------------------------- one task goes on learning


def moods(rows: Any) -> Any:
    texts = [row["text"] for row in rows("intent", "train", 24)]
    return datasets.Dataset.from_list(
        [{"text": text, "label": "good" if i % 3 else "bad"} for i, text in enumerate(texts)]
    )


@pytest.mark.parametrize("adapters", [LORA, DORA], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_training_one_task_leaves_the_others_answers_bit_identical(
    kind: str, adapters: Any, tiny_backbone: Any, rows: Any, tmp_path: Any
) -> None:
    model = build(tiny_backbone(kind), adapters)
    model.add_task(MOOD)
    data = datasets.Dataset.from_list(
        [
            {"text": row["text"], "label": "good" if i % 3 else "bad"}
            for i, row in enumerate(rows("intent", "train", 24))
        ]
    )
    inputs = batch(model)
    mixed = {"task_ids": torch.tensor([0, 1])}
    before, before_mixed = logits(model, inputs), logits(model, inputs, **mixed)
    args = MultiTaskTrainingArguments(
        str(tmp_path), max_steps=6, learning_rate=1e-2, weight_decay=0.1, per_device_train_batch_size=4,
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    MultiTaskTrainer(model, args, train_dataset={"mood": data}).train()
    after, after_mixed = logits(model, inputs), logits(model, inputs, **mixed)
    assert not torch.equal(before["mood"], after["mood"])
    assert all(torch.equal(before[name], after[name]) for name in before if name != "mood")
    assert all(torch.equal(before_mixed[name], after_mixed[name]) for name in before_mixed)


def test_checkpoints_without_the_backbone_are_resumed_from_to_the_bit(
    tiny_backbone: Any, rows: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("transformers.trainer").addHandler(caplog.handler)  # transformers' own does not hand records on
    data = datasets.Dataset.from_list(
        [
            {"text": row["text"], "label": "good" if i % 3 else "bad"}
            for i, row in enumerate(rows("intent", "train", 24))
        ]
    )
    found = []
    for resume in (False, True):
        torch.manual_seed(0)
        model = build(tiny_backbone(), LORA, tasks=[MOOD])
        args = MultiTaskTrainingArguments(
            str(tmp_path), max_steps=6, save_steps=3, learning_rate=1e-2, per_device_train_batch_size=4,
            report_to="none", use_cpu=True, disable_tqdm=True, save_backbone=False, logging_steps=3,
        )  # fmt: skip
        trainer = MultiTaskTrainer(model, args, train_dataset={"mood": data})
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3") if resume else None)
        found.append(logits(model, batch(model))["mood"])
    assert torch.equal(*found)
    assert "missing keys" not in caplog.text
    saved = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert all("lora_" in name or name.startswith("heads.") for name in saved)
    again = MultiTaskModel.from_pretrained(tmp_path / "checkpoint-6")
    assert torch.equal(logits(again, batch(again))["mood"], found[0])
    renamed = build(tiny_backbone(), LORA, tasks=[MOOD])
    renamed.rename_task("mood", "temper")
    trainer = MultiTaskTrainer(renamed, args, train_dataset={"temper": data})
    with pytest.raises(ValueError, match=r"no weights of \['temper'\].*by other names.*rename_task"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    with pytest.raises(ValueError, match="save_backbone=False leaves the backbone out"):
        MultiTaskTrainer(build(tiny_backbone(), None, tasks=[MOOD]), args, train_dataset={"mood": data})
