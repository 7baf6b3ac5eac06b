"""label_smoothing and class_weights: what they may be, what is learned of the data, and what a head makes of them."""

import json

import datasets
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig

from hf_mtl import MultiTaskConfig
from hf_mtl.tasks import (
    IntentSlots,
    Lemmatization,
    MorphologicalTagging,
    MultiLabelClassification,
    MultipleChoice,
    RelationExtraction,
    TextClassification,
    TokenClassification,
    task_from_dict,
)

BERT = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
ROWS = [{"text": "t", "label": label} for label in ["yes"] * 6 + ["no"] * 2]
TAGGED = [
    {"tokens": ["a", "b", "c"], "tags": ["B-x", "O", "O"], "intent": "go"},
    {"tokens": ["a"], "tags": ["O"], "intent": "stay"},
]


def text(**fields):
    return TextClassification(name="t", labels=["no", "yes"], **fields)


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, "0.1", True])
def test_a_smoothing_that_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=r"Task 't': label_smoothing must be a number from 0 up to 1, got"):
        text(label_smoothing=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("balance", "class_weights must be a dict label -> weight, or 'balanced', got 'balance'"),
        ({}, "class_weights must be a dict"),
        ([1, 2], "class_weights must be a dict"),
        ({"ye": 1}, r"class_weights has 'ye', which is none of its labels. Known: \['no', 'yes'\]. Did you mean 'yes'"),
        ({"yes": -1}, r"class_weights\['yes'\] must be a finite number of 0 or more, got -1"),
        ({"yes": "2"}, r"class_weights\['yes'\] must be a finite number"),
        ({"yes": float("inf")}, r"class_weights\['yes'\] must be a finite number"),
        ({True: 2}, "class_weights must name labels, got True. .YAML reads no and yes"),
        ({"yes": 0, "no": 0}, "is 0 for every label"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        text(class_weights=value)


def test_labels_that_are_learned_later_are_compared_with_the_weights_then():
    with pytest.raises(ValueError, match=r"class_weights has 'maybe', which is none of its labels"):
        TextClassification.from_dataset("t", ROWS, class_weights={"maybe": 2})


def test_fields_survive_a_config_file():
    task = text(label_smoothing=0.1, class_weights={"yes": 2})
    stored = json.loads(json.dumps(MultiTaskConfig(text_config=BERT, tasks=[task]).to_dict()))
    assert MultiTaskConfig.from_dict(stored).get_tasks()["t"] == task
    assert task.weights_in_order() == (1.0, 2.0)
    stars = TextClassification(name="t", labels=["1", "2"], class_weights={1: 2})
    assert task_from_dict(json.loads(json.dumps(stars.to_dict()))) == stars


def test_balanced_weights_are_found_in_the_training_data_and_kept():
    task = TextClassification.from_dataset("t", ROWS, class_weights="balanced")
    assert task.class_weights == {"no": 8 / (2 * 2), "yes": 8 / (2 * 6)}
    given = TextClassification(name="t", labels=["yes", "no"], class_weights="balanced")
    assert given.learn(datasets.Dataset.from_list(ROWS)).class_weights == task.class_weights


def test_balanced_without_data_says_where_it_is_to_come_from():
    with pytest.raises(ValueError, match=r"class_weights='balanced' needs the training data.*from_dataset"):
        text(class_weights="balanced").build_head(BERT)


def test_indices_of_a_class_label_are_counted_by_their_names():
    data = datasets.Dataset.from_list([{"text": "t", "label": i} for i in [1, 1, 1, 2]])
    data = data.cast_column("label", datasets.ClassLabel(names=["1", "2", "3"]))
    task = TextClassification.from_dataset("t", data, class_weights="balanced")
    assert task.class_weights == {"1": 1.0, "2": pytest.approx(4 / 6), "3": pytest.approx(2.0)}


def test_tags_are_counted_by_words():
    task = TokenClassification.from_dataset("t", TAGGED, class_weights="balanced")
    assert task.labels == ("B-x", "I-x", "O")
    assert task.class_weights == {"B-x": 4 / 2, "I-x": 1.0, "O": pytest.approx(4 / 6)}


def test_relations_are_counted_by_pairs():
    rows = [{"tokens": ["a", "b"], "head": [0, 1], "tail": [1, 2], "label": x} for x in ("r", "r", "r", "none")]
    task = RelationExtraction.from_dataset("t", rows, class_weights="balanced")
    assert task.class_weights == {"none": 2.0, "r": pytest.approx(4 / 6)}


def test_of_several_labels_each_is_balanced_against_the_rows_without_it():
    rows = [{"text": "t", "labels": labels} for labels in (["a", "a"], ["b"], ["b"], [])]
    task = MultiLabelClassification.from_dataset("t", rows, class_weights="balanced")
    assert task.class_weights == {"a": 3.0, "b": 1.0}


@pytest.mark.parametrize("fields", [{"label_smoothing": 0.1}, {"class_weights": {"O": 0.1}}])
def test_under_a_crf_they_are_refused_with_the_reason(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field}=.* has no meaning under a CRF, whose loss is over whole rows"):
        TokenClassification(name="t", labels=["B-x", "I-x", "O"], crf=True, **fields)


def test_the_heads_of_all_types_smooth_and_weigh():
    torch.manual_seed(0)
    hidden, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.long)
    words = torch.tensor([[0, 1, 2, -100, 1], [2, 0, 1, 1, -100]])
    both = {"label_smoothing": 0.2, "class_weights": {"b": 3.0}}
    weight = torch.tensor([1.0, 3.0, 1.0])
    names = ["a", "b", "c"]

    def output(task, labels):
        return task.build_head(BERT).eval()(hidden, mask, labels)

    def smoothed(logits, labels, weight=None):
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight=weight, label_smoothing=0.2)

    found = output(TextClassification(name="t", labels=names, **both), words[:, 1])
    torch.testing.assert_close(found.loss, smoothed(found.logits, words[:, 1], weight))
    found = output(TokenClassification(name="t", labels=names, **both), words)
    torch.testing.assert_close(found.loss, smoothed(found.logits, words, weight))
    found = output(RelationExtraction(name="t", labels=names, **both), words[:, 1])
    torch.testing.assert_close(found.loss, smoothed(found.logits, words[:, 1:2], weight))
    found = output(MorphologicalTagging(name="t", labels=["A=1", "A=2", "_"], label_smoothing=0.2), words)
    torch.testing.assert_close(found.loss, smoothed(found.logits, words))
    lemmas = Lemmatization.from_dataset("t", [{"tokens": ["cats", "ran", "a"], "lemmas": ["cat", "run", "a"]}])
    found = output(task_from_dict(lemmas.to_dict() | {"label_smoothing": 0.2}), words)
    torch.testing.assert_close(found.loss, smoothed(found.logits, words))
    gold = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    found = output(MultiLabelClassification(name="t", labels=names, **both), gold)
    wanted = F.binary_cross_entropy_with_logits(found.logits, gold * 0.8 + 0.1, pos_weight=weight)
    torch.testing.assert_close(found.loss, wanted)
    slots = IntentSlots(name="t", labels=names, intents=["go", "stay"], **both)
    gold = torch.cat([torch.tensor([[0], [1]]), words], dim=1)
    found = output(slots, gold)
    intents = smoothed(found.logits[..., 3:].mean(1), gold[:, 0])
    torch.testing.assert_close(found.loss, smoothed(found.logits[..., :3], words, weight) + intents)
    head = MultipleChoice(name="t", label_smoothing=0.2).build_head(BERT).eval()
    found = head(hidden.unsqueeze(0), mask.unsqueeze(0), torch.tensor([1]))
    torch.testing.assert_close(found.loss, smoothed(found.logits, torch.tensor([1])))


def test_a_models_loss_changes_with_the_fields_and_its_answers_do_not(tiny_backbone):
    from hf_mtl import MultiTaskModel

    model = MultiTaskModel.from_backbone(tiny_backbone(), [text()])
    given = dict(model.tokenizer(["one text", "another"], return_tensors="pt", padding=True))
    given["labels"] = torch.tensor([0, 1])
    with torch.no_grad():
        before = model(**given)
        model.replace_task(text(label_smoothing=0.3, class_weights={"yes": 5}))
        after = model(**given)
    assert torch.equal(before.logits["t"], after.logits["t"])
    wanted = F.cross_entropy(before.logits["t"], given["labels"], weight=torch.tensor([1.0, 5.0]), label_smoothing=0.3)
    torch.testing.assert_close(after.loss, wanted)
