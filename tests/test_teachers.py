"""Teachers: who may teach whom, and what a batch's answers become in the student's order and unit."""

import copy
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from hf_mtl import (
    IntentSlots,
    MultipleChoice,
    MultiTaskModel,
    QuestionAnswering,
    Regression,
    Task,
    TextClassification,
    TokenClassification,
    Translation,
)
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.teachers import Teacher, load_teachers

CPU = torch.device("cpu")
TEXTS = [
    {"text": text, "label": label, "score": i} for i, (text, label) in enumerate(zip("abcdef", "xyzxyz", strict=True))
]


def model_of(folder: str, *tasks: Task, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return MultiTaskModel.from_backbone(folder, tasks)


def batch_of(model: Any, name: str, rows: list[dict]) -> dict[str, Any]:
    tasks = list(model.tasks.values())
    k = list(model.tasks).index(name)
    encoded = encode_dataset(tasks[k], k, datasets.Dataset.from_list(rows), model.tokenizer, "train")
    return MultiTaskCollator(model.tokenizer, tasks)(encoded.__getitems__(range(len(encoded))))


def test_labels_in_another_order_are_put_into_the_students(tiny_backbone: Any) -> None:
    teacher = model_of(tiny_backbone(), TextClassification(name="t", labels=["z", "x", "y"]))
    student = model_of(tiny_backbone(), TextClassification(name="t", labels=["x", "y", "z"]))
    batch = batch_of(student, "t", TEXTS)
    with torch.no_grad():
        own = teacher(**{k: v for k, v in batch.items() if k not in ("labels", "task_ids")}).logits["t"]
    found = Teacher(teacher, student.tasks["t"], student.tokenizer)(batch)
    assert torch.equal(found, own[:, [1, 2, 0]])


def test_intents_and_tags_are_each_put_into_order(tiny_backbone: Any) -> None:
    rows = [{"tokens": ["go", "to", c], "tags": ["O", "O", f"B-{c}"], "intent": c} for c in ("Rome", "Oslo")]
    tags = ["O", "B-Rome", "I-Rome", "B-Oslo", "I-Oslo"]
    teacher = model_of(tiny_backbone(), IntentSlots(name="t", labels=tags[::-1], intents=["Rome", "Oslo"]))
    student = model_of(tiny_backbone(), IntentSlots(name="t", labels=tags, intents=["Oslo", "Rome"]))
    batch = batch_of(student, "t", rows)
    with torch.no_grad():
        own = teacher(**{k: v for k, v in batch.items() if k not in ("labels", "task_ids")}).logits["t"]
    found = Teacher(teacher, student.tasks["t"], student.tokenizer)(batch)
    assert torch.equal(found, own[..., [4, 3, 2, 1, 0, 6, 5]])


def test_numbers_are_put_into_the_students_range(tiny_backbone: Any) -> None:
    teacher = model_of(tiny_backbone(), Regression(name="t", low=-10.0, high=30.0))
    student = model_of(tiny_backbone(), Regression(name="t", low=0.0, high=5.0))
    batch = batch_of(student, "t", TEXTS)
    with torch.no_grad():
        own = teacher(**{k: v for k, v in batch.items() if k not in ("labels", "task_ids")}).logits["t"]
    found = Teacher(teacher, student.tasks["t"], student.tokenizer)(batch)
    torch.testing.assert_close(5 * found, -10 + 40 * own)


@pytest.mark.parametrize("kind", [TokenClassification, QuestionAnswering, MultipleChoice])
def test_a_teacher_answers_a_batch_of_any_form_as_it_does_alone(kind: Any, tiny_backbone: Any, rows: Any) -> None:
    if kind is MultipleChoice:
        found = [{"question": "What?", "choices": ["a", "bee", "see"][: 2 + i % 2], "label": 0} for i in range(4)]
    else:
        found = rows({TokenClassification: "pos", QuestionAnswering: "answer"}[kind], "train", 4)
    task = kind.from_dataset("t", found, max_length=96)
    student = model_of(tiny_backbone(), TextClassification(name="other", labels=["a", "b"]), task)
    teacher = model_of(tiny_backbone(), task, seed=1).train()  # a teacher is put into evaluation mode
    batch = batch_of(student, "t", found)
    said = Teacher(teacher, task, student.tokenizer)(batch)
    alone = model_of(tiny_backbone(), task, seed=1)
    with torch.no_grad():
        wanted = alone(**{k: v for k, v in batch.items() if k not in ("labels", "task_ids")}).logits["t"]
    assert torch.equal(said, wanted) and not said.requires_grad


def test_a_path_is_loaded_once_for_all_its_tasks(tiny_backbone: Any, tmp_path: Any) -> None:
    tasks = [TextClassification(name=name, labels=["x", "y"]) for name in ("a", "b")]
    model_of(tiny_backbone(), *tasks, seed=1).save_pretrained(tmp_path / "teacher")
    student = model_of(tiny_backbone(), *tasks)
    student.tokenizer.save_pretrained(tmp_path / "teacher")
    found = load_teachers(dict.fromkeys(["a", "b"], tmp_path / "teacher"), student, student.tokenizer, CPU)
    assert found["a"].model is found["b"].model and found["b"].task.name == "b"


def test_a_teacher_of_one_task_may_call_it_by_another_name(tiny_backbone: Any) -> None:
    teacher = model_of(tiny_backbone(), TextClassification(name="mine", labels=["x", "y"]))
    student = model_of(tiny_backbone(), TextClassification(name="t", labels=["x", "y"]))
    assert load_teachers({"t": teacher}, student, student.tokenizer, CPU)["t"].task.name == "mine"


def test_what_cannot_teach_is_refused_with_the_reason(tiny_backbone: Any) -> None:
    folder = tiny_backbone()
    student = model_of(
        folder,
        TextClassification(name="t", labels=["x", "y"]),
        TokenClassification(name="w", labels=["O", "x"], crf=True),
        MultipleChoice(name="c"),
    )

    def refused(message: str, *tasks: Task, name: str = "t", teacher: Any = None) -> None:
        with pytest.raises(ValueError, match=message):
            load_teachers({name: teacher or model_of(folder, *tasks)}, student, student.tokenizer, CPU)

    refused("other labels than the task: it lacks .'y'., and has beside them .'z'.",
            TextClassification(name="t", labels=["x", "z"]))  # fmt: skip
    refused("type 'multi-label-classification' for it, and the task is of type 'text-classification'",
            task_of("multi-label-classification", name="t", labels=["x", "y"]))  # fmt: skip
    refused("trained with text_pair='text_pair', and the task has text_pair=None",
            TextClassification(name="t", labels=["x", "y"], text_pair="second"))  # fmt: skip
    refused("teachers has 'tt', which is no task of the model.*Did you mean 't'",
            TextClassification(name="tt", labels=["x", "y"]), name="tt")  # fmt: skip
    refused("The model has no task 't'",
            *(TextClassification(name=name, labels=["x", "y"]) for name in ("a", "b")))  # fmt: skip
    refused("over whole rows of tags", TokenClassification(name="w", labels=["O", "x"]), name="w")
    refused("trained with context='context', and the task has context=None",
            MultipleChoice(name="c", context="passage"), name="c")  # fmt: skip
    refused("is the model that learns: give another one", teacher=student)
    refused("must be a MultiTaskModel, or the Hub id or folder of one, got int", teacher=3)


def task_of(kind: str, **fields: Any) -> Task:
    from hf_mtl.tasks import task_from_dict

    return task_from_dict({"type": kind} | fields)


def test_a_task_without_distributions_has_no_teacher(tiny_backbone: Any) -> None:
    task = Translation(name="t", max_target_length=8)
    student = model_of(tiny_backbone("t5"), task)
    with pytest.raises(ValueError, match=r"Task 't' \(translation\) can have neither a teacher nor r_drop"):
        load_teachers({"t": copy.deepcopy(student)}, student, student.tokenizer, CPU)


def test_columns_and_limits_may_differ(tiny_backbone: Any) -> None:
    fields: dict[str, Any] = {"name": "t", "labels": ["x", "y"]}
    teacher = model_of(tiny_backbone(), TextClassification(text="words", label="class", max_length=20, **fields))
    student = model_of(tiny_backbone(), TextClassification(dropout=0.5, pooling="first", **fields))
    assert Teacher(teacher, student.tasks["t"], student.tokenizer).order is None


def test_another_tokenizer_is_refused(tiny_backbone: Any) -> None:
    task = TextClassification(name="t", labels=["x", "y"])
    student = model_of(tiny_backbone(), task)
    for folder in (tiny_backbone("roberta"), tiny_backbone("gpt2")):
        with pytest.raises(ValueError, match="another tokenizer than the model"):
            Teacher(model_of(folder, task), task, student.tokenizer)
    teacher = model_of(tiny_backbone(), task)
    teacher.tokenizer = None
    with pytest.raises(ValueError, match="has no tokenizer"):
        Teacher(teacher, task, student.tokenizer)


def test_the_same_words_cut_otherwise_are_another_tokenizer(tiny_backbone: Any) -> None:
    from tokenizers import normalizers

    task = TextClassification(name="t", labels=["x", "y"])
    student, teacher = model_of(tiny_backbone(), task), model_of(tiny_backbone(), task)
    teacher.tokenizer = AutoTokenizer.from_pretrained(tiny_backbone())
    assert Teacher(teacher, task, student.tokenizer).order is None
    teacher.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    with pytest.raises(ValueError, match="another tokenizer than the model"):
        Teacher(teacher, task, student.tokenizer)


def test_a_teacher_of_shorter_inputs_asks_for_a_limit(tiny_backbone: Any) -> None:
    task = TextClassification(name="t", labels=["x", "y"])
    student, teacher = model_of(tiny_backbone(), task), model_of(tiny_backbone(), task)
    teacher.tokenizer = copy.deepcopy(teacher.tokenizer)
    teacher.tokenizer.model_max_length = 64
    with pytest.raises(
        ValueError, match=r"reads 64 subwords, and the task's inputs may have 128. Give .*max_length=64"
    ):
        Teacher(teacher, task, student.tokenizer)
