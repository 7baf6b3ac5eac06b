"""What question answering chooses: the threshold of no answer, and how many answers it gives."""

from itertools import pairwise

import numpy as np
import pytest

from hf_mtl import QuestionAnswering
from hf_mtl.scoring import squad_scores

CONTEXT = "one two six ten"
OFFSETS = [[0, 3], [4, 7], [8, 11], [12, 15]]


def said(null: float, *words: float) -> np.ndarray:
    """Logits of a window: no answer, and each word as an answer by itself."""
    return np.array([[null, 0.0], *([value, value] for value in words)], dtype=np.float32)


def features(count: int) -> list[dict]:
    return [{"row": i, "first": 1, "offsets": OFFSETS, "input_ids": [0] * 5} for i in range(count)]


def rows(*answers: str) -> list[dict]:
    gold = [{"text": [a] if a else [], "answer_start": [CONTEXT.index(a)] if a else []} for a in answers]
    return [{"question": "?", "context": CONTEXT, "answers": value} for value in gold]


def test_tuning_finds_the_threshold_of_the_best_f1() -> None:
    asked = rows("two", "", "six", "")
    logits = [said(3, 0, 1, 0, 0), said(9, 0, 0, 0, 1), said(4, 0, 0, 1, 0), said(8, 1, 0, 0, 0)]
    task = QuestionAnswering(name="a")
    tuned = task.tune(logits, features(4), asked)
    gold = task.references(asked)
    assert squad_scores([p["answer"] for p in task.decode(logits, features(4), asked)], gold)["f1"] == 0.5
    assert squad_scores([p["answer"] for p in tuned.decode(logits, features(4), asked)], gold)["f1"] == 1.0
    assert 2 < tuned.null_threshold < 6


def test_where_there_always_is_an_answer_nothing_is_tuned() -> None:
    task = QuestionAnswering(name="a", allow_no_answer=False)
    assert task.tune([said(3, 0, 1, 0, 0)], features(1), rows("two")) is task


@pytest.mark.parametrize("threshold", [-100.0, 0.0, 100.0])
def test_many_answers_are_the_likeliest_ones_and_the_first_is_the_one_given_alone(threshold: float) -> None:
    asked, logits = rows("two"), [said(1, 0, 5, 3, 1)]
    one = QuestionAnswering(name="a", null_threshold=threshold)
    many = QuestionAnswering(name="a", null_threshold=threshold, top_k=4)
    alone = one.answer(one.decode(logits, features(1), asked)[0], asked[0])
    found = many.answer(many.decode(logits, features(1), asked)[0], asked[0])
    assert len(found) == 4 and found[0] == alone
    assert all(a["score"] >= b["score"] for a, b in pairwise(found[1:]))
    assert sum(answer["score"] for answer in found) <= 1 + 1e-6


def test_a_chinese_answer_is_compared_character_by_character() -> None:
    scores = squad_scores(["北京大学"], [["北京。"]])
    assert scores["exact_match"] == 0 and scores["f1"] == pytest.approx(2 * 2 / (4 + 2))
    assert squad_scores(["《北京》"], [["北京"]])["exact_match"] == 1


def test_a_context_with_nothing_to_read_does_not_move_the_threshold() -> None:
    asked = [*rows("two"), {"question": "?", "context": " ", "answers": {"text": [], "answer_start": []}}]
    made = [*features(1), {"row": 1, "first": 1, "offsets": [], "input_ids": [0]}]
    tuned = QuestionAnswering(name="a").tune([said(3, 0, 1, 0, 0), np.zeros((1, 2), np.float32)], made, asked)
    assert 0 < tuned.null_threshold < 10
