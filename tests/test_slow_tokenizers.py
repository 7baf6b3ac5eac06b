"""Slow tokenizers, of which Marian's is one: they serve all tasks but those that must know a subword's characters."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from tiny import make_slow_backbone
from transformers import AutoTokenizer, pipeline

from hf_mtl import (
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    QuestionAnswering,
    Task,
    TextClassification,
    TokenClassification,
    Translation,
)
from hf_mtl.data import encode_dataset

TEXTS = ["I lost my card", "a card was lost in Paris", "What is the exchange rate?", "my money"]
PAIRS = [{"text": text, "target": text.upper()} for text in TEXTS]
LABELLED = [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(TEXTS)]
TASKS = [Translation(name="loud", max_target_length=40), TextClassification(name="topic", labels=("x", "y"))]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_slow_backbone(tmp_path_factory.mktemp("slow"))


def test_a_marian_learns_to_translate_beside_a_classifier_and_is_loaded_again(backbone: str, tmp_path: Path) -> None:
    model = MultiTaskModel.from_backbone(backbone, TASKS)
    assert not model.tokenizer.is_fast
    data = {"loud": PAIRS, "topic": LABELLED}
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=200, per_device_train_batch_size=4, learning_rate=5e-3, seed=1,
        use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, mixing="uniform",
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=data)
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_loud_bleu"] > 0.9 and scores["eval_topic_accuracy"] == 1
    model.save_pretrained(tmp_path / "model")
    answers = pipeline("multitask-nlp", model=model)(TEXTS)
    assert answers[0] == {"loud": {"translation_text": "I LOST MY CARD"}, "topic": answers[0]["topic"]}
    again = pipeline("multitask-nlp", model=MultiTaskModel.from_pretrained(tmp_path / "model"))(TEXTS)
    assert [a["loud"] for a in again] == [a["loud"] for a in answers]


@pytest.mark.parametrize(
    "task", [TokenClassification(name="tags", labels=("x", "y")), QuestionAnswering(name="answer")]
)
def test_tasks_that_need_a_subwords_characters_are_refused_by_name(task: Task, backbone: str) -> None:
    message = rf"Task '{task.name}' \({task.type}\): .*characters.*MarianTokenizer, a slow one.*tokenizer\.json"
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(backbone, [TASKS[1], task])
    model = MultiTaskModel.from_backbone(backbone, TASKS)
    with pytest.raises(ValueError, match=message):
        model.add_task(task)
    assert list(model.tasks) == ["loud", "topic"]


FINGERPRINT = """
import datasets, sys
from transformers import AutoTokenizer
from hf_mtl import Translation
from hf_mtl.data import encode_dataset
datasets.disable_progress_bars()
rows = datasets.Dataset.from_list([{"text": "I lost my card", "target": "I LOST MY CARD"}])
found = encode_dataset(Translation(name="loud"), 0, rows, AutoTokenizer.from_pretrained(sys.argv[1]), "train")
print(found.features._fingerprint)
"""


def test_what_was_encoded_is_found_again_by_another_process_and_from_another_folder(
    backbone: str, tmp_path: Path
) -> None:
    rows = datasets.Dataset.from_list([{"text": "I lost my card", "target": "I LOST MY CARD"}])
    tokenizer = AutoTokenizer.from_pretrained(backbone)

    def fingerprint() -> str:
        return encode_dataset(Translation(name="loud"), 0, rows, tokenizer, "train").features._fingerprint

    first = fingerprint()
    tokenizer(["used in between"], text_target=["for both"], padding=True)
    assert fingerprint() == first
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FINGERPRINT, str(tmp_path / "elsewhere")],
        env=env | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [first], done.stderr[-2000:]
    tokenizer.model_max_length = 5
    assert fingerprint() != first
