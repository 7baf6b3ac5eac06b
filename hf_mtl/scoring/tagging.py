"""Scores of tag sequences: spans by seqeval, plain tags by scikit-learn."""

import re
from collections.abc import Sequence
from typing import ClassVar

from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

from .base import TEXTS, LocalMetric, check_rows, check_text_lists
from .classification import label_scores

__all__ = ["SpanScore", "TagScore", "tagging_scores"]

# Other tags seqeval reads as spans too, with a warning.
_SPAN_TAG = re.compile(r"O|[BIES](-.*)?", re.DOTALL)


def tagging_scores(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], *, spans: bool
) -> dict[str, float]:
    """Scores of one tag per token.

    Args:
        predictions: The predicted tags of each row, as many as `references` has there.
        references: The gold tags of each row.
        spans: True for tags that spell spans (`O`, `B-PER`, `I-PER`; `E-`, `S-` too), False for plain tags.

    Returns:
        With spans, `f1`, `precision` and `recall` over all rows' spans (micro, counted as conlleval does)
        and the token `accuracy`; a score with nothing to divide by is 0. For plain tags, the token `accuracy`
        and `f1_macro`, the mean F1 of the tags that occur in either list.

    Raises:
        ValueError: No rows, no token in any row, rows of different length, or a tag that spells no span.
        TypeError: A row that is not a list of strings.
    """
    check_rows(predictions, references, check_text_lists)
    module = SpanScore() if spans else TagScore()
    return module.compute(predictions=predictions, references=references)


class TagScore(LocalMetric):
    """Token accuracy and macro F1 of lists of plain tags."""

    columns: ClassVar = {"predictions": TEXTS, "references": TEXTS}

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        return label_scores(*_flat(predictions, references))


class SpanScore(LocalMetric):
    """Micro precision, recall and F1 of the spans that lists of BIO tags spell, and token accuracy."""

    columns: ClassVar = {"predictions": TEXTS, "references": TEXTS}
    source = "Hiroki Nakayama (2018). seqeval. https://github.com/chakki-works/seqeval"

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        predicted, gold = _flat(predictions, references)
        for tag in sorted({*predicted, *gold}):
            if not _SPAN_TAG.fullmatch(tag):
                raise ValueError(
                    f"Tag {tag!r} spells no span: expected 'O' or a tag such as 'B-PER' or 'I-PER'. "
                    "Score plain tags with spans=False."
                )
        # 0 is seqeval's own value for a division by zero, here without its warning.
        precision, recall, f1, _ = precision_recall_fscore_support(
            references, predictions, average="micro", zero_division=0
        )
        right = sum(tag == gold_tag for tag, gold_tag in zip(predicted, gold, strict=True))
        return {
            "f1": float(f1),
            "precision": float(precision),
            "recall": float(recall),
            "accuracy": right / len(gold),
        }


def _flat(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The tags of all rows in two equally long, not empty lists."""
    check_rows(predictions, references)
    for row, (predicted, gold) in enumerate(zip(predictions, references, strict=True)):
        if len(predicted) != len(gold):
            raise ValueError(
                f"predictions[{row}] has {len(predicted)} tags and references[{row}] has {len(gold)}: "
                "every token needs one of each."
            )
    flat = [tag for tags in predictions for tag in tags], [tag for tags in references for tag in tags]
    if not flat[0]:
        raise ValueError(f"None of the {len(predictions)} rows has a token: nothing to score.")
    return flat
