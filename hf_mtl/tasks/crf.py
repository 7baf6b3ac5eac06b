"""A linear-chain conditional random field: whole label sequences are scored, not each label by itself."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["LinearChainCRF"]

# The log score of what cannot be. Finite, so that no difference of two of them is NaN; far below all that a head
# gives, so that its exponential is exactly zero.
FORBIDDEN = -1e9
# Ways that are laid out at a time on a processor, so many as its cache holds; a graphics card is given more.
_CELLS = 1 << 17


class LinearChainCRF(nn.Module):
    """Linear-chain CRF (Lafferty, McCallum and Pereira, 2001) in a number of steps that grows as log(words).

    A sequence's score is the sum of its emissions and of its transitions, that from the beginning to the first
    label among them; there is none to an end. A word is a matrix of the scores of all moves from the label before
    to its own, and words are joined by associative products of such matrices, (logsumexp, +) or (max, +), in a
    tree (Särkkä and García-Fernández, 2021, arXiv:2102.05743). What lies left and right of a word comes down the
    same tree as vectors. Words outside the mask are identity matrices: they may stand anywhere.

    Args:
        labels: how many.
        allowed: `[labels + 1, labels]` of bool: may the column follow the row; the last row is the beginning, as
            `legal_moves` has it. None: all may.

    Raises:
        ValueError: `allowed` is of another shape, or some sequence that is allowed cannot go on.
    """

    def __init__(self, labels: int, allowed: Any = None):
        super().__init__()
        # In an Embedding, and not a bare parameter, which nobody would fill where a checkpoint lacks this head.
        self.transitions = nn.Embedding(labels + 1, labels)
        nn.init.zeros_(self.transitions.weight)
        # No buffer: one that is not saved is lost where a model is built without memory and filled from a file.
        self.allowed = _checked(allowed, labels)

    def nll(self, emissions: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the gold sequences, `[]` in float32: the mean over all labelled words.

        A gold move that is not allowed (of a window that begins inside a span, or a slip in the data) is allowed
        at its place, so that the rest of its sequence can be learnt from.

        Args:
            emissions: `[batch, words, labels]`.
            labels: `[batch, words]`; words of -100 are left out, as are those outside the mask.
            mask: `[batch, words]`, 1 for real words.
        """
        real = mask.bool() & (labels >= 0)
        gold = labels.clamp(min=0)
        before = _labels_before(gold, real, emissions.shape[-1])
        moves, score = self._moves(emissions, real, (before, gold))
        total = _LogPartition.apply(moves) - score.masked_fill(~real, 0).sum(1)
        return total.sum().float() / real.sum().clamp(min=1)

    @torch.no_grad()
    def marginals(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`[batch, words, labels]` in float32: the probability of each label of each word; 0 outside the mask."""
        return self._through(emissions, mask.bool(), _Sums, FORBIDDEN).exp()

    @torch.no_grad()
    def max_marginals(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """How far each label of each word is from the best sequence, 0 or less; 0 outside the mask.

        The score of the best sequence through it minus that of the best of all: the argmax of each word is the
        best sequence (Viterbi's). Of sequences of the same score one is the best at all of its words.

        Returns:
            `[batch, words, labels]` in float32.
        """
        precise = emissions.to(_precise(emissions))
        return self._through(precise + _tie_breaks(emissions), mask.bool(), _Maxima, 0.0)

    def _through(self, emissions: torch.Tensor, real: torch.Tensor, semiring: Any, outside: float) -> torch.Tensor:
        """The sum of all sequences through each label of each word, by that of all."""
        moves, _ = self._moves(emissions, real)
        leaves, left, right, total = _around(moves, semiring)
        found = semiring.forth(left, leaves) + right - total[:, None, None]
        return found[..., :-1].masked_fill(~real[..., None], outside).float()

    def _moves(
        self, emissions: torch.Tensor, real: torch.Tensor, gold: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[batch, words, labels + 1, labels + 1]`: the scores of all moves, and `[batch, words]` of the gold ones.

        `gold`: the labels before, and the labels. No move leads to the beginning.
        """
        precise = _precise(emissions)
        emissions, transitions = emissions.to(precise), self.transitions.weight.to(precise)
        allowed = torch.as_tensor(self.allowed, device=emissions.device)
        table = F.pad(transitions.masked_fill(~allowed, FORBIDDEN), (0, 1), value=FORBIDDEN)
        moves = table + F.pad(emissions, (0, 1))[..., None, :]
        score = moves.new_zeros(real.shape)
        if gold is not None:
            before, after = gold
            score = transitions[before, after] + emissions.gather(2, after[..., None]).squeeze(2)
            cells = (before * table.shape[0] + after)[..., None]
            moves = moves.flatten(2).scatter(2, cells, score[..., None]).view_as(moves)
        return torch.where(real[..., None, None], moves, _identity(table)), score


class _Matrices(NamedTuple):
    """`values [batch, some, states, states]`, and by which logarithms their rows are scaled, `scales [..., states]`."""

    values: torch.Tensor
    scales: torch.Tensor

    def at(self, places: slice) -> "_Matrices":
        return _Matrices(self.values[:, places], self.scales[:, places])


class _Sums:
    """(logsumexp, +), on the exponentials themselves: matrix products, whose rows are scaled to a largest of 1."""

    @staticmethod
    def leaves(moves: torch.Tensor) -> _Matrices:
        scales = moves.amax(-1)
        return _Matrices((moves - scales[..., None]).exp_(), scales)

    @staticmethod
    def join(first: _Matrices, second: _Matrices) -> _Matrices:
        weights, top = _weights(second.scales)
        values = (first.values * weights[..., None, :]) @ second.values
        largest = values.amax(-1).clamp(min=torch.finfo(values.dtype).tiny)
        return _Matrices(values.div_(largest[..., None]), first.scales + top + largest.log())

    @staticmethod
    def forth(left: torch.Tensor, over: _Matrices) -> torch.Tensor:
        weights, top = _weights(left + over.scales)
        return _log((weights[..., None, :] @ over.values).squeeze(-2), top)

    @staticmethod
    def back(over: _Matrices, right: torch.Tensor) -> torch.Tensor:
        weights, top = _weights(right)
        return _log((over.values @ weights[..., None]).squeeze(-1), top) + over.scales

    @staticmethod
    def total(whole: _Matrices) -> torch.Tensor:
        """From the beginning, the last state, to any."""
        return whole.scales[..., -1] + whole.values[..., -1, :].sum(-1).log()


class _Maxima:
    """(max, +); all ways over all states are laid out, some of the matrices at a time."""

    @staticmethod
    def leaves(moves: torch.Tensor) -> _Matrices:
        return _Matrices(moves, moves[..., 0])  # nothing is scaled

    @staticmethod
    def join(first: _Matrices, second: _Matrices) -> _Matrices:
        states, on_cpu = first.values.shape[-1], first.values.device.type == "cpu"
        before, after = first.values.flatten(0, 1), second.values.flatten(0, 1)
        some = min(len(before), max(1, (_CELLS if on_cpu else _CELLS << 8) // states**3))
        ways, best = before.new_empty(some, states, states, states), torch.empty_like(before)
        for a, b, into in zip(before.split(some), after.split(some), best.split(some), strict=True):
            laid = torch.add(a[..., None], b[:, None], out=ways[: len(a)])
            torch.amax(laid, -2, out=into)
        return _Matrices(best.view_as(first.values), first.scales)

    @staticmethod
    def forth(left: torch.Tensor, over: _Matrices) -> torch.Tensor:
        return (left[..., None] + over.values).amax(-2)

    @staticmethod
    def back(over: _Matrices, right: torch.Tensor) -> torch.Tensor:
        return (over.values + right[..., None, :]).amax(-1)

    @staticmethod
    def total(whole: _Matrices) -> torch.Tensor:
        return whole.values[..., -1, :].amax(-1)


class _LogPartition(torch.autograd.Function):
    """`moves [batch, words, states, states]` -> the log of the sum over all sequences, `[batch]`.

    Its gradient is the probability of each move, had from what lies left and right of each word: nothing of the
    tree is kept, and no logarithm is differentiated where it may be that of zero.
    """

    @staticmethod
    def forward(ctx: Any, moves: torch.Tensor) -> torch.Tensor:
        leaves, left, right, total = _around(moves, _Sums)
        ctx.save_for_backward(*leaves, left, right)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        values, scales, left, right = ctx.saved_tensors
        before, after = _weights(left + scales)[0], _weights(right)[0]
        whole = (before * (values @ after[..., None]).squeeze(-1)).sum(-1, keepdim=True)
        before = before / whole.clamp(min=torch.finfo(whole.dtype).tiny) * grad[:, None, None]
        return (values * before[..., None]).mul_(after[..., None, :])


def _around(moves: torch.Tensor, semiring: Any) -> tuple[_Matrices, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each word's matrix, what lies around it: `left` and `right [batch, words, states]`, and the `total [batch]`."""
    batch, words, states, _ = moves.shape
    left = moves.new_full((batch, 1, states), FORBIDDEN)
    left[..., -1] = 0.0
    right = moves.new_zeros(batch, 1, states)
    leaves = semiring.leaves(moves)
    if words == 0:
        return leaves, left[:, :0], right[:, :0], moves.new_zeros(batch)
    odd = semiring.leaves(_identity(moves[0, 0]).expand(batch, 1, states, states))
    levels = [leaves]
    while levels[-1].values.shape[1] > 1:
        if levels[-1].values.shape[1] % 2:
            levels[-1] = _Matrices(*(torch.cat(both, 1) for both in zip(levels[-1], odd, strict=True)))
        levels.append(semiring.join(levels[-1].at(slice(0, None, 2)), levels[-1].at(slice(1, None, 2))))
    for level in reversed(levels[:-1]):
        first, second = level.at(slice(0, None, 2)), level.at(slice(1, None, 2))
        pairs = first.values.shape[1]
        left, right = left[:, :pairs], right[:, :pairs]  # without what evened a level out
        left = torch.stack([left, semiring.forth(left, first)], 2).flatten(1, 2)
        right = torch.stack([semiring.back(second, right), right], 2).flatten(1, 2)
    return leaves, left[:, :words], right[:, :words], semiring.total(levels[-1].at(slice(0, 1))).squeeze(1)


def _weights(logs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponentials of which the largest is 1, and its logarithm."""
    top = logs.amax(-1, keepdim=True)
    return (logs - top).exp(), top


def _log(sums: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return torch.where(sums > 0, sums.log() + scales, FORBIDDEN)


def _identity(like: torch.Tensor) -> torch.Tensor:
    """The matrix that changes none it is joined to, in the shape and dtype of another."""
    diagonal = torch.eye(like.shape[-1], dtype=torch.bool, device=like.device)
    return torch.zeros_like(like).masked_fill(~diagonal, FORBIDDEN)


def _labels_before(gold: torch.Tensor, real: torch.Tensor, beginning: int) -> torch.Tensor:
    """`[batch, words]`: the label of the last real word before each, `beginning` where there is none."""
    places = torch.arange(gold.shape[1], device=gold.device).expand_as(gold)
    upto = torch.where(real, places, -1).cummax(1).values if gold.shape[1] else places
    last = F.pad(upto, (1, 0), value=-1)[:, :-1]
    return torch.where(last < 0, beginning, gold.gather(1, last.clamp(min=0)))


def _precise(tensor: torch.Tensor) -> torch.dtype:
    # In 64 bits sums of float32 scores are exact but for the last bits, whichever way the tree joins them, and the
    # exponentials of scores hundreds apart do not vanish. Apple's GPUs have no 64 bits.
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _tie_breaks(emissions: torch.Tensor) -> torch.Tensor:
    """`[words, labels]` of below 1e-9: of sequences of equal score each label would else have a part of another."""
    number = torch.arange(1, emissions[0].numel() + 1, device=emissions.device, dtype=_precise(emissions))
    return (number.square() * 0.6180339887498949).frac().mul(1e-9).view(emissions.shape[1:])


def _checked(allowed: Any, labels: int) -> np.ndarray:
    moves = np.ones((labels + 1, labels), dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool)
    if moves.shape != (labels + 1, labels):
        raise ValueError(f"allowed must be of shape [labels + 1, labels] = {(labels + 1, labels)}, got {moves.shape}.")
    reached = np.zeros(labels, dtype=bool)
    found = moves[-1]
    while (found & ~reached).any():
        reached |= found
        found = moves[:-1][reached].any(0)
    stuck = [
        *(f"label {k}" for k in np.flatnonzero(reached & ~moves[:-1].any(1))),
        *([] if moves[-1].any() else ["the beginning"]),
    ]
    if stuck:
        raise ValueError(
            f"allowed has no move from {stuck[0]} of {labels} labels: every sequence must be able to go on."
        )
    return moves
