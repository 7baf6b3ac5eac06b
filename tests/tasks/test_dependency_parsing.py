"""Dependency parsing: always one tree, the paper's loss, heads that are checked, and the official scores."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from overfit import overfit
from tiny import make_tokenizer, read_jsonl
from transformers.trainer_pt_utils import nested_concat

from hf_mtl.scoring.parsing import parsing_scores
from hf_mtl.tasks import RowError
from hf_mtl.tasks.biaffine import CANDIDATES, BiaffineParser
from hf_mtl.tasks.dependency_parsing import DependencyParsing
from hf_mtl.tasks.parses import parse
from hf_mtl.tasks.spanning_tree import are_trees, best_tree

ROWS = [
    {key: row[key] for key in ("tokens", "heads", "deprels")}
    for row in read_jsonl(Path(__file__).parent.parent / "data" / "trees.jsonl")
]
TOKENIZERS = {family: make_tokenizer(family) for family in ("wordpiece", "bytes", "unigram", "bytes-bare")}
TASK = DependencyParsing(name="p", labels=("dep", "nsubj", "root"), max_length=128)
UNKNOWN = 0


def row(heads, deprels=None, tokens=None):
    words = tokens or [f"w{i}" for i in range(len(heads))]
    return {"tokens": words, "heads": heads, "deprels": deprels or ["dep"] * len(heads)}


def labels_of(*rows, task=TASK):
    return [feature["labels"] for feature in task.encode(rows, TOKENIZERS["wordpiece"])]


def head_of(labels=3, width=8, seed=0, **fields):
    torch.manual_seed(seed)
    return BiaffineParser(width, labels, **{"arc_width": 6, "label_width": 5, "dropout": 0.0} | fields).eval()


def by_hand(head, words):
    """Arc scores `[words, 1 + words]` and label scores `[words, 1 + words, labels]` of one sentence, in NumPy."""
    arc_width, width = head.widths
    vectors = torch.cat([head.root.weight, words])
    as_head, as_dependent = (
        F.leaky_relu(layer(v), 0.1).detach().double().numpy()
        for layer, v in ((head.as_head, vectors), (head.as_dependent, words))
    )
    weights = {name: value.detach().double().numpy() for name, value in head.named_parameters()}
    arcs = np.einsum("di,ji,hj->dh", as_dependent[:, :arc_width], weights["arc.weight"], as_head[:, :arc_width])
    arcs += weights["arc.bias"] @ as_head[:, :arc_width].T
    arcs[np.arange(len(words)), np.arange(len(words)) + 1] = -np.inf
    bilinear = weights["label.weight"].reshape(-1, width, width)
    heads, dependents = as_head[:, arc_width:], as_dependent[:, arc_width:]
    labels = np.einsum("di,lji,hj->dhl", dependents, bilinear, heads)
    labels += heads @ weights["label.bias"].reshape(-1, width).T
    labels += (dependents @ weights["label_of_dependent.weight"].T + weights["label_of_dependent.bias"])[:, None]
    return arcs, labels


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def test_the_loss_is_the_cross_entropy_of_heads_and_of_relations_to_gold_heads():
    head, sizes = head_of(), [3, 5]
    for bias in (head.arc.bias, head.label.bias):
        torch.nn.init.normal_(bias)
    hidden, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
    gold = torch.full((2, 5, 2), -100)
    gold[0, :3] = torch.tensor([[2, 1], [0, 2], [2, 0]])
    gold[1, [0, 2, 4]] = torch.tensor([[0, 2], [5, 1], [1, 1]])
    heads, relations = [], []
    for k, size in enumerate(sizes):
        arcs, labels = map(log_softmax, by_hand(head, hidden[k, :size]))
        for word, (to, relation) in enumerate(gold[k, :size].tolist()):
            if to != -100:
                heads.append(-arcs[word, to])
                relations.append(-labels[word, to, relation])
    loss = head(hidden, mask, gold).loss
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(np.mean(heads) + np.mean(relations), rel=1e-5)


@pytest.mark.parametrize("words", [1, 2, 7, CANDIDATES, CANDIDATES + 9])
def test_the_logits_are_the_root_and_the_likeliest_heads_each_with_its_likeliest_relation(words):
    head = head_of(seed=words)
    hidden = torch.randn(1, words, 8)
    found = head(F.pad(hidden, (0, 0, 0, 4)), F.pad(torch.ones(1, words), (0, 4))).logits[0, :words]
    assert found.shape == (words, 1 + CANDIDATES, 4) and found.dtype == torch.float32
    arcs, labels = map(log_softmax, by_hand(head, hidden[0]))
    for word, candidates in enumerate(found.numpy()):
        best = (1 + np.argsort(-arcs[word, 1:])[: min(CANDIDATES, words - 1)]).tolist()
        assert candidates[:, 0].tolist() == [0, *best, *[-1] * (CANDIDATES - len(best))]
        for to, score, label, label_score in candidates[: 1 + len(best)]:
            assert score == pytest.approx(arcs[word, int(to)], abs=1e-4)
            assert label == labels[word, int(to)].argmax() and label_score == pytest.approx(
                labels[word, int(to)].max(), abs=1e-4
            )


def test_a_batch_without_known_heads_has_a_loss_of_zero_that_trains_nothing():
    head = head_of()
    loss = head(torch.randn(2, 3, 8), torch.ones(2, 3), torch.full((2, 3, 2), -100)).loss
    loss.backward()
    assert loss == 0 and all(not p.grad.any() for p in head.parameters() if p.grad is not None)


def test_trainer_joins_the_logits_of_batches_of_different_width():
    head, parts = head_of(), []
    for words in (30, 4, 19):
        parts.append(head(torch.randn(2, words, 8), torch.ones(2, words)).logits)
    joined = nested_concat(nested_concat(parts[0], parts[1]), parts[2])
    assert torch.equal(joined[2:4, :4], parts[1]) and torch.equal(joined[4:, :19], parts[2])


def logits_of(scores, labels=3):
    """What the head would say of `scores [words, 1 + words]` of arcs; the relation is the head's number."""
    words = len(scores)
    scores = log_softmax(np.where(np.arange(words)[:, None] + 1 == np.arange(words + 1), -np.inf, scores))
    told = np.zeros((words, 1 + CANDIDATES, 4), dtype=np.float32)
    told[:, 1:, :2] = -1, -np.inf
    told[:, 0, 1] = scores[:, 0]
    for word in range(words):
        best = 1 + np.argsort(-scores[word, 1:])[: min(CANDIDATES, words - 1)]
        told[word, 1 : 1 + len(best), 0], told[word, 1 : 1 + len(best), 1] = best, scores[word, best]
    told[:, :, 2] = told[:, :, 0] % labels
    return told


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.lists(st.booleans(), max_size=9)), min_size=1, max_size=6), st.data())
def test_whatever_was_read_of_a_row_the_answer_is_one_tree_over_all_its_words(shapes, data):
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    features, logits, counts = [], [], []
    for k, (cut, seen) in enumerate(shapes):
        read = np.flatnonzero(seen)
        for words in (read[:cut], read[cut:]):  # two windows, either of which may be empty
            features.append({"row": k, "words": words.tolist()})
            logits.append(logits_of(random.normal(size=(len(words), len(words) + 1)) * 3))
        counts.append(len(seen))
    found = parse(logits, features, np.array(counts), UNKNOWN)
    assert are_trees(found.heads, np.array(counts)).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all() and ((found.labels >= 0) & (found.labels < 3)).all()


@pytest.mark.parametrize("words", [3, 12, CANDIDATES + 1, 30])
def test_a_row_in_one_window_gets_the_best_of_all_trees(words):
    rows = [np.random.default_rng(seed).normal(size=(words, words + 1)) * 4 for seed in range(20)]
    features = [{"row": k, "words": np.arange(words)} for k in range(20)]
    found = parse([logits_of(scores) for scores in rows], features, np.full(20, words), UNKNOWN)
    for scores, heads, labels in zip(rows, found.heads.reshape(20, -1), found.labels.reshape(20, -1), strict=True):
        best = best_tree(log_softmax(np.where(np.eye(words, words + 1, 1, dtype=bool), -np.inf, scores)))
        assert heads.tolist() == best.tolist() and labels.tolist() == (best % 3).tolist()


def test_trees_of_windows_hang_on_that_of_the_likeliest_root_and_unread_words_on_the_one_before():
    sure = np.full((2, 3), -9.0)
    sure[0, 2], sure[1, 0] = 0, 0  # 1 <- 2 <- root
    unsure = sure.copy()
    unsure[1, 1] = -0.5
    features = [{"row": 0, "words": [1, 2]}, {"row": 0, "words": [4, 5]}]
    found = parse([logits_of(unsure), logits_of(sure)], features, np.array([7]), UNKNOWN)
    assert found.heads.tolist() == [6, 3, 6, 3, 6, 0, 6]
    assert (found.scores == 0).tolist() == [True, False, True, True, False, False, True]
    nothing = parse([np.zeros((0, 17, 4))], [{"row": 0, "words": []}], np.array([3]), UNKNOWN)
    assert nothing.heads.tolist() == [0, 1, 2]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_a_long_row_is_read_in_windows_and_learns_what_they_hold(family):
    words = [word for r in ROWS[:12] for word in r["tokens"]]
    heads = list(range(len(words)))
    task = DependencyParsing(name="p", labels=("dep", "nsubj", "root"), max_length=48)
    features = task.encode([row(heads, tokens=words)], TOKENIZERS[family])
    assert len(features) > 2
    for feature in features:
        read, labels = np.array(feature["words"]), np.array(feature["labels"])
        assert (labels[1:] == [[k, 0] for k in range(1, len(read))]).all() and (np.diff(read) == 1).all()
        assert labels[0].tolist() == ([0, 0] if read[0] == 0 else [-100, -100])


def test_a_head_that_no_subword_stands_for_is_not_learned():
    ((first, second),) = labels_of(row([2, 3, 0], tokens=["one", "two", "\u200b"]))
    assert first == [2, 0] and second == [-100, -100]


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ([0, 4, 1], r"has 4 for word 2 \('w1'\).*from 1 to 3"),
        ([0, -1, 1], "has -1 for word 2"),
        ([0, 2, 1], "has 2 for word 2"),
        ([0, True, 1], "has True for word 2"),
        ([0, "1", 1], "has '1' for word 2"),
        ([0, None, 1], "has None for word 2"),
        ([0, 3, 2], r"word 2 \('w1'\) is its own head by way of others"),
        ([2, 3, 1], "counted from 1, and 0 is the root"),
        ([0, 1], "'tokens' has 3 entries and column 'heads' has 2"),
        ("011", "must hold a list"),
    ],
)
def test_heads_that_are_none_are_refused_with_their_word(heads, says):
    with pytest.raises(RowError, match=says) as error:
        labels_of(row([0, 1, 1]), row([0, 1, 1]) | {"heads": heads})
    assert error.value.row == 1


def test_several_words_on_the_root_are_learned_and_an_unknown_relation_is_not():
    assert labels_of(row([0, 0], ["nsubj", "root"])) == [[[0, 1], [0, 2]]]
    with pytest.raises(RowError, match=r"'nsub' is none of its 3 labels.*Did you mean 'nsubj'"):
        labels_of(row([0, 1], ["root", "nsub"]))
    with pytest.raises(RowError, match="column 'deprels' has 1"):
        labels_of(row([0, 1], ["root"]))


def test_relations_are_learned_from_the_data_and_class_labels_keep_their_order():
    assert DependencyParsing.from_dataset("p", [row([0, 1], ["root", "det"])]).labels == ("det", "root")
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        heads=datasets.List(datasets.Value("int64")),
        deprels=datasets.List(datasets.ClassLabel(names=["root", "det", "case"])),
    )
    data = datasets.Dataset.from_list([row([0, 1], [0, 2])], features=features)
    task = DependencyParsing.from_dataset("p", data)
    assert task.labels == ("root", "det", "case")
    assert task.references(list(data)) == [{"heads": [0, 1], "deprels": ["root", "case"]}]
    with pytest.raises(ValueError, match=r"missing .None., and row 1"):
        DependencyParsing.from_dataset("p", [row([0], ["root"]), row([0], [None])])


def test_an_answer_names_each_word_its_place_and_its_head():
    prediction = {"heads": [2, 0], "deprels": ["nsubj", "root"], "scores": [0.5, 1.0]}
    first = {"index": 1, "word": "Ann", "start": 0, "end": 3, "head": 2, "head_word": "sang", "relation": "nsubj"}
    second = {"index": 2, "word": "sang", "head": 0, "head_word": None, "relation": "root", "score": 1.0}
    assert TASK.answer(prediction, {"tokens": "Ann  sang"}) == [
        first | {"score": 0.5},
        second | {"start": 5, "end": 9},
    ]
    assert TASK.answer(prediction, {"tokens": ["Ann", "sang"]})[1] == second | {"start": 4, "end": 8}


def test_relations_count_without_their_subtypes_and_in_full():
    gold = [{"heads": [2, 0, 2, 2], "deprels": ["nsubj:pass", "root", "obl:agent", "punct"]}, row([0], ["root"])]
    found = [{"heads": [2, 0, 2, 1], "deprels": ["nsubj", "root", "obj", "punct"]}, row([0], ["root"])]
    assert parsing_scores(found, gold) == {"uas": 4 / 5, "las": 3 / 5, "las_strict": 2 / 5}
    with pytest.raises(ValueError, match=r"\[1\].*\[1, 2\] words"):
        parsing_scores([gold[0], row([0, 1])], gold)
    with pytest.raises(ValueError, match="None of the 1 rows has a word"):
        parsing_scores([row([])], [row([])])
    with pytest.raises(TypeError, match=r"\['heads'\] has 1.5 \(float\)"):
        parsing_scores([{"heads": [1.5], "deprels": ["a"]}], [row([0])])


def test_the_scores_of_real_trees_are_those_that_the_official_program_gave():
    gold, found = TASK.references(ROWS), TASK.references(ROWS)
    for tree in found[1::2]:
        tree["heads"] = list(range(len(tree["heads"])))
    for tree in found[::2]:
        tree["deprels"] = [f"{name.split(':')[0]}:x" if i % 3 else "dep" for i, name in enumerate(tree["deprels"])]
    scores = parsing_scores(found, gold)
    # conll18_ud_eval.py, as stanza 1.10.1 has it, on these words and trees.
    assert (scores["uas"], scores["las"]) == (388 / 684, 259 / 684)
    assert scores["las_strict"] < scores["las"]


def test_the_baseline_says_the_commonest_relation_of_the_root_and_elsewhere():
    gold = [row([2, 0, 2], ["det", "root", "det"]), row([0], ["root"])]
    found = TASK.baseline(gold, [row([0, 0]), row([])])
    assert [(tree["heads"], tree["deprels"]) for tree in found] == [([0, 1], ["root", "det"]), ([], [])]


def test_a_tiny_backbone_learns_a_dozen_sentences_by_heart(tiny_backbone):
    task = DependencyParsing.from_dataset("p", ROWS[:12], dropout=0.0, arc_width=64, label_width=32)
    logits, features = overfit(task, ROWS[:12], tiny_backbone(), steps=60)
    scores = task.score(task.decode(logits, features, ROWS[:12]), task.references(ROWS[:12]))
    assert scores["las_strict"] > 0.95
