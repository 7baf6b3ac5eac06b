"""Batches of several tasks in training: the gradients of one-task batches, whole runs, and what is refused."""

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import RECIPE_DATA, read_jsonl

from hf_mtl import (
    MultipleChoice,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    QuestionAnswering,
    SentenceEmbedding,
    Text2TextGeneration,
    TextClassification,
    TextGeneration,
    TokenClassification,
)

LORA = LoraConfig(r=2, target_modules="all-linear")
INTENTS = [
    {"text": row["text"], "label": "card" if "card" in row["label"] else "other"}
    for row in read_jsonl(RECIPE_DATA / "intent" / "train.jsonl", 40)
]
POS = read_jsonl(RECIPE_DATA / "pos" / "train.jsonl", 24)
PAIRS = [{"text": a["text"], "other": b["text"], "label": a["label"]} for a, b in itertools.pairwise(INTENTS)]
CHOICES = [
    {"question": f"{row['text']} ?", "choices": ["yes", "no it is not", "maybe"][: 2 + i % 2], "label": i % 2}
    for i, row in enumerate(INTENTS)
]
POSITIVES = [{"text": row["text"], "positive": " ".join(row["text"].split()[::-1])} for row in INTENTS]
TARGETS = [{"text": row["text"], "target": row["text"].upper()[:20]} for row in INTENTS]
ANSWERS = read_jsonl(RECIPE_DATA / "answer" / "train.jsonl", 20)


def made(kind: str) -> tuple[list[Any], dict[str, Any]]:
    """Tasks of one and of several inputs, over words, and, where the backbone can, a language model's."""
    tasks: list[Any] = [
        TextClassification.from_dataset("intent", INTENTS, dropout=0.0),
        TokenClassification.from_dataset("pos", POS, dropout=0.0, weight=0.5),
        TextClassification.from_dataset("pair", PAIRS, text_pair="other", dropout=0.0, weight=2.0),
        MultipleChoice.from_dataset("choice", CHOICES, dropout=0.0),
        SentenceEmbedding.from_dataset("same", POSITIVES, dropout=0.0),
    ]
    data: dict[str, Any] = {"intent": INTENTS, "pos": POS, "pair": PAIRS, "choice": CHOICES, "same": POSITIVES}
    if kind == "gpt2":
        tasks.append(TextGeneration.from_dataset("write", TARGETS))
        data["write"] = TARGETS
    elif kind in ("t5", "bart"):
        tasks.append(Text2TextGeneration.from_dataset("write", TARGETS))
        data["write"] = TARGETS
    else:
        tasks.append(QuestionAnswering.from_dataset("answer", ANSWERS, dropout=0.0))
        data["answer"] = ANSWERS
    return tasks, data


def arguments(folder: Path, **given: Any) -> MultiTaskTrainingArguments:
    usual = {
        "batching": "mixed", "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        "per_device_train_batch_size": 16, "mixing": "uniform", "logging_strategy": "epoch",
    }  # fmt: skip
    return MultiTaskTrainingArguments(output_dir=str(folder), **(usual | given))


def build(folder: Path, backbone: str, tasks: Any, data: Any, adapters: Any = None, **given: Any) -> MultiTaskTrainer:
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(backbone, tasks, adapters=adapters)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return MultiTaskTrainer(model, arguments(folder, **given), train_dataset=data, eval_dataset=data)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "lora"])
@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "gpt2", "bart"])
def test_a_mixed_batch_has_the_gradients_of_one_task_batches_of_its_rows(
    kind: str, adapters: Any, tiny_backbone: Any, tmp_path: Path
) -> None:
    tasks, data = made(kind)
    trainer = build(tmp_path, tiny_backbone(kind), tasks, data, adapters, per_device_train_batch_size=24)
    model, sampler, parts = trainer.model, trainer._get_train_sampler(), trainer.train_dataset.parts
    model.eval()  # as some architectures read their dropout from elsewhere
    indices = next(iter(sampler))
    features = trainer.train_dataset.__getitems__(indices)
    own = {name: [f for f in features if f["task_ids"] == i] for i, name in enumerate(parts)}
    assert min(map(len, own.values())) >= 2 and sum(map(len, own.values())) == 24

    model.training = True  # of the model alone: what the loss counts, and no dropout
    trainer.compute_loss(model, trainer.data_collator(features)).backward()
    mixed = gradients(model)
    for name, rows in own.items():
        alone = model(**trainer.data_collator(rows))
        counts = len(rows) / 24
        if model.tasks[name].mean_over_labels:  # a batch of 24 rows has as many labels as those of the data
            labels = sum(value != -100 for row in rows for value in row["labels"])
            of_all = sum(value != -100 for row in parts[name].features["labels"] for value in row)
            counts = labels / (24 * of_all / len(parts[name]))
        (alone.task_losses[name] * counts * model.tasks[name].weight).backward()
    by_task = gradients(model)
    assert mixed.keys() == by_task.keys()
    for name, gradient in mixed.items():
        torch.testing.assert_close(gradient, by_task[name], atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def two(tiny_backbone: Any, folder: Path, adapters: Any = None, **given: Any) -> MultiTaskTrainer:
    tasks, data = made("bert")
    kept = {name: data[name] for name in ("intent", "pos")}
    usual = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
    return build(folder, tiny_backbone("bert"), tasks[:2], kept, adapters, **(usual | given))


def record(trainer: Any) -> list[list[int]]:
    """The tasks of the rows of every batch that is trained on."""
    step, seen = trainer.training_step, []

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["task_ids"].tolist())
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = training_step
    return seen


def furthest(one: Any, two: Any) -> float:
    others = two.model.state_dict()
    return max((p - others[n]).abs().max().item() for n, p in one.model.state_dict().items())


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "lora"])
def test_a_step_does_not_hang_on_how_its_rows_are_cut(adapters: Any, tiny_backbone: Any, tmp_path: Path) -> None:
    settings = {"length_group": 1, "optim": "sgd", "learning_rate": 0.1, "max_steps": 4, "max_grad_norm": 0.0}
    trainers = [
        two(tiny_backbone, tmp_path, adapters, per_device_train_batch_size=8 // n, gradient_accumulation_steps=n,
            **settings)
        for n in (1, 4)
    ]  # fmt: skip
    for trainer in trainers:
        trainer.train()
    assert furthest(*trainers) < 1e-6


@pytest.mark.parametrize("setting", [{}, {"mixing": "annealed"}, {"max_tokens_per_batch": 160}])
def test_the_logs_have_each_tasks_rows_and_its_mean_loss(setting: Any, tiny_backbone: Any, tmp_path: Path) -> None:
    trainer = two(tiny_backbone, tmp_path, num_train_epochs=2, **setting)
    seen = record(trainer)
    trainer.train()
    rows = [entry for entry in trainer.state.log_history if "rows_intent" in entry]
    for k, name in enumerate(("intent", "pos")):
        assert rows[-1][f"rows_{name}"] == sum(batch.count(k) for batch in seen)
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1]["loss_intent"] < losses[0]["loss_intent"] and losses[-1]["loss_pos"] < losses[0]["loss_pos"]
    assert sum(len(set(batch)) == 2 for batch in seen) > len(seen) / 2


def test_the_logged_loss_of_a_task_is_the_mean_over_its_rows(tiny_backbone: Any, tmp_path: Path) -> None:
    trainer = two(tiny_backbone, tmp_path, learning_rate=0.0, max_steps=6, logging_strategy="steps", logging_steps=6)
    sampler = trainer._get_train_sampler()
    dataset: Any = trainer.train_dataset
    chosen = [i for batch in itertools.islice(sampler, 12) for i in batch if i < len(INTENTS)]
    with torch.no_grad():
        trainer.model.eval()
        expected = trainer.model(**trainer.data_collator(dataset.__getitems__(chosen))).loss.item()
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss_intent" in entry)
    assert logged["loss_intent"] == pytest.approx(expected, abs=1e-4)


RESUMED = {
    "static": {},
    "adaptive": {"mixing": "adaptive", "eval_strategy": "steps", "eval_steps": 3},
    "adaptive, token budget": {
        "mixing": "adaptive", "eval_strategy": "steps", "eval_steps": 3, "max_tokens_per_batch": 120,
        "per_device_train_batch_size": 16,
    },
    "famo": {"balancing": "famo"},
}  # fmt: skip


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_equals_an_unbroken_one(
    kind: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    settings = RESUMED[kind] | {"save_strategy": "steps", "save_steps": 6, "max_steps": 16, "logging_steps": 5}
    runs = []
    for resume in (None, str(tmp_path / "checkpoint-6")):
        trainer = two(tiny_backbone, tmp_path, **settings)
        seen = record(trainer)
        trainer.train(resume_from_checkpoint=resume)
        runs.append((trainer, seen))
    (unbroken, all_batches), (resumed, rest) = runs
    assert rest == all_batches[-20:]
    assert furthest(unbroken, resumed) == 0


@pytest.mark.parametrize("method", ["pcgrad", "gradnorm", "uncertainty", "gls", "dwa"])
def test_every_kind_of_balancing_trains_on_mixed_batches(method: str, tiny_backbone: Any, tmp_path: Path) -> None:
    trainer = two(
        tiny_backbone, tmp_path, balancing=method, gradient_accumulation_steps=1, num_train_epochs=3,
        learning_rate=3e-3,
    )  # fmt: skip
    trainer.train()
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1]["loss_intent"] < losses[0]["loss_intent"] and losses[-1]["loss_pos"] < losses[0]["loss_pos"]
    assert {"weight_intent", "weight_pos"} <= losses[-1].keys()


@pytest.mark.parametrize(("method", "adapters"), [("uncertainty", None), ("pcgrad", LORA)])
def test_a_method_that_has_nothing_to_change_yet_takes_the_plain_step(
    method: str, adapters: Any, tiny_backbone: Any, tmp_path: Path
) -> None:
    # Uncertainty begins at weights of 1; private adapters share nothing that gradients could conflict on.
    settings = {"optim": "sgd", "max_steps": 1, "max_grad_norm": 0.0}
    plain = two(tiny_backbone, tmp_path, adapters, **settings)
    balanced = two(tiny_backbone, tmp_path, adapters, balancing=method, **settings)
    plain.train()
    balanced.train()
    assert furthest(plain, balanced) < 1e-6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batching": "mixd"}, "Unknown batching 'mixd'.*Did you mean 'mixed'"),
        ({"batch_sizes": {"intent": 2}}, r"batch_sizes=\{'intent': 2\} and batching='mixed' do not fit together"),
        ({"tasks_per_step": 1}, "tasks_per_step=1 and batching='mixed' do not fit together"),
        ({"share_rows": True}, "share_rows=True and batching='mixed' do not fit together"),
    ],
)
def test_what_has_no_meaning_for_mixed_batches_is_refused(setting: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **setting)


def test_a_task_that_compares_the_rows_of_a_batch_is_warned_of(
    tiny_backbone: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, data = made("bert")
    kept = {name: data[name] for name in ("intent", "same")}
    trainer = build(tmp_path, tiny_backbone("bert"), [tasks[0], tasks[4]], kept)
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        trainer.rows_per_epoch()
    assert "Task 'same' learns by comparing the rows of a batch" in caplog.text and "about 8.0 of it" in caplog.text
