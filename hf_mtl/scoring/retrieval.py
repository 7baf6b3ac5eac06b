"""Finding the text that belongs to a text among many, by the cosine of their vectors."""

from collections.abc import Sequence

import numpy as np

__all__ = ["retrieval_scores"]

_CELLS = 1 << 24


def retrieval_scores(queries: np.ndarray, documents: np.ndarray, texts: Sequence[str]) -> dict[str, float]:
    """Recall and mean reciprocal rank of each query's own document among all.

    Documents of equal text count as one; where cosines tie a document has the mean of their ranks' best and worst.

    Args:
        queries: `[rows, width]` of length 1.
        documents: `[rows, width]` of length 1; row i belongs to query i.
        texts: the documents' texts.

    Returns:
        `recall_at_1`, `recall_at_10`, `mrr`, in 0..1.

    Raises:
        ValueError: No rows, or arrays of different length.
    """
    if not len(queries) or not len(queries) == len(documents) == len(texts):
        raise ValueError(
            f"Retrieval needs as many queries as documents and texts, at least one, got {len(queries)}, "
            f"{len(documents)} and {len(texts)}."
        )
    places: dict[str, int] = {}
    number = np.array([places.setdefault(text, len(places)) for text in texts])
    distinct = documents[np.unique(number, return_index=True)[1]]
    ranks = []
    step = max(1, _CELLS // len(distinct))
    for start in range(0, len(queries), step):
        cosines = queries[start : start + step] @ distinct.T
        own = np.take_along_axis(cosines, number[start : start + step, None], 1)
        better, equal = (cosines > own).sum(1), (cosines == own).sum(1)
        ranks.append(better + (equal + 1) / 2)
    rank = np.concatenate(ranks)
    return {
        "recall_at_1": float((rank <= 1).mean()),
        "recall_at_10": float((rank <= 10).mean()),
        "mrr": float((1 / rank).mean()),
    }
