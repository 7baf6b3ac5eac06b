"""Which tokens a masked language model must guess: anew at every reading in training, all of them once in scoring."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

__all__ = ["Masking"]


@dataclass(frozen=True)
class Masking:
    """BERT's masking (Devlin et al. 2019): of the words chosen 80% are masked, 10% replaced, 10% left.

    Args:
        probability: share of the words that are to be guessed.
        mask_token: id of the mask token.
        vocabulary: number of tokens, of which replacements are drawn.
    """

    probability: float
    mask_token: int
    vocabulary: int

    def random(
        self, ids: torch.Tensor, places: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One reading for training.

        Args:
            ids: `[batch, seq]`.
            places: `[batch, places]` which of them may be masked, -1 where there are no more.
            labels: `[batch, places, 2]` the token at each place, and the number of its word: a word is chosen whole.

        Returns:
            `ids` with what is hidden, and `[batch, places]` the tokens to guess, -100 elsewhere.
        """
        gold, words = labels.unbind(-1)
        if not gold.numel():
            return ids, gold
        real = places >= 0
        draws = torch.rand(words.shape, device=ids.device)
        of_word = draws.gather(1, words.clamp(min=0))
        chosen = (of_word < self.probability) & real
        # A row in which nothing was chosen would teach nothing: its word of the lowest draw is.
        lowest = of_word.masked_fill(~real, 2.0).amin(1, keepdim=True)
        chosen |= (of_word == lowest) & real
        how = torch.rand(words.shape, device=ids.device)
        drawn = torch.randint(self.vocabulary, words.shape, device=ids.device)
        hidden = torch.where(how < 0.8, self.mask_token, torch.where(how < 0.9, drawn, gold))
        return _put(ids, places, torch.where(chosen, hidden, gold)), gold.masked_fill(~chosen, -100)

    def every(
        self, ids: torch.Tensor, places: torch.Tensor, labels: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Readings for scoring, in which each word is masked once: every k-th word in each, `k = 1 / probability`."""
        gold, words = labels.unbind(-1)
        real = places >= 0
        step = max(1, round(1 / self.probability))
        for first in range(min(step, int(words.max()) + 1) if words.numel() else 1):
            chosen = (words % step == first) & real
            yield _put(ids, places, gold.masked_fill(chosen, self.mask_token)), gold.masked_fill(~chosen, -100)


def _put(ids: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The ids with other values at the places; -1 is no place."""
    width = ids.shape[1]
    wider = torch.cat([ids, ids.new_zeros(len(ids), 1)], dim=1)
    return wider.scatter(1, places.masked_fill(places < 0, width), values)[:, :width]
