"""An answer read out of a context: the span of its words that answers a question, or that there is none."""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from ..backbone import is_causal, width_of
from .answer_spans import Window, rank_spans
from .base import Features, Row, RowError, Task, TaskOutput
from .context_windows import encode_contexts
from .gold_answers import gold_answers, label_windows, locate_gold
from .plain import PlainHead
from .pooling import POOLINGS, pool, resolve_pooling
from .registry import register_task
from .soft_outputs import OneLabel, SoftOutputs, SoftReader
from .softmax import softmax
from .thresholds import best_threshold

__all__ = ["QuestionAnswering"]

# The usual window for SQuAD (BERT's own, and transformers' examples) holds most paragraphs whole. A backbone
# that takes 8,000 subwords would else spend memory on its longest contexts that no answer needs.
DEFAULT_WINDOW = 384
# The null score of a context that holds nothing to answer with: above any threshold, and JSON knows it.
NOTHING_TO_READ = 1e4
_ANSWER = ("score", "start", "end", "answer")


@register_task("question-answering")
@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """Extractive question answering. Long contexts are read in overlapping windows; there may be no answer.

    Columns: `question`, `context`, `answers` (`{"text": [...], "answer_start": [...]}`, as SQuAD has it;
    empty lists: no answer; the first one trains). Answer: `{"score", "start", "end", "answer"}`, the empty
    answer from 0 to 0; a list of them, the likeliest first, where `top_k` is more than 1. Scores: `f1`,
    `exact_match`, and apart for questions with and without an answer.

    Args:
        max_length: most subwords of a window, the question's included; None: 384, or what the backbone takes.
        stride: subwords of the context that neighbouring windows share; at most half of a window.
        max_question_length: subwords that are kept of a question; at most half of a window.
        max_answer_length: most subwords of an answer.
        null_threshold: no answer where the logits of none, less those of the best answer, are above it. `tune`
            chooses the one of the best F1.
        n_best: how many spans share the probability that `score` is.
        top_k: how many answers are given.
        allow_no_answer: False: there always is an answer. Learned: whether the training data has questions
            without one. None, never learned, is as True.
        pooling: the vector that "no answer" is read from: `mean`, `first`, `last`, or `auto`: the last token
            on a causal backbone, whose first token has seen nothing, and the first elsewhere.
        separate_null: False: "no answer" is read from the first token by the weights that read all other tokens, as in
            transformers' own classes, whose form can be exported; True: by weights of its own.
    """

    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    stride: int = 128
    max_question_length: int = 64
    max_answer_length: int = 30
    null_threshold: float = 0.0
    n_best: int = 20
    top_k: int = 1
    allow_no_answer: bool | None = None
    pooling: str = "auto"
    separate_null: bool = True

    main_metric = "f1"
    per_token = True
    needs_offsets = True
    not_in_features = Task.not_in_features | {
        "max_answer_length", "null_threshold", "n_best", "top_k", "pooling", "separate_null",
    }  # fmt: skip
    not_encoded = Task.not_encoded | not_in_features | {"answers", "allow_no_answer"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (
            ("stride", 0),
            ("max_question_length", 1),
            ("max_answer_length", 1),
            ("n_best", 1),
            ("top_k", 1),
        ):
            self._check_number(field, partial(operator.le, least), f"a whole number of {least} or more", whole=True)
        self._check_number("null_threshold", math.isfinite, "a number")
        self._check(
            "allow_no_answer",
            self.allow_no_answer,
            self.allow_no_answer in (None, True, False),
            "true, false or null",
        )
        self._check("pooling", self.pooling, self.pooling in POOLINGS, f"one of {POOLINGS}")
        self._check("separate_null", self.separate_null, self.separate_null in (True, False), "true or false")

    def inputs(self) -> dict[str, str]:
        return {"question": self.question, "context": self.context}

    def columns(self) -> tuple[str, ...]:
        return self.question, self.context, self.answers

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        if self.allow_no_answer is not None:
            return self
        column = enumerate(dataset[self.answers])
        return replace(self, allow_no_answer=any(not gold_answers(self, value, i) for i, value in column))

    # ------------------------------------------------------------------ data

    def limit(self, tokenizer: Any) -> int:
        longest = super().limit(tokenizer)
        longest = min(longest, DEFAULT_WINDOW) if self.max_length is None else longest
        least = tokenizer.num_special_tokens_to_add(pair=True) + 4
        self._check("max_length", longest, longest >= least, f"{least} or more with this tokenizer")
        return longest

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        questions = [self.read_text(row, self.question, i) for i, row in enumerate(rows)]
        contexts = [self.read_text(row, self.context, i) for i, row in enumerate(rows)]
        for i, question in enumerate(questions):
            if not question.strip():
                raise RowError(f"Task {self.name!r}: column {self.question!r} is empty: {question!r}.", i)
        labelled = self.answers in rows[0]
        gold = [locate_gold(self, row, contexts[i], i) for i, row in enumerate(rows)] if labelled else []
        features = encode_contexts(
            questions,
            contexts,
            tokenizer,
            limit=self.limit(tokenizer),
            stride=self.stride,
            longest_question=self.max_question_length,
        )
        if labelled:
            label_windows(features, gold)
        return features

    def references(self, rows: Sequence[Row]) -> list[list[str]]:
        gold = [gold_answers(self, row.get(self.answers), i) for i, row in enumerate(rows)]
        return [list(dict.fromkeys(text for text, _ in found)) for found in gold]

    # ------------------------------------------------------------------ model and answers

    def number_of_labels(self, tokenizer: Any) -> int:
        return self.limit(tokenizer)  # an end of the answer is one of the positions

    def build_head(self, backbone: Any) -> nn.Module:
        how = self.pooling
        if how == "auto":  # the mean would dilute what the first token of an encoder is there for
            how = resolve_pooling(how, True) if is_causal(backbone) else "first"
        return SpanReader(width_of(backbone), how if self.separate_null else None, self.dropout)

    def soft_outputs(self) -> SoftReader:
        return _ends

    def plain_head(self, head: nn.Module) -> PlainHead:
        """Of a head whose weights for "no answer" are those of all tokens.

        Where there always is an answer, weights of their own are learned too: of windows that do not hold it.
        """
        if self.separate_null:
            raise self.not_plain(
                'the first token\'s logits, "no answer" or "not in this window", are read by weights of their own, '
                "which transformers' classes do not have; a task made with separate_null=False can be exported"
            )
        reader: Any = head
        return PlainHead(
            model="AutoModelForQuestionAnswering",
            reads="tokens",
            weight=reader.spans.weight,
            bias=reader.spans.bias,
        )

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        windows: list[list[Window]] = [[] for _ in rows]
        for values, feature in zip(logits, features, strict=True):
            windows[feature["row"]].append(Window(values, feature["first"], feature["offsets"]))
        return [self._best(windows[i], self.read_text(row, self.context, i)) for i, row in enumerate(rows)]

    def _best(self, windows: Sequence[Window], context: str) -> dict[str, Any]:
        ranked = rank_spans(windows, context, self.max_answer_length, self.n_best)
        nothing = self.allow_no_answer is not False
        if not len(ranked.scores):
            return _prediction("", 0, 0, float(nothing), NOTHING_TO_READ)
        margin = ranked.null - float(ranked.scores[0])
        shares = softmax(np.append(ranked.scores, ranked.null) if nothing else ranked.scores)
        found = [
            _prediction(context[start:end], start, end, share, margin)
            for (start, end), share in zip(ranked.characters.tolist(), shares.tolist(), strict=False)
        ]
        if nothing:  # first where the threshold says so, and else among the others by its probability
            none = _prediction("", 0, 0, float(shares[-1]), margin)
            ahead = sum(other["score"] > none["score"] for other in found)
            found.insert(0 if margin > self.null_threshold else max(1, ahead), none)
        return found[0] if self.top_k == 1 else found[0] | {"others": found[1 : self.top_k]}

    def tune(self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]) -> Self:
        """The null threshold of the best F1 on these rows; as it is where there always is an answer."""
        from ..scoring.squad import answer_f1

        if self.allow_no_answer is False:
            return self
        answers = replace(self, null_threshold=2 * NOTHING_TO_READ, top_k=1).decode(logits, features, rows)
        gold = self.references(rows)
        found = [pair for pair in zip(answers, gold, strict=True) if pair[0]["null_score"] < NOTHING_TO_READ]
        gains = [answer_f1(a["answer"], texts) - answer_f1("", texts) for a, texts in found]
        best = best_threshold(np.array([a["null_score"] for a, _ in found]), np.array(gains))
        return self if best is None else replace(self, null_threshold=best)

    def answer(self, prediction: Any, row: Row) -> dict[str, Any] | list[dict[str, Any]]:
        found = [{key: one[key] for key in _ANSWER} for one in (prediction, *prediction.get("others", ()))]
        return found[0] if self.top_k == 1 else found

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring import squad_scores

        return squad_scores([p["answer"] for p in predictions], list(references))

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        counts = Counter(text for texts in references for text in (texts or [""]))
        text, count = counts.most_common(1)[0]
        return [_prediction(text, 0, 0, count / len(references), 0.0)] * len(rows)


def _prediction(answer: str, start: int, end: int, score: float, null_score: float) -> dict[str, Any]:
    return {"answer": answer, "score": score, "start": start, "end": end, "null_score": null_score}


def _ends(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> list[SoftOutputs]:
    """Begin and end of each row, each one of its positions."""
    scores = logits.float().masked_fill(~mask.bool()[..., None], torch.finfo(torch.float32).min)
    return [OneLabel(scores.transpose(1, 2).flatten(0, 1))]


class SpanReader(nn.Module):
    """Begin and end logits of every position; in the first real one, no answer's, out of a pooled vector.

    `pooling=None`: no answer's are the first real position's own.
    """

    def __init__(self, width: int, pooling: str | None, dropout: float):
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.spans = nn.Linear(width, 2)
        self.null = None if pooling is None else nn.Linear(width, 2)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, seq, width]`, `mask [batch, seq]`, `labels [batch, 2]` -> `logits [batch, seq, 2]`.

        Labels count from the first real position, on whichever side the padding is.
        """
        hidden = hidden.to(self.spans.weight.dtype)
        begin = mask.bool().int().argmax(1, keepdim=True)
        if self.null is None or self.pooling is None:
            logits = self.spans(self.dropout(hidden))
        else:
            null = self.null(self.dropout(pool(hidden, mask, self.pooling)))
            at_begin = torch.arange(mask.shape[1], device=mask.device) == begin
            logits = torch.where(at_begin[..., None], null[:, None], self.spans(self.dropout(hidden)))
        if labels is None:
            return TaskOutput(None, logits)
        scores = logits.float().masked_fill(~mask.bool()[..., None], torch.finfo(torch.float32).min)
        # Both ends at once: [batch, seq, 2] against [batch, 2], the mean over rows and ends.
        return TaskOutput(F.cross_entropy(scores, labels + begin), logits)
