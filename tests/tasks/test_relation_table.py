"""The head of joint extraction: spans as in lists of tags, every pair scored as by hand, the loss written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from entity_rows import LABELS, TYPES, row
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer
from transformers import BertConfig
from transformers.trainer_pt_utils import nested_concat

from hf_mtl.tasks.bio import spans
from hf_mtl.tasks.joint_relation_extraction import JointRelationExtraction
from hf_mtl.tasks.range_maxima import RangeMaxima
from hf_mtl.tasks.relation_table import CANDIDATES, find_spans

TASK = JointRelationExtraction(
    name="j", entities="entities", types=TYPES, labels=LABELS, max_length=128, dropout=0.0, pair_width=12
)
TOKENIZER = make_tokenizer("wordpiece")


def labels_of(*rows):
    return [feature["labels"] for feature in TASK.encode(rows, TOKENIZER)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=4))
def test_spans_are_found_in_tensors_as_in_lists_of_tags(tags):
    names = TASK.bio_tags()
    by_list = [
        (k, start, end - 1, TYPES.index(kind))
        for k, own in enumerate(tags)
        for kind, start, end in spans([names[t] for t in own])
    ]
    assert list(zip(*(part.tolist() for part in find_spans(torch.tensor(tags))), strict=True)) == by_list


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 37))
def test_maxima_of_ranges_are_those_of_a_loop(words):
    vectors = torch.randn(2, words, 3)
    ranges = [(row, start, end) for row in range(2) for start in range(words) for end in range(start, words + 1)]
    row, start, end = torch.tensor(ranges).T
    by_loop = [vectors[r, s:e].amax(0) if e > s else torch.zeros(3) for r, s, e in ranges]
    assert torch.equal(RangeMaxima(vectors)(row, start, end), torch.stack(by_loop))


def head_of():
    torch.manual_seed(0)
    head = TASK.build_head(BertConfig(hidden_size=8)).eval()
    for parameter in head.parameters():  # so that many entities are found
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def by_hand(head, words, one, other):
    """Scores of the relations of two spans (first word, last word, type) of one row, written out."""
    vectors = head.words(words)
    of_span, of_context = vectors[:, :12], vectors[:, 12:]
    left, right = sorted([one, other])
    gap = of_context[left[1] + 1 : right[0]]
    far = min(int(np.log2(len(gap) + 1)), 7) + (8 if one > other else 0)
    parts = [
        head.as_head(of_span[one[0] : one[1] + 1].amax(0)) + head.head_type.weight[one[2]],
        head.as_tail(of_span[other[0] : other[1] + 1].amax(0)) + head.tail_type.weight[other[2]],
        head.between(gap.amax(0) if len(gap) else torch.zeros(12)) + head.distance.weight[far],
    ]
    return head.relation(F.relu(sum(parts)))


def test_the_loss_is_that_of_the_tags_and_of_every_pair_of_gold_entities():
    head, hidden, mask = head_of(), torch.randn(2, 6, 8), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    rows = [
        row(6, [(0, 1, "firm"), (1, 3, "person"), (5, 6, "firm")], [(0, 2, "near"), (0, 2, "x"), (1, 0, "owns")]),
        row(3, [(1, 3, "person")]),
    ]
    labels = TASK.stack_labels(labels_of(*rows), 6)
    ends = [(0, 0, 0), (1, 2, 1), (5, 5, 0)]
    gold = {(0, 2): [1.0, 0, 1], (1, 0): [0, 1.0, 0]}
    losses = [
        F.binary_cross_entropy_with_logits(
            by_hand(head, hidden[0], ends[h], ends[t]), torch.tensor(gold.get((h, t), [0.0] * 3)), reduction="sum"
        )
        for h in range(3)
        for t in range(3)
        if h != t
    ]
    tags = head.tagger(hidden, mask, labels[:, :6, 0]).loss
    found = head(hidden, mask, labels).loss
    assert found.dtype == torch.float32 and found.item() == pytest.approx((tags + sum(losses) / 6).item(), rel=1e-5)


def test_the_logits_are_the_best_relations_of_the_entities_that_the_tags_name():
    head, hidden = head_of(), torch.randn(3, 11, 8)
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[1, 7:] = 0
    logits = head(hidden, mask).logits.detach()
    count = 0
    for k, words in enumerate(mask.sum(1).tolist()):
        tags = [TASK.bio_tags()[t] for t in logits[k, :words, :5].argmax(-1).tolist()]
        ends = [(start, end - 1, TYPES.index(kind)) for kind, start, end in spans(tags)]
        assert (logits[k, words:, 5:].reshape(-1, 3)[:, 0] == -1).all()
        for one in ends:
            wanted = [
                (score, other[1], label)
                for other in ends
                if other != one
                for label, score in enumerate(by_hand(head, hidden[k], one, other).tolist())
            ]
            wanted = sorted(wanted, reverse=True)[:CANDIDATES]
            found = logits[k, one[1], 5:].reshape(-1, 3)[: len(wanted)].tolist()
            assert [(int(tail), int(label)) for tail, label, _ in found] == [(t, n) for _, t, n in wanted]
            assert [score for *_, score in found] == pytest.approx([score for score, *_ in wanted], abs=1e-5)
            count += len(wanted)
    assert count > 20


def test_a_batch_without_entities_has_the_loss_of_its_tags_and_reaches_every_weight():
    head = head_of()
    labels = TASK.stack_labels(labels_of(row(3, []), row(2, [])), 3)
    hidden, mask = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.long)
    loss = head.train()(hidden, mask, labels).loss
    loss.backward()
    assert loss.item() == pytest.approx(head.tagger(hidden, mask, labels[:, :3, 0]).loss.item())
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_trainer_joins_the_logits_of_batches_of_different_width():
    head = head_of()
    parts = [head(torch.randn(2, words, 8), torch.ones(2, words, dtype=torch.long)).logits for words in (20, 3, 9)]
    joined = nested_concat(nested_concat(parts[0], parts[1]), parts[2])
    assert torch.equal(joined[2:4, :3], parts[1]) and torch.equal(joined[4:, :9], parts[2])
