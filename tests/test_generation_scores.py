"""Scores of written texts and of language models."""

import math

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from hf_mtl.scoring import exact_match, rouge_scores, token_scores, translation_scores

GOLD = ["the cat sat on the mat .", "there is a dog", "we left early today"]
SAID = ["the cat is on the mat .", "there is a dog", "we leave"]


def test_translation_scores_are_sacrebleus() -> None:
    found = translation_scores(SAID, GOLD)
    assert found["bleu"] * 100 == pytest.approx(sacrebleu.BLEU().corpus_score(SAID, [GOLD]).score)
    assert found["chrf"] * 100 == pytest.approx(sacrebleu.CHRF().corpus_score(SAID, [GOLD]).score)
    chinese = translation_scores(["我 爱 你们"], ["我爱你"], tokenize="zh")
    assert chinese["bleu"] * 100 == pytest.approx(
        sacrebleu.BLEU(tokenize="zh").corpus_score(["我 爱 你们"], [["我爱你"]]).score
    )


def test_rouge_is_the_mean_of_the_rows() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    own = [scorer.score(gold, said)["rougeL"].fmeasure for gold, said in zip(GOLD, SAID, strict=True)]
    assert rouge_scores(SAID, GOLD)["rougeL"] == pytest.approx(sum(own) / 3)
    assert rouge_scores(GOLD, GOLD) == dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 1.0)


def test_exact_match_minds_no_white_space_at_the_ends() -> None:
    assert exact_match([" a b\n", "c"], ["a b", "d"]) == 0.5


def test_perplexity_is_over_tokens_not_over_rows() -> None:
    rows = [
        {"log_likelihood": 9 * math.log(0.5), "hits": 9, "tokens": 9},
        {"log_likelihood": math.log(0.125), "hits": 0, "tokens": 1},
    ]
    found = token_scores(rows)
    assert found["token_accuracy"] == 0.9
    assert found["perplexity"] == pytest.approx((0.5**9 * 0.125) ** (-1 / 10))


def test_what_cannot_be_scored_is_named() -> None:
    with pytest.raises(ValueError, match="predictions has 1 rows and references has 2"):
        translation_scores(["a"], ["a", "b"])
    with pytest.raises(TypeError, match=r"predictions\[0\] is 1"):
        rouge_scores([1], ["a"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no tokens"):
        token_scores([{"log_likelihood": 0.0, "hits": 0, "tokens": 0}])
