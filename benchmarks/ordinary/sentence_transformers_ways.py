"""Vectors of texts by sentence-transformers: pairs that belong together, and pairs with a number."""

import logging
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback

from .budget import Budget, Rows, arguments

__all__ = ["BiEncoderRegression", "ContrastivePairs"]


class _Embedder:
    """A SentenceTransformer and its trainer."""

    def __init__(self, budget: Budget):
        from sentence_transformers import SentenceTransformer

        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        self.budget = budget
        self.model: Any = SentenceTransformer(budget.backbone, device="cpu")
        self.model.max_seq_length = budget.max_length

    def train(self, dataset: Dataset, loss: Any, **more: Any) -> None:
        """Trains by sentence-transformers' own trainer."""
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

        args = arguments(self.budget, SentenceTransformerTrainingArguments, **more)
        trainer: Any = SentenceTransformerTrainer(model=self.model, args=args, train_dataset=dataset, loss=loss)
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    def vectors(self, texts: list[str]) -> np.ndarray:
        """`[texts, width]` of length 1."""
        return self.model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)


class ContrastivePairs(_Embedder):
    """MultipleNegativesRankingLoss over batches without repeated texts, as its documentation has it."""

    def fit(self, rows: Rows) -> None:
        """Trains on `text` and `positive`."""
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from sentence_transformers.sentence_transformer.training_args import BatchSamplers

        pairs = Dataset.from_list([{"anchor": row["text"], "positive": row["positive"]} for row in rows])
        self.train(pairs, MultipleNegativesRankingLoss(self.model), batch_sampler=BatchSamplers.NO_DUPLICATES)

    def answer(self, rows: Rows) -> list[Any]:
        """The vectors of both texts of each row."""
        found = self.vectors([row[column] for column in ("text", "positive") for row in rows])
        return list(zip(found[: len(rows)].tolist(), found[len(rows) :].tolist(), strict=True))


class BiEncoderRegression(_Embedder):
    """CosineSimilarityLoss: the cosine of the vectors is the number, from 0 to `high`.

    Args:
        budget: what may be spent.
        high: the greatest number.
    """

    def __init__(self, budget: Budget, high: float):
        super().__init__(budget)
        self.high = high

    def fit(self, rows: Rows) -> None:
        """Trains on `text`, `text_pair` and `score`."""
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

        pairs = [{"a": row["text"], "b": row["text_pair"], "score": row["score"] / self.high} for row in rows]
        self.train(Dataset.from_list(pairs), CosineSimilarityLoss(self.model))

    def answer(self, rows: Rows) -> list[float]:
        """A number for each row."""
        found = self.vectors([row[column] for column in ("text", "text_pair") for row in rows])
        return (self.high * (found[: len(rows)] * found[len(rows) :]).sum(-1)).tolist()
