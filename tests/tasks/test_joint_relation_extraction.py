"""Joint extraction: what is encoded is decoded again, windows lose no entity, and what cannot be used is named."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from entity_rows import LABELS, TYPES, graphs, row
from hypothesis import given, settings
from hypothesis import strategies as st
from overfit import overfit
from tiny import make_tokenizer, read_jsonl
from transformers import pipeline

from hf_mtl import MultiTaskModel
from hf_mtl.data import MultiTaskCollator
from hf_mtl.tasks import RowError
from hf_mtl.tasks.joint_relation_extraction import JointRelationExtraction
from hf_mtl.tasks.relation_table import CANDIDATES

ROWS = read_jsonl(Path(__file__).parent.parent / "data" / "joint_relations.jsonl")
TOKENIZERS = {family: make_tokenizer(family) for family in ("wordpiece", "bytes", "unigram", "bytes-bare")}
TASK = JointRelationExtraction(name="j", entities="entities", types=TYPES, labels=LABELS, max_length=128)


def labels_of(*rows, task=TASK):
    return [feature["labels"] for feature in task.encode(rows, TOKENIZERS["wordpiece"])]


def perfect(task, labels, words, sure=20.0):
    """The logits of a head that knows the labels of a window."""
    told = np.array(labels, dtype=np.int64).reshape(-1, 3)
    tags, relations = told[told[:, 2] < 0, 1], told[told[:, 2] >= 0]
    scores = np.full((words, len(task.bio_tags())), -sure, dtype=np.float32)
    scores[np.arange(words), tags] = sure
    candidates = np.full((words, CANDIDATES, 3), -1, dtype=np.float32)
    candidates[:, :, 2] = -np.inf
    used = [0] * words
    for head, tail, label in relations:
        candidates[head, used[head]] = tail, label, sure
        used[head] += 1
    return np.concatenate([scores, candidates.reshape(words, -1)], axis=1)


def plain(graph):
    """A prediction without its scores."""
    return {part: [{k: v for k, v in one.items() if k != "score"} for one in graph[part]] for part in graph}


# ---------------------------------------------------------------------- encoding and decoding


@settings(max_examples=80, deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=4))
def test_decoding_what_was_encoded_gives_the_gold_answer(rows):
    features = TASK.encode(rows, TOKENIZERS["wordpiece"])
    logits = [perfect(TASK, feature["labels"], len(feature["words"])) for feature in features]
    found = TASK.decode(logits, features, rows)
    assert [plain(graph) for graph in found] == TASK.references(rows)
    scores = [one["score"] for graph in found for part in graph.values() for one in part]
    assert all(score == pytest.approx(1) for score in scores)


def test_characters_of_one_subword_are_in_one_entity():
    task = JointRelationExtraction(name="j", types=TYPES, labels=LABELS, split="characters", max_length=128)
    tokenizer = make_tokenizer("wordpiece")
    tokenizer.add_tokens(["2008"])
    tags = ["B-firm", *["I-firm"] * 4, "O", "B-person", "I-person"]
    row = {
        "tokens": [*"2008年的我去"],
        "tags": tags,
        "relations": [{"head": [6, 8], "tail": [0, 5], "label": "owns"}],
    }
    (feature,) = task.encode([row], tokenizer)
    told = perfect(task, feature["labels"], len(feature["words"]))
    _, first = np.unique(feature["positions"], return_index=True)
    told = told[first][np.searchsorted(np.unique(feature["positions"]), feature["positions"])]  # a head sees no more
    found = task.decode([told], [feature], [row])
    assert [plain(graph) for graph in found] == task.references([row])


@settings(max_examples=60, deadline=None)
@given(graphs(most=60), st.sampled_from(sorted(TOKENIZERS)))
def test_over_windows_no_entity_is_lost_and_no_relation_whose_ends_one_window_reads(graph, family):
    task = JointRelationExtraction(name="j", entities="entities", types=TYPES, labels=LABELS, max_length=24)
    features = task.encode([graph], TOKENIZERS[family])
    logits = [perfect(task, feature["labels"], len(feature["words"])) for feature in features]
    (found,), (gold,) = task.decode(logits, features, [graph]), task.references([graph])
    assert plain(found)["entities"] == gold["entities"]
    seen = [set(np.asarray(feature["words"]).tolist()) for feature in features]
    spans_of = [set(range(entity["start"], entity["end"])) for entity in gold["entities"]]
    near = [r for r in gold["relations"] if any(w & spans_of[r["head"]] and w & spans_of[r["tail"]] for w in seen)]
    assert plain(found)["relations"] == near


def test_an_entity_over_two_windows_has_the_relations_of_both_and_of_what_is_said_twice_the_surer_counts():
    features = [{"row": 0, "words": [0, 1]}, {"row": 0, "words": [2, 3]}]
    first = perfect(TASK, [[1, 1, -1], [3, 3, -1], [0, 1, 0]], 2)
    second = perfect(TASK, [[4, 4, -1], [1, 1, -1], [1, 0, 0]], 2, sure=1.0)
    (found,) = TASK.decode([first, second], features, [{"tokens": ["a", "b", "c", "d"]}])
    entities = [(entity["start"], entity["end"], entity["type"]) for entity in found["entities"]]
    assert entities == [(0, 1, "firm"), (1, 3, "person"), (3, 4, "firm")]
    said = [(r["head"], r["tail"], r["label"], r["score"]) for r in found["relations"]]
    assert said == [(0, 1, "near", pytest.approx(1)), (2, 1, "near", pytest.approx(0.731, abs=1e-3))]
    twice = perfect(TASK, [[1, 1, -1], [3, 3, -1], [0, 1, 0], [0, 1, 0]], 2)
    twice[0, 5 + 2] = 1.0
    (found,) = TASK.decode([twice], features[:1], [{"tokens": ["a", "b"]}])
    assert [r["score"] for r in found["relations"]] == [pytest.approx(1)]


def test_relations_at_the_threshold_or_below_are_not_answered():
    logits = [perfect(TASK, [[1, 1, -1], [3, 3, -1], [0, 1, 0]], 2, sure=0.0)]
    logits[0][[0, 1], [1, 3]] = 5.0
    features, rows = [{"row": 0, "words": [0, 1]}], [{"tokens": ["a", "b"]}]
    assert TASK.decode(logits, features, rows)[0]["relations"] == []
    low = JointRelationExtraction(name="j", types=TYPES, labels=LABELS, threshold=0.49)
    assert low.decode(logits, features, rows)[0]["relations"][0]["score"] == 0.5


def test_tuning_finds_the_threshold_of_the_best_strict_f1():
    gold = row(2, [(0, 1, "firm"), (1, 2, "person")], [(0, 1, "near"), (1, 0, "owns")])
    told = perfect(TASK, [[1, 1, -1], [3, 3, -1], [0, 1, 0], [0, 1, 2], [1, 0, 1]], 2)
    told[0, 5 + 2], told[0, 5 + 5], told[1, 5 + 2] = 2.0, -2.0, -1.0
    features = [{"row": 0, "words": [0, 1]}]
    tuned = TASK.tune([told], features, [gold])
    assert 0.119 < tuned.threshold < 0.269
    assert tuned.score(tuned.decode([told], features, [gold]), tuned.references([gold]))["strict_f1"] == 1
    nothing = [perfect(TASK, [[0, 0, -1], [0, 0, -1]], 2)]
    assert TASK.tune(nothing, features, [gold]) == TASK


def test_tags_and_lists_of_entities_say_the_same():
    by_tags = JointRelationExtraction(name="j", types=TYPES, labels=LABELS, max_length=128)
    other = row(5, [(0, 2, "firm"), (2, 3, "firm"), (4, 5, "person")], [(0, 2, "x")])
    tagged = other | {"tags": ["B-firm", "I-firm", "B-firm", "O", "B-person"]}
    assert labels_of(other) == labels_of(tagged, task=by_tags)
    assert TASK.references([other]) == by_tags.references([tagged])
    iob1 = other | {"tags": ["I-firm", "I-firm", "B-firm", "O", "I-person"]}
    assert labels_of(other) == labels_of(iob1, task=by_tags)
    columns = {key: [e[key] for e in other["entities"]] for key in ("start", "end", "type")}
    assert labels_of(other) == labels_of(other | {"entities": columns})


def test_names_are_learned_from_the_data():
    task = JointRelationExtraction.from_dataset("j", ROWS, entities="entities")
    assert task.types == ("firm", "person", "place")
    assert task.labels == ("based_in", "lies_in", "lives_in", "works_for")
    assert task.bio_tags()[:3] == ("O", "B-firm", "I-firm") and len(task.bio_tags()) == 7
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        tags=datasets.List(datasets.ClassLabel(names=["O", "B-a", "I-a"])),
        relations=datasets.List(
            {"head": datasets.List(datasets.Value("int64")), "tail": datasets.List(datasets.Value("int64")),
             "label": datasets.Value("string")}
        ),
    )  # fmt: skip
    rows = [{"tokens": ["w"] * 3, "tags": [1, 2, 1], "relations": [{"head": [0, 2], "tail": [2, 3], "label": "r"}]}]
    task = JointRelationExtraction.from_dataset("j", datasets.Dataset.from_list(rows, features=features))
    assert (task.types, task.labels) == (("a",), ("r",))
    with pytest.raises(ValueError, match="no relations in any row"):
        JointRelationExtraction.from_dataset("j", [row(2, [(0, 1, "firm")])], entities="entities")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entities": [{"start": 0, "end": 2, "type": "firm"}, {"start": 1, "end": 3, "type": "firm"}]}, "overlap"),
        ({"entities": [{"start": 0, "end": 5, "type": "firm"}]}, r"'entities' has the span \[0, 5\].*end <= 4"),
        ({"entities": [{"start": 1, "end": 1, "type": "firm"}]}, r"\[1, 1\].*start < end"),
        ({"entities": [{"start": True, "end": 2, "type": "firm"}]}, "True, 2"),
        ({"entities": [{"start": 0, "end": 2}]}, r"must hold a list of \{'start', 'end', 'type'\}"),
        ({"entities": [{"start": 0, "end": 2, "type": "fim"}], "relations": []}, "'fim'.*Did you mean 'firm'"),
        ({"entities": "B-firm"}, "must hold a list of"),
        ({"entities": [{"start": 0, "end": 2, "type": 3}]}, "type 3"),
        ({"relations": [{"head": [0, 1], "tail": [3, 4], "label": "owns"}]}, r"head \[0, 1\] of 'owns' is no entity"),
        ({"relations": [{"head": [0, 2], "tail": [3, 9], "label": "owns"}]}, r"'relations.tail' has the span \[3, 9\]"),
        ({"relations": [{"head": 0, "tail": [3, 4], "label": "owns"}]}, "'relations.head' has the span 0"),
        ({"relations": [{"head": [0, 2], "tail": [3, 4], "label": "own"}]}, "label 'own' .*Did you mean 'owns'"),
        ({"relations": [{"head": [0, 2], "tail": [0, 2], "label": "owns"}]}, "to itself"),
        ({"relations": [{"head": [0, 2], "tail": [3, 4], "label": None}]}, "'head', 'tail', 'label'"),
        ({"relations": None}, "'relations' must hold a list"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_field(change, says):
    good = row(4, [(0, 2, "firm"), (3, 4, "person")], [(0, 1, "owns")])
    with pytest.raises(RowError, match=says) as error:
        labels_of(good, good | change)
    assert error.value.row == 1 and "'j'" in str(error.value)


@pytest.mark.parametrize(("tags", "says"), [(["O"], "4 entries"), (["O", "E-firm", "O", "O"], "'E-firm'.*BIOES")])
def test_tags_that_are_no_bio_tags_are_refused(tags, says):
    task = JointRelationExtraction(name="j", types=TYPES, labels=LABELS, max_length=128)
    with pytest.raises(RowError, match=says):
        labels_of(row(4, []) | {"tags": tags}, task=task)


# ---------------------------------------------------------------------- the whole way


def test_a_tiny_backbone_learns_sentences_by_heart_and_answers_in_batches_as_alone(tiny_backbone):
    task = JointRelationExtraction.from_dataset("j", ROWS, entities="entities", dropout=0.0, pair_width=64)
    logits, features = overfit(task, ROWS, tiny_backbone(), steps=80)
    scores = task.score(task.decode(logits, features, ROWS), task.references(ROWS))
    assert scores["strict_f1"] > 0.95 and scores["entity_f1"] > 0.95
    assert task.tune(logits, features, ROWS).threshold > 0


def test_what_a_batch_answers_is_what_each_row_answers_alone(tiny_backbone):
    task = JointRelationExtraction.from_dataset("j", ROWS, entities="entities", threshold=0.3)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [task])
    head: Any = model.heads["j"]
    torch.nn.init.normal_(head.relation.weight)
    for layer in (head.relation, head.tagger.classifier):  # so that much is found
        torch.nn.init.zeros_(layer.bias)
    rows = [{"tokens": r["tokens"]} for r in ROWS]
    features = task.encode(rows, model.tokenizer)
    collate = MultiTaskCollator(model.tokenizer, [task])

    def logits_of(part):
        keys = ("input_ids", "token_type_ids", "positions")
        batch = collate([{k: f[k] for k in keys if k in f} | {"task_ids": 0} for f in part])
        with torch.no_grad():
            told = model(**batch).logits["j"].numpy()
        return [task.cut(one, feature) for one, feature in zip(told, part, strict=True)]

    together = task.decode(logits_of(features), features, rows)
    alone = task.decode([logits_of([feature])[0] for feature in features], features, rows)
    assert [plain(graph) for graph in together] == [plain(graph) for graph in alone]
    assert sum(len(graph["relations"]) for graph in together) > 10


def test_the_pipeline_names_entities_by_their_place_and_relations_by_their_entities(tiny_backbone):
    task = JointRelationExtraction.from_dataset("j", ROWS, entities="entities")
    ann = {"start": 0, "end": 2, "type": "person", "score": 0.9}
    oslo = {"start": 3, "end": 4, "type": "place", "score": 0.8}
    related = {"head": 0, "tail": 1, "label": "lives_in", "score": 0.7}
    prediction = {"entities": [ann, oslo], "relations": [related]}
    assert task.answer(prediction, {"tokens": "Ann  Lee, Oslo"}) == {
        "entities": [
            {"entity_group": "person", "score": 0.9, "word": "Ann  Lee", "start": 0, "end": 8},
            {"entity_group": "place", "score": 0.8, "word": "Oslo", "start": 10, "end": 14},
        ],
        "relations": [related],
    }
    pipe = pipeline("multitask-nlp", model=MultiTaskModel.from_backbone(tiny_backbone(), [task]))
    assert pipe("")["j"] == {"entities": [], "relations": []}
    assert set(pipe("Ann Lee lives in Oslo .")["j"]) == {"entities", "relations"}
