"""Scores of joint extraction are those of a slow count, and of seqeval."""

import pytest
from entity_rows import LABELS, TYPES, graphs, row
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1

from hf_mtl.scoring.joint_relations import joint_relation_scores
from hf_mtl.tasks.joint_relation_extraction import JointRelationExtraction

TASK = JointRelationExtraction(name="j", entities="entities", types=TYPES, labels=LABELS)


def slow(predictions, references):
    """The same by lists and loops, an F1 of counts; without the entities, which are seqeval's."""

    def relations(graph, typed):
        found = []
        for r in graph["relations"]:
            ends = [graph["entities"][r[side]] for side in ("head", "tail")]
            one = [(e["start"], e["end"], e["type"] if typed else "") for e in ends] + [r["label"]]
            if one not in found:
                found.append(one)
        return found

    def f1(typed, label=None):
        right = said = wanted = 0
        for prediction, gold in zip(predictions, references, strict=True):
            ours, theirs = relations(prediction, typed), relations(gold, typed)
            ours = [r for r in ours if label in (None, r[2])]
            theirs = [r for r in theirs if label in (None, r[2])]
            right += sum(r in theirs for r in ours)
            said, wanted = said + len(ours), wanted + len(theirs)
        precision, recall = right / said if said else 0, right / wanted if wanted else 0
        return 2 * precision * recall / (precision + recall) if right else 0

    labels = sorted({r["label"] for graph in [*predictions, *references] for r in graph["relations"]})
    macro = sum(f1(True, label) for label in labels) / len(labels) if labels else 0
    return {"strict_f1": f1(True), "strict_f1_macro": macro, "boundary_f1": f1(False)}


def tags_of(graph, words):
    tags = ["O"] * words
    for e in graph["entities"]:
        tags[e["start"] : e["end"]] = [f"B-{e['type']}", *[f"I-{e['type']}"] * (e["end"] - e["start"] - 1)]
    return tags


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(graphs(most=5), graphs(most=5)), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:.*ill-defined:UserWarning")  # seqeval's, of rows without spans
def test_scores_are_those_of_a_slow_count_and_of_seqeval(pairs):
    said, gold = (TASK.references([pair[k] for pair in pairs]) for k in (0, 1))
    scores = joint_relation_scores(said, gold)
    assert scores == pytest.approx(slow(said, gold) | {"entity_f1": scores["entity_f1"]})
    tags = [[tags_of(graph, 5) for graph in part] for part in (gold, said)]
    assert scores["entity_f1"] == pytest.approx(seqeval_f1(*tags, zero_division=0))


def test_gold_answers_score_one_and_nothing_scores_zero():
    rows = [row(4, [(0, 1, "firm"), (2, 4, "person")], [(0, 1, "owns"), (1, 0, "x")]), row(2, [])]
    gold = TASK.references(rows)
    assert set(TASK.score(gold, gold).values()) == {1.0}
    assert set(TASK.score(TASK.baseline(gold, rows), gold).values()) == {0.0}


def test_a_wrong_type_is_right_by_its_boundaries_alone():
    gold = TASK.references([row(3, [(0, 1, "firm"), (2, 3, "person")], [(0, 1, "owns")])])
    said = TASK.references([row(3, [(0, 1, "person"), (2, 3, "person")], [(0, 1, "owns")])])
    scores = {"strict_f1": 0.0, "strict_f1_macro": 0.0, "boundary_f1": 1.0, "entity_f1": 0.5}
    assert TASK.score(said, gold) == scores
    turned = TASK.references([row(3, [(0, 1, "firm"), (2, 3, "person")], [(1, 0, "owns")])])
    assert TASK.score(turned, gold)["boundary_f1"] == 0


def test_what_is_no_answer_is_named():
    gold = TASK.references([row(3, [(0, 1, "firm"), (2, 3, "person")], [(0, 1, "owns")])])
    with pytest.raises(ValueError, match=r"predictions\[0\] has a relation .*2 entities"):
        TASK.score([gold[0] | {"relations": [{"head": 0, "tail": 2, "label": "owns"}]}], gold)
    with pytest.raises(TypeError, match=r"start 1\.5"):
        TASK.score([{"entities": [{"start": 1.5, "end": 2, "type": "firm"}], "relations": []}], gold)
