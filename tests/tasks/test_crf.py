"""The CRF against a brute force over all sequences: loss, gradients, probabilities and the best sequence."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.tasks.bio import best_legal, legal_moves
from hf_mtl.tasks.crf import LinearChainCRF

BIO = ("O", "B-x", "I-x")


def made(labels, seed, allowed=None, scale=1.0):
    crf = LinearChainCRF(labels, allowed)
    with torch.no_grad():
        crf.transitions.weight.copy_(scale * torch.randn(labels + 1, labels, generator=seeded(seed)))
    return crf


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def sequences(crf, emissions):
    """All allowed sequences of one row and their scores, by definition, in float64."""
    words, labels = emissions.shape
    found, scores = [], []
    for sequence in itertools.product(range(labels), repeat=words):
        moves = list(zip((labels, *sequence), sequence, strict=False))
        if all(crf.allowed[move] for move in moves):
            found.append(sequence)
            steps = [crf.transitions.weight[move] + emissions[i, move[1]] for i, move in enumerate(moves)]
            scores.append(sum(steps, torch.zeros((), dtype=torch.float64)))
    return found, torch.stack(scores)


@st.composite
def problems(draw, most=4):
    labels, seed = draw(st.integers(1, most)), draw(st.integers(0, 10**6))
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    allowed = torch.rand(labels + 1, labels, generator=seeded(seed)) < draw(st.sampled_from([0.5, 1.1]))
    allowed[:, 0] = True  # every sequence can go on
    crf = made(labels, seed, allowed)
    words = max(lengths) + draw(st.integers(0, 1))
    emissions = draw(st.sampled_from([1.0, 30.0])) * torch.randn(len(lengths), words, labels, generator=seeded(seed))
    return (
        crf,
        emissions.requires_grad_(),
        lengths,
        torch.tensor([[i < n for i in range(words)] for n in lengths]).long(),
    )


@given(problems(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_those_of_the_brute_force(problem, random):
    crf, emissions, lengths, mask = problem
    labels, expected = torch.full(mask.shape, -100), torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths):
        found, scores = sequences(crf, emissions[row, :length])
        chosen = random.randrange(len(found))
        labels[row, :length] = torch.tensor(found[chosen], dtype=torch.long)
        expected = expected + torch.logsumexp(scores, 0) - scores[chosen]
    expected = expected / max(1, sum(lengths))
    loss = crf.nll(emissions, labels, mask)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(
        expected + 0 * emissions.sum() + 0 * crf.transitions.weight.sum(), [emissions, crf.transitions.weight]
    )
    for gradient, other in zip(torch.autograd.grad(loss, [emissions, crf.transitions.weight]), wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_marginals_are_those_of_the_brute_force(problem):
    crf, emissions, lengths, mask = problem
    shares, best = crf.marginals(emissions, mask), crf.max_marginals(emissions, mask)
    assert shares.shape == best.shape == emissions.shape and shares.dtype == best.dtype == torch.float32
    for row, length in enumerate(lengths):
        assert not shares[row, length:].any() and not best[row, length:].any()
        found, scores = sequences(crf, emissions[row, :length].detach())
        for word, label in itertools.product(range(length), range(emissions.shape[-1])):
            here = torch.tensor([sequence[word] == label for sequence in found])
            share = scores.softmax(0)[here].sum().float()
            torch.testing.assert_close(shares[row, word, label], share, rtol=1e-3, atol=1e-5)
            if here.any():
                gap = (scores[here].max() - scores.max()).float()
                torch.testing.assert_close(best[row, word, label], gap, rtol=1e-4, atol=1e-4)
            else:
                assert shares[row, word, label] == 0 and best[row, word, label] < -1e8
        assert tuple(best[row, :length].argmax(-1).tolist()) == found[int(scores.argmax())]


@pytest.mark.parametrize("words", [1, 2, 3, 7, 8, 9, 31, 128])
def test_the_best_sequence_is_that_of_a_plain_viterbi(words):
    labels = ("O", "B-x", "I-x", "B-y", "I-y")
    crf = LinearChainCRF(5, legal_moves(labels))
    emissions = torch.randn(6, words, 5, generator=seeded(words))
    lengths = torch.tensor([words, 1, max(1, words // 2), words, max(1, words - 1), words])
    mask = torch.arange(words) < lengths[:, None]
    found = crf.max_marginals(emissions, mask).argmax(-1)[mask]
    assert found.tolist() == best_legal(emissions.numpy(), lengths.numpy(), labels)[mask.numpy()].tolist()


def test_of_sequences_of_equal_score_one_is_chosen_whole():
    labels = ("B-x", "B-y", "I-y", "I-x")
    allowed = legal_moves(labels)
    best = LinearChainCRF(4, allowed).max_marginals(torch.zeros(1, 40, 4), torch.ones(1, 40))
    chosen = best[0].argmax(-1).tolist()
    assert all(allowed[move] for move in itertools.pairwise([4, *chosen]))


def test_what_is_forbidden_has_no_probability_and_no_gradient_is_nan():
    crf = made(3, 0, legal_moves(BIO))
    emissions = torch.zeros(2, 4, 3)
    emissions[..., 2] = 500.0  # an I-x everywhere, also where none can be
    emissions.requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    shares = crf.marginals(emissions, mask)
    assert shares[:, 0, 2].tolist() == [0, 0]
    assert shares[0].argmax(-1).tolist() == [1, 2, 2, 2]
    loss = crf.nll(emissions, torch.tensor([[0, 0, 0, 0], [1, -100, -100, -100]]), mask)
    gradients = torch.autograd.grad(loss, [emissions, crf.transitions.weight])
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)
    assert gradients[0][:, 0, 2].tolist() == [0, 0] and gradients[1][3, 2] == 0


def test_a_gold_move_that_is_forbidden_is_allowed_at_its_place():
    crf = made(3, 1, legal_moves(BIO))
    emissions, mask = torch.randn(1, 3, 3, generator=seeded(1)), torch.ones(1, 3)
    free = np.array(crf.allowed)
    free[3, 2] = True  # a window that begins inside a span
    other = made(3, 1, free)
    gold = torch.tensor([[2, 2, 0]])
    torch.testing.assert_close(crf.nll(emissions, gold, mask), other.nll(emissions, gold, mask))
    assert crf.marginals(emissions, mask)[0, 0, 2] == 0


def test_words_without_a_label_are_left_out_wherever_they_stand():
    crf = made(4, 2)
    emissions = torch.randn(1, 5, 4, generator=seeded(2))
    some = [1, 2, 4]
    whole = crf.nll(emissions, torch.tensor([[-100, 3, 0, -100, 1]]), torch.ones(1, 5))
    torch.testing.assert_close(whole, crf.nll(emissions[:, some], torch.tensor([[3, 0, 1]]), torch.ones(1, 3)))


@pytest.mark.parametrize("words", [0, 3])
def test_a_batch_without_labels_has_a_loss_of_zero_with_a_gradient(words):
    crf = made(3, 0)
    emissions = torch.randn(2, words, 3, requires_grad=True)
    loss = crf.nll(emissions, torch.full((2, words), -100), torch.ones(2, words))
    loss.backward()
    assert loss == 0 and not emissions.grad.any() and not crf.transitions.weight.grad.any()
    assert crf.marginals(emissions, torch.zeros(2, words)).shape == (2, words, 3)


def test_padding_changes_nothing():
    crf = made(4, 3)
    emissions, labels = torch.randn(1, 5, 4, generator=seeded(3)), torch.tensor([[0, 3, 1, 2, 2]])
    wide = torch.cat([emissions, torch.full((1, 6, 4), 99.0)], 1)
    mask = torch.tensor([[1] * 5 + [0] * 6])
    gold = torch.cat([labels, torch.full((1, 6), -100)], 1)
    assert crf.nll(wide, gold, mask) == crf.nll(emissions, labels, torch.ones(1, 5))
    for method in (crf.marginals, crf.max_marginals):
        torch.testing.assert_close(method(wide, mask)[:, :5], method(emissions, torch.ones(1, 5)), rtol=0, atol=1e-7)


def test_it_learns_which_labels_follow_which():
    crf, labels = LinearChainCRF(3), torch.tensor([[0, 1, 2, 0, 1, 2, 0]] * 2)
    emissions, mask = torch.zeros(2, 7, 3), torch.ones(2, 7)
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        crf.nll(emissions, labels, mask).backward()
        optimizer.step()
    assert crf.max_marginals(emissions, mask).argmax(-1).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (np.ones((2, 2)), r"must be of shape \[labels \+ 1, labels\] = \(3, 2\), got \(2, 2\)"),
        ([[0, 0], [1, 1], [1, 1]], "no move from label 0 of 2"),
        ([[1, 1], [1, 1], [0, 0]], "no move from the beginning"),
    ],
)
def test_moves_that_lead_nowhere_are_refused(allowed, message):
    with pytest.raises(ValueError, match=message):
        LinearChainCRF(2, allowed)
