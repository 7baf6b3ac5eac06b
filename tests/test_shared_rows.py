"""Tasks that label the same rows: read once, with the losses and gradients of reading each by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import read_jsonl

from hf_mtl import (
    DependencyParsing,
    Lemmatization,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    Task,
    TextClassification,
    TokenClassification,
)
from hf_mtl.data import MultiTaskCollator, MultiTaskDataset, encode_dataset

ROWS = read_jsonl(Path(__file__).parent / "data" / "trees.jsonl", 24)
TEXTS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(24)]


def made() -> tuple[list[Task], dict[str, Any]]:
    tasks: list[Task] = [
        TokenClassification.from_dataset("upos", ROWS, tags="upos", dropout=0.0),
        TextClassification.from_dataset("topic", TEXTS, dropout=0.0),
        Lemmatization.from_dataset("lemma", ROWS, dropout=0.0, weight=0.5),
        DependencyParsing.from_dataset("tree", ROWS, dropout=0.0),
    ]
    return tasks, {task.name: TEXTS if task.name == "topic" else ROWS for task in tasks}


def arguments(folder: Any, **given: Any) -> MultiTaskTrainingArguments:
    return MultiTaskTrainingArguments(
        output_dir=str(folder), report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, **given
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_shared_batch_has_the_losses_and_gradients_of_a_batch_of_each(kind: str, tiny_backbone: Any) -> None:
    tasks, data = made()
    model = MultiTaskModel.from_backbone(tiny_backbone(kind), tasks)
    parts = {t.name: encode_dataset(t, i, data[t.name], model.tokenizer, "train") for i, t in enumerate(tasks)}
    dataset = MultiTaskDataset(parts, share_rows=True)
    assert list(dataset.units) == ["upos+lemma+tree", "topic"] and len(dataset) == 48
    collate = MultiTaskCollator(model.tokenizer, tasks)
    together = model(**collate(dataset.__getitems__(range(6))))
    together.loss.backward()
    shared = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for name in ("upos", "lemma", "tree"):
        alone = model(**collate(parts[name].__getitems__(range(6))))
        torch.testing.assert_close(together.task_losses[name], alone.loss / model.tasks[name].weight)
        alone.loss.backward()
    for name, parameter in model.named_parameters():
        if name in shared:
            torch.testing.assert_close(shared[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_a_trainer_reads_shared_rows_once(tiny_backbone: Any, tmp_path: Any) -> None:
    tasks, data = made()
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks)
    read: list[int] = []
    model.backbone.register_forward_hook(lambda module, args, output: read.append(len(output.last_hidden_state)))
    args = arguments(tmp_path, share_rows=True, num_train_epochs=2, per_device_train_batch_size=8, logging_steps=1)
    trainer = MultiTaskTrainer(model, args, train_dataset=data)
    assert sum(trainer.rows_per_epoch().values()) == 48
    trainer.train()
    assert sum(read) == 96
    logged = {key for entry in trainer.state.log_history for key in entry if key.startswith("loss_")}
    assert logged == {"loss_upos", "loss_topic", "loss_lemma", "loss_tree"}


def test_rows_of_other_texts_are_not_shared(tiny_backbone: Any) -> None:
    tasks, data = made()
    data["lemma"] = ROWS[::-1]
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks)
    parts = {t.name: encode_dataset(t, i, data[t.name], model.tokenizer, "train") for i, t in enumerate(tasks)}
    assert list(MultiTaskDataset(parts, share_rows=True).units) == ["upos+tree", "topic", "lemma"]


def test_adapters_and_shared_rows_do_not_go_together(tiny_backbone: Any, tmp_path: Any) -> None:
    tasks, data = made()
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks, adapters=LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="share_rows=False"):
        MultiTaskTrainer(model, arguments(tmp_path, share_rows=True), train_dataset=data)
