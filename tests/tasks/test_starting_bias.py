"""Biases that begin where the answers are: in fresh heads, and in no head that a file has filled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from hf_mtl import (
    IntentSlots,
    JointRelationExtraction,
    Lemmatization,
    MorphologicalTagging,
    MultiLabelClassification,
    MultiTaskConfig,
    MultiTaskModel,
    Regression,
    TextClassification,
    TokenClassification,
)
from hf_mtl.tasks.edit_scripts import IDENTITY, edit_script

TAGS = ("B-loc", "B-per", "I-loc", "I-per", "O")
TASKS = [
    MultiLabelClassification(name="topics", labels=tuple("abcdefghij")),
    TokenClassification(name="ner", labels=TAGS),
    TokenClassification(name="crf", labels=TAGS, crf=True),
    TokenClassification(name="pos", labels=("NOUN", "VERB")),
    IntentSlots(name="slots", labels=TAGS, intents=("go", "stay")),
    Lemmatization(name="lemmas", labels=(IDENTITY, edit_script("dogs", "dog"), edit_script("was", "be"))),
    MorphologicalTagging(name="feats", labels=("Number=Plur", "Number=Sing", "_")),
    JointRelationExtraction(name="graph", types=("loc", "per"), labels=("lives", "works")),
    Regression(name="stars", low=1, high=5),
    TextClassification(name="intent", labels=("a", "b", "c")),
]


@pytest.fixture(scope="module")
def model(tiny_backbone: Any) -> MultiTaskModel:
    return MultiTaskModel.from_backbone(tiny_backbone(), TASKS)


def test_of_many_labels_one_is_likely_to_hold(model: MultiTaskModel) -> None:
    assert torch.allclose(model.heads["topics"].classifier.bias.sigmoid().sum(), torch.tensor(1.0))


@pytest.mark.parametrize(("name", "place"), [("ner", 4), ("crf", 4), ("slots", 4), ("lemmas", 0), ("feats", 2)])
def test_what_most_words_have_is_as_likely_as_all_else(model: MultiTaskModel, name: str, place: int) -> None:
    head: Any = model.heads[name]
    layer = head.tagger.classifier if name == "slots" else head.classifier
    count = len(model.tasks[name].known("labels", model.tasks[name].labels))
    assert layer.bias[:count].softmax(-1)[place].item() == pytest.approx(0.5)


def test_a_pair_of_entities_is_likely_to_have_no_relation(model: MultiTaskModel) -> None:
    head: Any = model.heads["graph"]
    assert head.relation.bias.sigmoid().sum().item() == pytest.approx(0.1)
    assert head.tagger.classifier.bias.softmax(-1)[0].item() == pytest.approx(0.5)


def test_a_number_begins_in_the_middle_of_its_range_and_other_labels_are_alike(model: MultiTaskModel) -> None:
    assert model.heads["stars"].classifier.bias.item() == 0.5
    assert not model.heads["intent"].classifier.bias.any() and not model.heads["pos"].classifier.bias.any()


@pytest.mark.parametrize("adapters", [True, False])
def test_a_loaded_bias_is_the_saved_one_and_a_new_tasks_begins_where_it_should(
    adapters: bool, tiny_backbone: Any, tmp_path: Path
) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), TASKS[:2], LoraConfig(r=2) if adapters else None)
    bias: Any = model.heads["topics"].classifier.bias
    with torch.no_grad():
        bias.copy_(torch.arange(10.0))
    model.save_pretrained(tmp_path)
    config = MultiTaskConfig.from_pretrained(tmp_path)
    other = MultiLabelClassification(name="other", labels=("x", "y", "z"))
    config.tasks = [*(config.tasks or []), other.to_dict()]
    again = MultiTaskModel.from_pretrained(tmp_path, config=config)
    again.add_task(MultiLabelClassification(name="more", labels=("x", "y", "z")))
    assert torch.equal(again.heads["topics"].classifier.bias, torch.arange(10.0))
    for name in ("other", "more"):
        assert torch.allclose(again.heads[name].classifier.bias.sigmoid(), torch.full((3,), 1 / 3))


def test_where_labels_have_weights_all_begin_alike(tiny_backbone: Any) -> None:
    weighted = [
        MultiLabelClassification(name="topics", labels=("a", "b", "c"), class_weights={"a": 5.0}),
        TokenClassification(name="ner", labels=TAGS, class_weights={"O": 0.1}),
    ]
    model = MultiTaskModel.from_backbone(tiny_backbone(), weighted)
    assert not any(model.heads[task.name].classifier.bias.any() for task in weighted)
