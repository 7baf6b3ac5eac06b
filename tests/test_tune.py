"""Thresholds chosen on validation data: found, kept in the model, and there again after a reload."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import read_jsonl

from hf_mtl import (
    MultiLabelClassification,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TextClassification,
    TokenClassification,
)

ROWS = read_jsonl(Path(__file__).parent / "data" / "intents.jsonl", 60)
TEXTS = [{"text": row["text"], "label": "ab"[i % 2]} for i, row in enumerate(ROWS)]


@pytest.fixture
def trainer(tiny_backbone: Any, tmp_path: Any) -> MultiTaskTrainer:
    torch.manual_seed(0)
    tasks = [
        TextClassification.from_dataset("topic", TEXTS),
        MultiLabelClassification.from_dataset("wants", ROWS),
    ]
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks)
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=3, learning_rate=5e-3, report_to="none", save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    data = {"topic": TEXTS, "wants": ROWS}
    return MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=data)


def test_a_tuned_threshold_scores_better_and_is_saved(trainer: MultiTaskTrainer, tmp_path: Any) -> None:
    trainer.train()
    before = trainer.evaluate()["eval_wants_f1_micro"]
    changed = trainer.tune()
    assert list(changed) == ["wants"] and changed["wants"].threshold != 0.5
    after = trainer.evaluate()
    assert after["eval_wants_f1_micro"] > before
    trainer.save_model(str(tmp_path / "saved"))
    again = MultiTaskModel.from_pretrained(tmp_path / "saved")
    assert again.tasks["wants"] == changed["wants"]
    scores = MultiTaskTrainer(again, trainer.args).evaluate({"wants": ROWS})
    assert scores["eval_wants_f1_micro"] == pytest.approx(after["eval_wants_f1_micro"])


def test_a_task_is_replaced_only_by_one_of_its_head(trainer: MultiTaskTrainer) -> None:
    model = trainer.model
    with pytest.raises(ValueError, match=r"'topic' cannot be replaced"):
        model.replace_task(TextClassification(name="topic", labels=("a", "b", "c")))
    with pytest.raises(ValueError, match=r"'topic' cannot be replaced"):
        model.replace_task(TokenClassification(name="topic", labels=("a", "b")))
    with pytest.raises(ValueError, match="no task 'other'"):
        model.replace_task(TextClassification(name="other", labels=("a", "b")))


def test_a_replaced_task_answers_as_after_a_reload(trainer: MultiTaskTrainer, tmp_path: Any) -> None:
    model = trainer.model.eval()
    model.replace_task(replace(model.tasks["topic"], pooling="first", layer=1))
    inputs = model.tokenizer("I lost my card", return_tensors="pt")
    model.save_pretrained(tmp_path / "saved")
    again = MultiTaskModel.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        a, b = (each(**inputs, tasks=["topic"]).logits["topic"] for each in (model, again))
    torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="layer=99"):
        model.replace_task(replace(model.tasks["topic"], layer=99))
    with pytest.raises(ValueError, match="cannot be replaced"):
        model.replace_task(replace(model.tasks["topic"], labels=("b", "a")))
