"""SQuAD's exact match and F1, with questions that have no answer (arXiv:1606.05250, arXiv:1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from .base import TEXT, TEXTS, LocalMetric, check_rows, check_text_lists, check_texts

__all__ = ["SquadScore", "answer_f1", "squad_scores"]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Scripts that put no space between words: there a character is a word, as in CMRC 2018's official program.
_UNSPACED = re.compile(r"([\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_THEIR_PUNCTUATION = str.maketrans("", "", "，。、；：？！“”‘’（）《》〈〉【】〔〕「」『』…—～·．")


def squad_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD's exact match and F1 of one answer per question.

    Both compare lower-cased words, less ASCII punctuation and English articles, with the best gold answer's. Of text
    with Chinese or Japanese characters each such character is a word, and their punctuation goes too; CMRC 2018's
    official F1 differs in that it wants the shared characters in one piece.

    Args:
        predictions: The predicted answer of each question, `""` for none.
        references: The gold answers of each question, an empty list where it has none.

    Returns:
        `exact_match` and `f1` over all questions, in 0..1 (the official program's are 100 times these). Where
        some question has no answer, also `no_answer_accuracy` over those (officially `NoAns_exact` and
        `NoAns_f1`, which are equal) and, if there are others, `has_answer_exact_match` and `has_answer_f1`
        over them. Unlike in the official program, a question whose gold answers are all blank has no answer.

    Raises:
        ValueError: No rows, or lists of different length.
        TypeError: An answer that is not a string, or gold answers that are not a list of strings.
    """
    check_rows(predictions, references)
    check_texts("predictions", predictions)
    check_text_lists("references", references)
    return SquadScore().compute(predictions=predictions, references=references)


class SquadScore(LocalMetric):
    """SQuAD 2.0's exact match and F1; references are lists of gold answers, empty where there is none."""

    columns: ClassVar = {"predictions": TEXT, "references": TEXTS}
    source = "Rajpurkar, Jia and Liang (2018). Know What You Don't Know. arXiv:1806.03822"

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        check_rows(predictions, references)
        has_answer: list[tuple[float, float]] = []
        no_answer: list[tuple[float, float]] = []
        for answer, gold in zip(predictions, references, strict=True):
            part = has_answer if any(text.strip() for text in gold) else no_answer
            part.append(_answer_scores(answer, gold))
        result = _means(has_answer + no_answer)
        if no_answer:
            if has_answer:
                result |= {f"has_answer_{name}": value for name, value in _means(has_answer).items()}
            result["no_answer_accuracy"] = _means(no_answer)["exact_match"]
        return result


def _means(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    exact, f1 = zip(*scores, strict=True)
    return {"exact_match": sum(exact) / len(exact), "f1": sum(f1) / len(f1)}


def answer_f1(answer: str, gold: Sequence[str]) -> float:
    """F1 of one answer against the best of its gold answers, as in `squad_scores`."""
    return _answer_scores(answer, gold)[1]


def _answer_scores(answer: str, gold: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of an answer against the best of its gold answers."""
    words = _words(answer)
    # Gold answers of articles and punctuation alone are dropped, as in the official program.
    choices = [choice for choice in map(_words, gold) if choice] or [[]]
    return float(words in choices), max(_overlap(words, choice) for choice in choices)


def _words(text: str) -> list[str]:
    # The order matters: "a.b" becomes the word "ab", and "'the'" an article.
    text = text.lower().translate(_NO_PUNCTUATION)
    if _UNSPACED.search(text):
        text = _UNSPACED.sub(r" \1 ", text.translate(_THEIR_PUNCTUATION))
    return _ARTICLE.sub(" ", text).split()


def _overlap(words: list[str], gold: list[str]) -> float:
    """F1 of two bags of words; 1 if both are empty."""
    shared = (Counter(words) & Counter(gold)).total()
    return 2 * shared / (len(words) + len(gold)) if words or gold else 1.0
