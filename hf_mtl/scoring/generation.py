"""Scores of written texts: BLEU and chrF by sacrebleu, ROUGE by rouge-score, exact match."""

import importlib
from collections.abc import Sequence
from typing import Any

from .base import check_rows, check_texts

__all__ = ["exact_match", "require_library", "rouge_scores", "translation_scores"]


def translation_scores(
    predictions: Sequence[str], references: Sequence[str], tokenize: str | None = None
) -> dict[str, float]:
    """Corpus `bleu` (4-grams) and `chrf` (6 characters) by sacrebleu; published ones are 100 times these.

    Args:
        predictions: the texts written.
        references: one for each.
        tokenize: sacrebleu's tokenizer for BLEU: `13a` where None, `zh` for Chinese, `ja-mecab`, `char`, ...

    Raises:
        ValueError: not as many predictions as references, or none.
        ImportError: sacrebleu is not installed.
    """
    check_rows(predictions, references, check_texts)
    sacrebleu = require_library("sacrebleu")
    bleu = sacrebleu.corpus_bleu(list(predictions), [list(references)], **({"tokenize": tokenize} if tokenize else {}))
    chrf = sacrebleu.corpus_chrf(list(predictions), [list(references)])
    return {"bleu": bleu.score / 100, "chrf": chrf.score / 100}


def rouge_scores(predictions: Sequence[str], references: Sequence[str], stem: bool = True) -> dict[str, float]:
    """Mean F of `rouge1`, `rouge2`, `rougeL` and `rougeLsum` (Lin 2004), by rouge-score.

    Args:
        predictions: the texts written; for `rougeLsum` a sentence a line.
        references: one for each.
        stem: Porter's stemmer before words are compared, as summaries in English are usually scored.

    Raises:
        ValueError: not as many predictions as references, or none.
        ImportError: rouge-score is not installed.
    """
    check_rows(predictions, references, check_texts)
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = require_library("rouge_score.rouge_scorer").RougeScorer(names, use_stemmer=stem)
    found = [scorer.score(gold, text) for text, gold in zip(predictions, references, strict=True)]
    return {name: sum(row[name].fmeasure for row in found) / len(found) for name in names}


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The share of texts that are the reference, but for white space at their ends."""
    check_rows(predictions, references, check_texts)
    return sum(a.strip() == b.strip() for a, b in zip(predictions, references, strict=True)) / len(references)


def require_library(name: str) -> Any:
    """The module of this name; raises ImportError, which says what to install, where it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise ImportError(
            f"Scores of written texts need {package}: pip install 'hf_mtl[generation]', from a clone pip install "
            "'.[generation]'."
        ) from error
