"""A vector for a text, such that texts that belong together lie near each other."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..backbone import is_causal, width_of
from .base import Features, Row, RowError, Task, TaskOutput
from .finite_numbers import number_fault
from .pooling import POOLINGS, pool, resolve_pooling
from .registry import register_task
from .texts import tokenize_texts

__all__ = ["SentenceEmbedding"]


@register_task("sentence-embedding")
@dataclass(frozen=True, kw_only=True)
class SentenceEmbedding(Task):
    """The pooled vector of a text, trained on pairs that belong together, or on triplets.

    Columns: `text` and `positive` (a text that belongs to it), `negative` (one that does not, where there is one).
    The loss is the cross entropy of finding a text's positive among all positives and negatives of the batch, by
    cosine (van den Oord et al. 2018, arXiv:1807.03748; Henderson et al. 2017, arXiv:1705.00652): the larger the batch,
    the harder. An equal text elsewhere in the batch is no negative.
    Answer: `{"embedding": [...]}`, of length 1. Scores: `recall_at_1`, `recall_at_10` and `mrr` of finding each text's
    positive among all positives of the split; where the split has numbers of `similarity`, their `spearman` with the
    cosines of both texts.

    Args:
        negative: the column of a text that does not belong; None: only the batch's other texts are negatives.
        similarity: the column of a number that says how alike the first two texts are, of data to be scored by
            (STS-B's); nothing is learned of it.
        scale: what the cosines are multiplied by in the loss; 20 is sentence-transformers' default.
        dimensions: lengths of the leading parts of the vector that are trained to do as well as the whole
            (Matryoshka, Kusupati et al. 2022, arXiv:2205.13147), the whole's too; answers have the first.
            None: the whole alone.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
        mini_batch_size: in training, rows whose activations are in memory at a time; the others' are computed a second
            time when they are needed (Gao et al. 2021, arXiv:2101.06983). The loss is of the whole batch all the same.
            None: the whole batch's are.
    """

    text: str = "text"
    positive: str = "positive"
    negative: str | None = None
    similarity: str | None = None
    scale: float = 20.0
    dimensions: tuple[int, ...] | None = None
    pooling: str = "auto"
    mini_batch_size: int | None = None

    main_metric = "recall_at_1"
    grouped = True
    compares_rows = True
    optional_columns = frozenset({"negative", "similarity"})
    of_answering = frozenset({"similarity"})
    not_in_features = Task.not_in_features | {"pooling", "scale", "dimensions", "mini_batch_size", "similarity"}
    not_encoded = Task.not_encoded | not_in_features | {"positive", "negative"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("pooling", self.pooling, self.pooling in POOLINGS, f"one of {POOLINGS}")
        self._check_number("scale", lambda v: math.isfinite(v) and v > 0, "a number above 0")
        if self.mini_batch_size is not None:
            self._check_number("mini_batch_size", lambda v: v >= 1, "a whole number of 1 or more", whole=True)
        if self.dimensions is not None:
            fit = bool(self.dimensions) and all(type(size) is int and size > 0 for size in self.dimensions)
            self._check("dimensions", self.dimensions, fit, "a list of whole numbers of 1 or more")

    @property
    def examples_in_memory(self) -> int | None:
        return self.mini_batch_size

    def inputs(self) -> dict[str, str]:
        return {"text": self.text}

    def columns(self) -> tuple[str, ...]:
        return (self.text, self.positive, *([self.negative] if self.negative else []))

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        labelled = self.positive in rows[0]
        columns = [c for c in self.columns() if c in rows[0]] if labelled else [self.text]
        texts = [self.read_text(row, column, i) for i, row in enumerate(rows) for column in columns]
        encoded = tokenize_texts(tokenizer, texts, None, self.limit(tokenizer))
        features: list[Features] = []
        for i, row in enumerate(rows):
            own = slice(i * len(columns), (i + 1) * len(columns))
            features.append({key: encoded[key][own] for key in ("input_ids", "token_type_ids") if key in encoded})
            features[-1]["row"] = i
            if labelled:  # equal texts have equal numbers
                features[-1]["labels"] = [_number(row[column]) for column in columns[1:]]
        return features

    def references(self, rows: Sequence[Row]) -> list[Any]:
        """The positives, or `{"positive", "similarity"}` where the rows say how alike the texts are."""
        if self.similarity is None or self.similarity not in rows[0]:
            return [row[self.positive] for row in rows]
        for i, row in enumerate(rows):
            if fault := number_fault(self.name, self.similarity, row[self.similarity]):
                raise RowError(fault, i)
        return [{"positive": row[self.positive], "similarity": float(row[self.similarity])} for row in rows]

    def build_head(self, backbone: Any) -> nn.Module:
        width = width_of(backbone)
        for size in self.dimensions or ():
            self._check("dimensions", size, size <= width, f"at most the backbone's width, {width}")
        how = resolve_pooling(self.pooling, is_causal(backbone))
        return ContrastiveEmbedder(how, self.scale, self.dimensions or (width,))

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        size = None if self.dimensions is None else self.dimensions[0]
        found = []
        for vectors in logits:
            cut = vectors[:, :size]
            cut = cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12)
            found.append({"embedding": cut[0].tolist()} | ({"positive": cut[1].tolist()} if len(cut) > 1 else {}))
        return found

    def answer(self, prediction: Any, row: Row) -> dict[str, Any]:
        return {"embedding": prediction["embedding"]}

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.correlation import correlation_scores
        from ..scoring.retrieval import retrieval_scores

        texts, positives = (np.array([p[key] for p in predictions]) for key in ("embedding", "positive"))
        if isinstance(references[0], str):
            return retrieval_scores(texts, positives, references)
        numbers = [gold["similarity"] for gold in references]
        cosines = (texts * positives).sum(-1).tolist()
        found = retrieval_scores(texts, positives, [gold["positive"] for gold in references])
        return found | {"spearman": correlation_scores(cosines, numbers)["spearman"]}

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        return [{"embedding": [1.0], "positive": [1.0]}] * len(rows)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=7).digest(), "little")


class ContrastiveEmbedder(nn.Module):
    """Pooled hidden states; the loss finds each row's second text among all second and later texts of the batch."""

    def __init__(self, pooling: str, scale: float, dimensions: Sequence[int]):
        super().__init__()
        self.pooling = pooling
        self.scale = scale
        self.dimensions = tuple(dimensions)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [rows, texts, seq, width]`, `mask [rows, texts, seq]` -> `logits [rows, texts, width]`, the vectors.

        `labels [rows, texts - 1]` number the positive and the negatives: equal numbers are equal texts.
        """
        with _in_full(hidden):
            vectors = pool(hidden.float().flatten(0, 1), mask.flatten(0, 1), self.pooling).unflatten(0, mask.shape[:2])
        return TaskOutput(None if labels is None else self.loss(vectors, labels), vectors)

    def loss(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of what `forward` gives for a whole batch."""
        # Positives first, then the others: row i's positive is candidate i.
        candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)
        numbers = labels.T.flatten()
        same = numbers[None] == labels[:, :1]
        same = same & ~torch.eye(len(labels), len(numbers), dtype=torch.bool, device=same.device)
        target = torch.arange(len(labels), device=vectors.device)
        losses = []
        with _in_full(vectors):
            for size in self.dimensions:
                cosines = F.normalize(vectors[:, 0, :size], dim=-1) @ F.normalize(candidates[:, :size], dim=-1).T
                losses.append(F.cross_entropy((cosines * self.scale).masked_fill(same, -torch.inf), target))
        return torch.stack(losses).mean()


def _in_full(tensor: torch.Tensor) -> Any:
    """Outside any autocast: of near texts the cosines differ by less than 16 bits can say of numbers near 1."""
    return torch.autocast(tensor.device.type, enabled=False)
