"""What is compared, task type by task type."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import hf_mtl
from hf_mtl import scoring
from hf_mtl.tasks.edit_scripts import edit_script

from . import (
    Budget,
    ContrastivePairs,
    EditScriptWay,
    EntitiesThenRelations,
    EntityMarkers,
    LabelWay,
    MultiLabelWay,
    MultipleChoiceWay,
    NumberWay,
    QuestionAnsweringWay,
    SoftLabelWay,
    TwoModels,
    Way,
    WordLabelWay,
    entities_of,
)
from .budget import Rows
from .case import Case, Scores

__all__ = ["CASES", "names"]


# ---------------------------------------------------------------------- label names, and what is said of answers


def names(rows: Rows, column: str) -> list[str]:
    """The labels of rows that have one each, or a list of them."""
    values = [row[column] for row in rows]
    return sorted({x for value in values for x in (value if isinstance(value, list) else [value])})


def _scripts(rows: Rows) -> list[str]:
    return sorted({edit_script(*pair) for row in rows for pair in zip(row["tokens"], row["lemmas"], strict=True)})


def _relations(rows: Rows) -> list[str]:
    return sorted({one["label"] for row in rows for one in row["relations"]})


def _frame_scores(answers: list[Any], gold: list[Any]) -> Scores:
    pairs = list(zip(answers, gold, strict=True))
    tags = scoring.tagging_scores([a["tags"] for a in answers], [g["tags"] for g in gold], spans=True)
    return {
        "frame_accuracy": sum(a == g for a, g in pairs) / len(pairs),
        "intent_accuracy": sum(a["intent"] == g["intent"] for a, g in pairs) / len(pairs),
        "slot_f1": tags["f1"],
    }


def _retrieved(answers: list[Any], gold: list[str]) -> Scores:
    texts, positives = (np.array(vectors) for vectors in zip(*answers, strict=True))
    return scoring.retrieval_scores(texts, positives, gold)


def _graph(row: dict[str, Any]) -> dict[str, Any]:
    """Entities, and relations by the numbers of their entities, of a row whose relations name spans."""
    spans = entities_of(row["tags"])
    number = {span[:2]: k for k, span in enumerate(spans)}
    return {
        "entities": [{"start": start, "end": end, "type": kind} for start, end, kind in spans],
        "relations": [
            {"label": one["label"]} | {side: number[tuple(one[side])] for side in ("head", "tail")}
            for one in row["relations"]
        ],
    }


def _choice_scores(answers: list[int], gold: list[int]) -> Scores:
    return {"accuracy": sum(a == g for a, g in zip(answers, gold, strict=True)) / len(gold)}


def _column(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row[name]


def _label(columns: Sequence[str] = ("text",)) -> Callable[[Budget, Rows], Way]:
    return lambda budget, rows: LabelWay(budget, names(rows, "label"), columns)


def _words(column: str, otherwise: str = "O") -> Callable[[Budget, Rows], Way]:
    return lambda budget, rows: WordLabelWay(budget, names(rows, column), column, otherwise)


def _pair_text(row: dict[str, Any]) -> dict[str, Any] | None:
    """Of a question with a sentence that holds its answer, two texts that belong together."""
    return {"text": row["text"], "positive": row["text_pair"]} if row["label"] == "entailment" else None


PAIR = ("text", "text_pair")
SPANS = partial(scoring.tagging_scores, spans=True)
PLAIN = partial(scoring.tagging_scores, spans=False)

CASES: dict[str, Case] = {
    "text-classification (TREC)": Case(
        data="trec",
        ours={"hf_mtl": hf_mtl.TextClassification},
        theirs={"ordinary": _label()},
        plain=_column("label"),
        gold=_column("label"),
        score=scoring.classification_scores,
        metrics=("accuracy", "f1_macro"),
    ),
    "text-classification (SST-2)": Case(
        data="sst2",
        ours={"hf_mtl": hf_mtl.TextClassification},
        theirs={"ordinary": _label()},
        plain=_column("label"),
        gold=_column("label"),
        score=scoring.classification_scores,
        metrics=("accuracy",),
    ),
    "text-classification of pairs (QNLI)": Case(
        data="qnli",
        ours={"hf_mtl": partial(hf_mtl.TextClassification, text_pair="text_pair")},
        theirs={"ordinary": _label(PAIR)},
        plain=_column("label"),
        gold=_column("label"),
        score=scoring.classification_scores,
        metrics=("accuracy",),
        epochs=2,
    ),
    "multi-label-classification (NLU++)": Case(
        data="nlupp_multilabel",
        ours={"hf_mtl": hf_mtl.MultiLabelClassification},
        theirs={"ordinary": lambda budget, rows: MultiLabelWay(budget, names(rows, "labels"), label="labels")},
        plain=lambda found: [one["label"] for one in found],
        gold=_column("labels"),
        score=scoring.multi_label_scores,
        metrics=("f1_micro", "f1_macro", "subset_accuracy"),
        epochs=8,
        rate=5e-4,
    ),
    "sentence-similarity (STS-B)": Case(
        data="stsb",
        ours={"hf_mtl": hf_mtl.SentenceSimilarity},
        theirs={
            "ordinary": lambda budget, rows: NumberWay(budget, (), PAIR, "score"),
        },
        plain=_column("score"),
        gold=_column("score"),
        score=scoring.correlation_scores,
        metrics=("spearman", "pearson"),
    ),
    "soft-label-classification (TREC, a teacher's)": Case(
        data="soft_trec",
        ours={"hf_mtl": partial(hf_mtl.SoftLabelClassification, labels=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"))},
        theirs={"ordinary": lambda budget, rows: SoftLabelWay(budget, ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"])},
        plain=lambda found: found,
        gold=_column("label"),
        score=scoring.soft_label_scores,
        metrics=("accuracy", "kl_divergence"),
    ),
    "token-classification (UPOS of EWT)": Case(
        data="ud_english_ewt_conllu",
        ours={"hf_mtl": partial(hf_mtl.TokenClassification, tags="upos")},
        theirs={"ordinary": _words("upos", "NOUN")},
        plain=_column("tags"),
        gold=_column("upos"),
        score=PLAIN,
        metrics=("accuracy",),
    ),
    "token-classification (WNUT 17)": Case(
        data="wnut17_ner",
        ours={
            "hf_mtl": hf_mtl.TokenClassification,
            "hf_mtl, CRF": partial(hf_mtl.TokenClassification, crf=True),
            "hf_mtl, random order": hf_mtl.TokenClassification,
        },
        settings={"hf_mtl, random order": {"length_group": 1}},
        theirs={"ordinary": _words("tags")},
        plain=_column("tags"),
        gold=_column("tags"),
        score=SPANS,
        metrics=("f1", "precision", "recall"),
    ),
    "morphological-tagging (EWT)": Case(
        data="ud_english_ewt_conllu",
        ours={"hf_mtl": hf_mtl.MorphologicalTagging},
        theirs={"ordinary": _words("feats", "_")},
        plain=_column("feats"),
        gold=_column("feats"),
        score=PLAIN,
        metrics=("accuracy",),
    ),
    "lemmatization (EWT)": Case(
        data="ud_english_ewt_conllu",
        ours={"hf_mtl": hf_mtl.Lemmatization},
        theirs={"ordinary": lambda budget, rows: EditScriptWay(budget, _scripts(rows), "lemmas", ";~|")},
        plain=_column("lemmas"),
        gold=_column("lemmas"),
        score=PLAIN,
        metrics=("accuracy",),
    ),
    "intent-slots (SNIPS)": Case(
        data="snips",
        ours={"hf_mtl": hf_mtl.IntentSlots},
        theirs={
            "ordinary": lambda budget, rows: TwoModels(budget, names(rows, "tags"), names(rows, "intent")),
        },
        plain=lambda found: {"intent": found["intent"], "tags": found["tags"]},
        gold=lambda row: {"intent": row["intent"], "tags": row["tags"]},
        score=_frame_scores,
        metrics=("frame_accuracy", "intent_accuracy", "slot_f1"),
        epochs=4,
    ),
    "relation-extraction (SemEval-2010 8)": Case(
        data="semeval2010_task8",
        ours={
            "hf_mtl": hf_mtl.RelationExtraction,
            "hf_mtl, pooling": partial(hf_mtl.RelationExtraction, spans="pooling"),
        },
        theirs={"ordinary": lambda budget, rows: EntityMarkers(budget, names(rows, "label"))},
        plain=_column("label"),
        gold=_column("label"),
        score=partial(scoring.relation_scores, no_relation="Other"),
        metrics=("f1_macro_relations", "accuracy"),
        train=2000,
        epochs=4,
        batch_size=16,
        rate=2e-4,
    ),
    "joint-relation-extraction (CoNLL04)": Case(
        data="conll04_joint",
        ours={"hf_mtl": hf_mtl.JointRelationExtraction},
        theirs={
            "ordinary": lambda budget, rows: EntitiesThenRelations(budget, names(rows, "tags"), _relations(rows)),
        },
        plain=lambda found: found,
        gold=_graph,
        score=scoring.joint_relation_scores,
        metrics=("strict_f1", "entity_f1"),
        train=400,
        epochs=6,
        rate=3e-4,
    ),
    "multiple-choice (CommonsenseQA)": Case(
        data="commonsenseqa",
        ours={"hf_mtl": hf_mtl.MultipleChoice},
        theirs={"ordinary": lambda budget, rows: MultipleChoiceWay(budget)},
        plain=_column("label"),
        gold=_column("label"),
        score=_choice_scores,
        metrics=("accuracy",),
        epochs=2,
        max_length=64,
    ),
    "question-answering (SQuAD 1.1)": Case(
        data="squad_v1_small",
        ours={"hf_mtl": hf_mtl.QuestionAnswering},
        theirs={"ordinary": lambda budget, rows: QuestionAnsweringWay(budget)},
        plain=_column("answer"),
        gold=lambda row: row["answers"]["text"],
        score=scoring.squad_scores,
        metrics=("f1", "exact_match"),
        test=300,
        max_length=192,
        change=lambda row: row if len(row["context"]) <= 500 else None,  # longer ones cost minutes
    ),
    "sentence-embedding (QNLI, entailed)": Case(
        data="qnli",
        ours={"hf_mtl": hf_mtl.SentenceEmbedding},
        theirs={"ordinary": lambda budget, rows: ContrastivePairs(budget)},
        plain=lambda found: (found["embedding"], found["positive"]),
        gold=_column("positive"),
        score=_retrieved,
        metrics=("recall_at_1", "mrr"),
        given=("positive",),
        epochs=1,
        rate=5e-5,
        change=_pair_text,
    ),
}
