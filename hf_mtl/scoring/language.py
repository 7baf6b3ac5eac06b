"""Scores of language models: perplexity and the share of tokens guessed."""

import math
from collections.abc import Mapping, Sequence

__all__ = ["token_scores"]


def token_scores(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`perplexity` and `token_accuracy` over all tokens of all rows, so that a long text counts for more.

    Args:
        sums: of each row `{"log_likelihood", "hits", "tokens"}`: the sum of its tokens' natural log-probabilities, how
            many were the likeliest of all, and how many there are.

    Raises:
        ValueError: there are no tokens.
    """
    tokens = sum(row["tokens"] for row in sums)
    if not tokens:
        raise ValueError("The texts have no tokens to predict: nothing to score. Are they empty?")
    loss = -sum(row["log_likelihood"] for row in sums) / tokens
    # Past this the exponential is no float any more; no model is that bad but an untrained one in 16 bits.
    return {"perplexity": math.exp(min(loss, 700.0)), "token_accuracy": sum(row["hits"] for row in sums) / tokens}
