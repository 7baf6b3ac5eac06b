"""Intent and slots: one reading, two answers, and the frame that both make."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import pipeline

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.tasks import RowError
from hf_mtl.tasks.intent_slots import IntentSlots

CITIES = ["Rome", "Oslo", "Lima"]
ROWS = [{"tokens": ["fly", "to", city], "tags": ["O", "O", "B-city"], "intent": "travel"} for city in CITIES] + [
    {"tokens": ["play", "some", "jazz", "now"], "tags": ["O", "O", "B-music", "O"], "intent": "music"}
] * 2


def task(**fields: Any) -> IntentSlots:
    return IntentSlots.from_dataset("ask", ROWS, **fields)


def test_intents_and_tags_are_learned() -> None:
    learned = task()
    assert learned.intents == ("music", "travel")
    assert learned.labels == ("B-city", "B-music", "I-city", "I-music", "O")


@pytest.mark.parametrize("crf", [False, True])
def test_it_learns_whole_frames_and_answers_both(crf: bool, tiny_backbone: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [task(crf=crf)])
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=40, learning_rate=5e-3, report_to="none", save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset={"ask": ROWS}, eval_dataset={"ask": ROWS})
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_ask_frame_accuracy"] == metrics["eval_ask_slot_f1"] == metrics["eval_ask_intent_accuracy"] == 1
    answer = pipeline("multitask-nlp", model=model)("fly to Oslo")["ask"]
    assert answer["label"] == "travel" and 0 < answer["score"] <= 1
    assert [(s["entity_group"], s["word"], s["start"], s["end"]) for s in answer["slots"]] == [("city", "Oslo", 7, 11)]


def test_the_loss_is_the_sum_of_the_two(tiny_backbone: Any) -> None:
    learned = task(dropout=0.0)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [learned])
    encoded = encode_dataset(learned, 0, ROWS, model.tokenizer, "train")
    batch = MultiTaskCollator(model.tokenizer, [learned])([encoded[i] for i in range(len(ROWS))])
    output = model(**batch)
    logits, labels = output.logits["ask"], batch["labels"]
    tags = F.cross_entropy(logits[..., :5].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    lengths = torch.tensor([[len(row["tokens"])] for row in ROWS])
    intents = F.cross_entropy(logits[..., 5:].sum(1) / lengths, labels[:, 0])
    assert output.loss.item() == pytest.approx((tags + intents).item(), abs=1e-5)


def test_a_long_row_is_the_mean_of_all_its_words(tiny_backbone: Any) -> None:
    learned = task(max_length=8)
    tokenizer = MultiTaskModel.from_backbone(tiny_backbone(), [learned]).tokenizer
    row = {"tokens": ["word"] * 12}
    features = learned.encode([row], tokenizer)
    assert len(features) > 1
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(len(f["words"]), 7)).astype(np.float32) for f in features]
    (found,) = learned.decode(logits, features, [row])
    mean = np.concatenate(logits)[:, 5:].mean(0)
    assert found["intent"] == ("music", "travel")[int(mean.argmax())]
    assert found["score"] == pytest.approx(float(np.exp(mean.max()) / np.exp(mean).sum()), abs=1e-6)


def test_words_that_share_a_subword_say_their_part_once(tiny_backbone: Any) -> None:
    learned = task(split="characters")
    tokenizer = MultiTaskModel.from_backbone(tiny_backbone(), [learned]).tokenizer
    tokenizer.add_tokens(["2008"])
    row = {"tokens": [*"2008", "年"]}
    (feature,) = learned.encode([row], tokenizer)
    logits = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    (found,) = learned.decode([logits], [feature], [row])
    mean = logits[:, 5:].mean(0)
    assert len(found["tags"]) == 5
    assert found["score"] == pytest.approx(float(np.exp(mean.max()) / np.exp(mean).sum()), abs=1e-6)


def test_frames_are_right_where_both_parts_are() -> None:
    found = [
        {"intent": "travel", "score": 1.0, "tags": row["tags"], "scores": [1.0] * len(row["tags"])} for row in ROWS
    ]
    found[0] = found[0] | {"tags": ["O", "O", "O"]}
    scores = task().score(found, task().references(ROWS))
    assert scores["intent_accuracy"] == pytest.approx(3 / 5) and scores["frame_accuracy"] == pytest.approx(2 / 5)


def test_an_unknown_intent_is_named(tiny_backbone: Any) -> None:
    learned = task()
    tokenizer = MultiTaskModel.from_backbone(tiny_backbone(), [learned]).tokenizer
    with pytest.raises(RowError, match=r"'ask'.*'dance'") as error:
        learned.encode([ROWS[0], ROWS[1] | {"intent": "dance"}], tokenizer)
    assert error.value.row == 1


def test_tags_without_intents_are_no_labels(tiny_backbone: Any) -> None:
    learned = task()
    tokenizer = MultiTaskModel.from_backbone(tiny_backbone(), [learned]).tokenizer
    features = learned.encode([{k: row[k] for k in ("tokens", "tags")} for row in ROWS], tokenizer)
    assert all("labels" not in feature for feature in features)
