"""F1 of relations between two spans, pairs without a relation left out, by scikit-learn."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from sklearn.metrics import accuracy_score, f1_score

from .base import TEXT, LocalMetric, check_rows, check_texts
from .classification import label_ids

__all__ = ["RelationScore", "relation_scores"]

_DIRECTION = re.compile(r"\((e1,e2|e2,e1)\)\Z")


def relation_scores(
    predictions: Sequence[str], references: Sequence[str], no_relation: str | None = None
) -> dict[str, float]:
    """Accuracy and F1 of one relation per pair of spans.

    Args:
        predictions: The predicted label of each pair.
        references: The gold label of each pair.
        no_relation: The label of pairs without a relation. It is not averaged over; to find a relation where there
            is none, or none where there is one, still is an error of the relation's.

    Returns:
        `accuracy` over all labels; `f1_micro`, of all pairs taken together (TACRED's score), and `f1_macro`, the
        mean F1 of the labels that occur in either list, both less `no_relation`; 0 where nothing is left.
        Here `Cause-Effect(e1,e2)` and `Cause-Effect(e2,e1)` are two labels like any others. If such labels occur in
        the gold ones, also `f1_macro_relations`: SemEval-2010 Task 8's official score (there 100 times it), the mean
        F1 of the relations in the gold labels, where the two directions count as one relation and the wrong
        direction as wrong.

    Raises:
        ValueError: No rows, or lists of different length.
        TypeError: A label that is not a string.
    """
    check_rows(predictions, references, check_texts)
    return RelationScore().compute(predictions=predictions, references=references, no_relation=no_relation)


class RelationScore(LocalMetric):
    """Accuracy, micro and macro F1 of relations; `compute(no_relation=...)` names the label that is none."""

    columns: ClassVar = {"predictions": TEXT, "references": TEXT}
    source = "Hendrickx et al. (2010). SemEval-2010 Task 8. https://aclanthology.org/S10-1006"

    def _compute(
        self, predictions: list[str], references: list[str], no_relation: str | None = None
    ) -> dict[str, float]:
        check_rows(predictions, references)
        ids = label_ids(predictions, references)
        gold, predicted = [ids[label] for label in references], [ids[label] for label in predictions]
        relations = [index for label, index in ids.items() if label != no_relation]
        result = {"accuracy": float(accuracy_score(gold, predicted))}
        for average in ("micro", "macro"):
            score = f1_score(gold, predicted, labels=relations, average=average, zero_division=0) if relations else 0
            result[f"f1_{average}"] = float(score)
        if any(_DIRECTION.search(label) for label in references if label != no_relation):
            result["f1_macro_relations"] = _without_direction(predictions, references, no_relation)
        return result


def _without_direction(predictions: Sequence[str], references: Sequence[str], no_relation: str | None) -> float:
    """The mean F1 of the gold relations, of two directions as of one."""
    right: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    for label, gold_label in zip(predictions, references, strict=True):
        predicted[_DIRECTION.sub("", label)] += 1
        gold[_DIRECTION.sub("", gold_label)] += 1
        right[_DIRECTION.sub("", label)] += label == gold_label
    relations = {_DIRECTION.sub("", label) for label in references if label != no_relation}
    return sum(2 * right[name] / (gold[name] + predicted[name]) for name in relations) / len(relations)
