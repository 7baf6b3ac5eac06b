"""Which tokens a masked language model must guess."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.tasks.masking import Masking

MASK, VOCABULARY = 4, 100


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of words of one to three subwords between two special tokens, padded on the right."""
    rows = draw(st.lists(st.lists(st.integers(1, 3), max_size=12), min_size=1, max_size=4))
    length = max(sum(row) for row in rows)
    ids = torch.zeros(len(rows), length + 2, dtype=torch.long)
    places = torch.full((len(rows), length), -1)
    labels = torch.full((len(rows), length, 2), -1)
    for i, row in enumerate(rows):
        words = [number for number, size in enumerate(row) for _ in range(size)]
        tokens = torch.randint(10, VOCABULARY, (len(words),), generator=torch.Generator().manual_seed(i))
        ids[i, 0], ids[i, len(words) + 1] = 1, 2
        ids[i, 1 : len(words) + 1] = tokens
        places[i, : len(words)] = torch.arange(1, len(words) + 1)
        labels[i, : len(words)] = torch.stack([tokens, torch.tensor(words, dtype=torch.long)], dim=1)
    return ids, places, labels


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from([0.15, 0.5, 0.9]))
def test_scoring_asks_every_token_once_and_hides_just_what_it_asks(batch: tuple, probability: float) -> None:
    ids, places, labels = batch
    asked = torch.zeros_like(places)
    for seen, gold in Masking(probability, MASK, VOCABULARY).every(ids, places, labels):
        rows, columns = torch.nonzero(gold != -100, as_tuple=True)
        asked[rows, columns] += 1
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        hidden[rows, places[rows, columns]] = True
        assert (seen[hidden] == MASK).all() and torch.equal(seen[~hidden], ids[~hidden])
        assert torch.equal(gold[gold != -100], labels[..., 0][gold != -100])
    assert torch.equal(asked, (places >= 0).long())


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(0, 1000))
def test_training_hides_whole_words_and_nothing_else(batch: tuple, seed: int) -> None:
    ids, places, labels = batch
    torch.manual_seed(seed)
    seen, gold = Masking(0.15, MASK, VOCABULARY).random(ids, places, labels)
    chosen = gold != -100
    for row in range(len(ids)):
        words = labels[row, :, 1]
        for word in words[words >= 0].unique():
            assert chosen[row][words == word].unique().numel() == 1
        assert not chosen[row][places[row] < 0].any()
        assert chosen[row].any() == (places[row] >= 0).any()
        kept = torch.ones(ids.shape[1], dtype=torch.bool)
        kept[places[row][chosen[row]]] = False
        assert torch.equal(seen[row][kept], ids[row][kept])


def test_of_what_is_chosen_four_fifths_are_masked_a_tenth_replaced_and_a_tenth_left() -> None:
    torch.manual_seed(0)
    length = 4000
    ids = torch.randint(10, 1000, (4, length))
    places = torch.arange(length).expand(4, -1).clone()
    labels = torch.stack([ids, places], dim=-1)
    seen, gold = Masking(0.15, MASK, 100_000).random(ids, places, labels)
    chosen = gold != -100
    assert chosen.float().mean() == pytest.approx(0.15, abs=0.01)
    assert (seen[chosen] == MASK).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (seen[chosen] == ids[chosen]).float().mean() == pytest.approx(0.1, abs=0.015)
