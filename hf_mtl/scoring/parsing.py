"""Attachment scores of dependency trees, as the official evaluation of Universal Dependencies counts them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import datasets

from .base import TEXTS, LocalMetric, check_rows, check_texts

__all__ = ["ParsingScore", "parsing_scores"]

_TREE = {"heads": datasets.List(datasets.Value("int64")), "deprels": TEXTS}


def parsing_scores(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Attachment scores of dependency trees over the same words.

    Args:
        predictions: A mapping for each row: `heads`, the number of each word's head (from 1; 0 for the root), and
            `deprels`, its relation. Other keys are not looked at.
        references: The gold trees.

    Returns:
        Shares of all words, punctuation included, that are right: `uas` the head; `las` the head and the relation
        without its subtype (what stands behind a colon); `las_strict` the head and the whole relation. `uas` and
        `las` are those of CoNLL 2018's conll18_ud_eval.py where the words are the gold ones.

    Raises:
        ValueError: No rows, no words in any row, or trees over different numbers of words.
        TypeError: A head that is not a whole number, or a relation that is not a string.
    """
    check_rows(predictions, references)
    trees = [
        [_checked(f"{name}[{index}]", tree) for index, tree in enumerate(rows)]
        for name, rows in (("predictions", predictions), ("references", references))
    ]
    return ParsingScore().compute(predictions=trees[0], references=trees[1])


class ParsingScore(LocalMetric):
    """Labelled and unlabelled attachment scores of dependency trees."""

    columns: ClassVar = {"predictions": _TREE, "references": _TREE}
    source = (
        "Zeman et al. (2018). CoNLL 2018 Shared Task: Multilingual Parsing from Raw Text to Universal Dependencies. "
        "https://aclanthology.org/K18-2001"
    )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        check_rows(predictions, references)
        words = heads = relations = whole = 0
        for index, (predicted, gold) in enumerate(zip(predictions, references, strict=True)):
            lengths = {len(tree[part]) for tree in (predicted, gold) for part in _TREE}
            if len(lengths) > 1:
                raise ValueError(
                    f"predictions[{index}] and references[{index}] have heads and deprels of {sorted(lengths)} words: "
                    "every word needs one of each."
                )
            arcs, gold_arcs = (zip(tree["heads"], tree["deprels"], strict=True) for tree in (predicted, gold))
            for (head, relation), (gold_head, gold_relation) in zip(arcs, gold_arcs, strict=True):
                words += 1
                if head == gold_head:
                    heads += 1
                    whole += relation == gold_relation
                    relations += _universal(relation) == _universal(gold_relation)
        if not words:
            raise ValueError(f"None of the {len(references)} rows has a word: nothing to score.")
        return {"uas": heads / words, "las": relations / words, "las_strict": whole / words}


def _universal(relation: str) -> str:
    return relation.partition(":")[0]


def _checked(name: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a tree that is scored; `evaluate` would turn 1.5 and "1" into 1."""
    check_texts(f"{name}['deprels']", tree["deprels"])
    for head in tree["heads"]:
        if not isinstance(head, int) or isinstance(head, bool):
            raise TypeError(f"{name}['heads'] has {head!r} ({type(head).__name__}): expected the number of a word.")
    return {part: tree[part] for part in _TREE}
