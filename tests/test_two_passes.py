"""A doubled batch gives the outputs of two passes, whatever the batch holds."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from tiny import read_jsonl

from hf_mtl import MultipleChoice, MultiTaskModel, QuestionAnswering, Task, TextClassification, TokenClassification
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.two_passes import twice

CHOICES = [
    {"question": f"What is {i}?", "choices": ["a", "bee", "see"][: 2 + i % 2], "label": i % 2} for i in range(5)
]  # three of the rows have fewer choices


def model_and_batch(task: type[Task], rows: list[dict], folder: str, adapters: Any) -> tuple[Any, dict[str, Any]]:
    data = datasets.Dataset.from_list(rows)
    torch.manual_seed(0)
    tasks = [TextClassification(name="other", labels=["a", "b"]), task.from_dataset("it", data)]
    model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
    encoded = encode_dataset(tasks[1], 1, data, model.tokenizer, "train")
    return model, MultiTaskCollator(model.tokenizer, tasks)(encoded.__getitems__(range(5)))


@pytest.mark.parametrize("adapters", [None, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)])
@pytest.mark.parametrize("kind", [TokenClassification, QuestionAnswering, MultipleChoice, TextClassification])
def test_without_dropout_both_halves_are_the_batchs_output_and_the_loss_is_its_loss(
    kind: Any, adapters: Any, tiny_backbone: Any, rows: Any
) -> None:
    names = {TokenClassification: "pos", QuestionAnswering: "answer", TextClassification: "intent"}
    found = CHOICES if kind is MultipleChoice else rows(names[kind], "train", 5)
    model, batch = model_and_batch(kind, found, tiny_backbone(), adapters)
    with torch.no_grad():
        once, both = model(**batch), model(**twice(batch))
    for half in both.logits["it"].chunk(2):
        torch.testing.assert_close(half, once.logits["it"])
    torch.testing.assert_close(both.loss, once.loss)


def test_under_dropout_the_halves_differ(tiny_backbone: Any, rows: Any) -> None:
    model, batch = model_and_batch(TextClassification, rows("intent", "train", 5), tiny_backbone(), None)
    one, two = model.train()(**twice(batch)).logits["it"].chunk(2)
    assert (one - two).abs().min() > 0


def test_tasks_that_share_rows_share_both_passes(tiny_backbone: Any) -> None:
    trees = read_jsonl(Path(__file__).parent / "data" / "trees.jsonl", 4)
    data = datasets.Dataset.from_list(trees)
    tasks = [TokenClassification.from_dataset(name, data, tags=name) for name in ("deprels", "feats")]
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks)
    parts = [encode_dataset(task, k, data, model.tokenizer, "train") for k, task in enumerate(tasks)]
    features = [
        {"input_ids": own[0]["input_ids"], "token_type_ids": own[0]["token_type_ids"], "of_tasks": own}
        for own in zip(*(part.__getitems__(range(4)) for part in parts), strict=True)
    ]
    batch = MultiTaskCollator(model.tokenizer, tasks)(features)
    with torch.no_grad():
        once, both = model(**batch), model(**twice(batch))
    assert list(both.logits) == ["deprels", "feats"]
    for name, logits in both.logits.items():
        torch.testing.assert_close(logits, once.logits[name].repeat(2, 1, 1))
        torch.testing.assert_close(both.task_losses[name], once.task_losses[name])
