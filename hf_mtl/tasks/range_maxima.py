"""The maximum over any range of words, for very many ranges of a batch at once."""

import torch

__all__ = ["RangeMaxima"]


class RangeMaxima:
    """The element-wise maxima of ranges of vectors, two look-ups each (a sparse table).

    Level k holds the maxima over 2^k words from each word on, and any range is covered by two such.

    Args:
        vectors: `[batch, words, width]`.
    """

    def __init__(self, vectors: torch.Tensor):
        levels, step = [vectors], 1
        while step * 2 <= vectors.shape[1]:
            last = levels[-1]
            joined = torch.maximum(last[:, :-step], last[:, step:])
            levels.append(torch.cat([joined, last[:, -step:]], dim=1))  # these go past the end; nobody asks for them
            step *= 2
        self._levels = torch.stack(levels)

    def __call__(self, row: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """The maxima `[ranges, width]` of the words `start` up to `end` of the batch's rows; zeros where none are.

        Args:
            row: `[ranges]`.
            start: `[ranges]` the first word.
            end: `[ranges]` the word after the last.
        """
        length = end - start
        # Half a word more: of a power of two the logarithm may come out a little below.
        level = (length.clamp(min=1) + 0.5).log2().long()
        words = self._levels.shape[2]
        first = self._levels[level, row, start.clamp(max=words - 1)]
        second = self._levels[level, row, (end - (1 << level)).clamp(min=0)]
        return torch.where((length > 0).unsqueeze(-1), torch.maximum(first, second), 0)
