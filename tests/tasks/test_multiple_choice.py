"""Multiple choice: rows of unlike numbers of choices, scored together and read one by one."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification, TokenClassification
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.tasks import RowError
from hf_mtl.tasks.groups import group_rows
from hf_mtl.tasks.multiple_choice import MultipleChoice

ROWS = [
    {"question": "What barks?", "choices": ["a dog", "a tree"], "label": 0},
    {"question": "What do bees make?", "choices": ["bread", "honey", "wool", "steel"], "label": 1},
    {"question": "Where do fish live?", "choices": ["on roofs", "in fire", "in water"], "label": 2},
    {"question": "What is cold?", "choices": ["ice", "steam"], "label": 0},
    {"question": "What gives milk?", "choices": ["a stone", "a cow", "a lamp"], "label": 1},
]


@pytest.fixture
def model(tiny_backbone: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel.from_backbone(tiny_backbone(), [MultipleChoice(name="quiz")])


def test_group_rows_says_which_rows_are_whose() -> None:
    assert group_rows([2, 1, 3]).tolist() == [[0, 1, -1], [2, -1, -1], [3, 4, 5]]


def test_the_loss_is_that_of_each_row_by_itself(model: MultiTaskModel) -> None:
    encoded = encode_dataset(model.tasks["quiz"], 0, ROWS, model.tokenizer, "train")
    collate = MultiTaskCollator(model.tokenizer, list(model.tasks.values()))
    together = model(**collate([encoded[i] for i in range(len(ROWS))]))
    alone = [model(**collate([encoded[i]])) for i in range(len(ROWS))]
    assert together.loss.item() == pytest.approx(np.mean([output.loss.item() for output in alone]), abs=1e-5)
    for i, output in enumerate(alone):
        count = len(ROWS[i]["choices"])
        torch.testing.assert_close(together.logits["quiz"][i, :count], output.logits["quiz"][0], atol=1e-5, rtol=1e-5)
        assert (together.logits["quiz"][i, count:] < -1e30).all()


def test_lengths_are_those_of_all_choices_once_they_are_padded(model: MultiTaskModel) -> None:
    encoded = encode_dataset(model.tasks["quiz"], 0, ROWS, model.tokenizer, "train")
    wanted = [len(ids) * max(map(len, ids)) for ids in (encoded[i]["input_ids"] for i in range(len(ROWS)))]
    assert encoded.lengths().tolist() == wanted


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_pipeline_scores_choices_as_a_batch_of_the_whole_rows_does(model: MultiTaskModel, batch_size: int) -> None:
    task = model.tasks["quiz"]
    features = task.encode([{k: row[k] for k in ("question", "choices")} for row in ROWS], model.tokenizer)
    collate = MultiTaskCollator(model.tokenizer, [task])
    with torch.no_grad():
        logits = model(**collate([f | {"task_ids": 0} for f in features])).logits["quiz"].numpy()
    wanted = task.decode([task.cut(v, f) for v, f in zip(logits, features, strict=True)], features, ROWS)
    found = pipeline("multitask-nlp", model=model)(ROWS, batch_size=batch_size)
    for answer, prediction, row in zip(found, wanted, ROWS, strict=True):
        assert answer["quiz"]["label"] == prediction["label"]
        assert answer["quiz"]["choice"] == row["choices"][prediction["label"]]
        assert answer["quiz"]["score"] == pytest.approx(max(prediction["scores"]), abs=1e-5)


def test_a_context_is_the_first_text_and_the_question_stands_before_the_choice(tiny_backbone: Any) -> None:
    task = MultipleChoice(name="quiz", context="context")
    tokenizer = MultiTaskModel.from_backbone(tiny_backbone(), [task]).tokenizer
    row = {"context": "Ann went home.", "question": "Who went?", "choices": ["Ann", "Bob"]}
    (feature,) = task.encode([row], tokenizer)
    assert feature["input_ids"] == [tokenizer("Ann went home.", f"Who went? {c}")["input_ids"] for c in ("Ann", "Bob")]


def test_a_batch_of_three_kinds_gives_the_losses_of_three_batches(tiny_backbone: Any) -> None:
    tasks = [
        TextClassification(name="topic", labels=("a", "b")),
        MultipleChoice(name="quiz"),
        TokenClassification(name="tags", labels=("X", "Y"), split="words"),
    ]
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks)
    rows: list[list[dict]] = [
        [{"text": "some text", "label": "b"}, {"text": "a longer text than that", "label": "a"}],
        ROWS[1:3],
        [{"tokens": ["two", "unbelievable", "words"], "tags": ["X", "Y", "X"]}, {"tokens": ["one"], "tags": ["Y"]}],
    ]
    parts = [
        encode_dataset(task, i, found, model.tokenizer, "train")
        for i, (task, found) in enumerate(zip(tasks, rows, strict=True))
    ]
    collate = MultiTaskCollator(model.tokenizer, tasks)
    mixed = model(**collate([parts[k][i] for i, k in ((0, 2), (0, 1), (1, 0), (1, 2), (0, 0), (1, 1))]))
    for part, task in zip(parts, tasks, strict=True):
        alone = model(**collate([part[i] for i in range(2)])).task_losses[task.name].item()
        assert mixed.task_losses[task.name].item() == pytest.approx(alone, abs=1e-5)


def test_it_learns_and_is_evaluated(model: MultiTaskModel, tmp_path: Any) -> None:
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=30, learning_rate=3e-3, per_device_train_batch_size=3,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset={"quiz": ROWS}, eval_dataset={"quiz": ROWS})
    trainer.train()
    assert trainer.evaluate()["eval_quiz_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 2}, r"'quiz'.*'label'.*from 0 to 1 .*int 2"),
        ({"label": "a"}, r"'quiz'.*'label'.*str 'a'"),
        ({"choices": ["only"]}, r"'quiz'.*'choices'.*two or more"),
        ({"choices": "a, b"}, r"'quiz'.*'choices'.*str 'a, b'"),
        ({"question": None}, r"'quiz'.*'question'.*NoneType"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(model: MultiTaskModel, row: dict, message: str) -> None:
    with pytest.raises(RowError, match=message) as error:
        model.tasks["quiz"].encode([ROWS[1], ROWS[0] | row], model.tokenizer)
    assert error.value.row == 1


def test_forward_without_groups_says_what_is_missing(model: MultiTaskModel) -> None:
    with pytest.raises(ValueError, match="row_groups"):
        model(input_ids=torch.ones(2, 4, dtype=torch.long))


def test_indices_may_be_names_of_a_class_label(model: MultiTaskModel) -> None:
    rows = datasets.Dataset.from_list([row | {"label": str(row["label"])} for row in ROWS])
    rows = rows.cast_column("label", datasets.ClassLabel(names=["0", "1", "2", "3"]))
    encoded = encode_dataset(model.tasks["quiz"], 0, rows, model.tokenizer, "train")
    assert [encoded[i]["labels"] for i in range(len(ROWS))] == [row["label"] for row in ROWS]
    assert model.tasks["quiz"].references([{"label": "2"}, {"label": 1}]) == [2, 1]
