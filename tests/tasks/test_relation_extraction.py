"""Relations: the head reads its spans' own subwords in any text, spans are checked, scores leave out no relation."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import classification_report
from tiny import make_tokenizer, read_jsonl

from hf_mtl import MultiTaskModel, MultiTaskPipeline
from hf_mtl.scoring.relations import relation_scores
from hf_mtl.tasks import RowError
from hf_mtl.tasks.marked_pairs import MOST_PLACES, PairText, mark
from hf_mtl.tasks.relation_extraction import RelationExtraction
from hf_mtl.tasks.relation_head import MarkerVectors, PooledVectors, RelationHead

FAMILIES = ("wordpiece", "bytes", "unigram", "bytes-bare")  # BERT's, RoBERTa's, T5's, GPT-2's
TOKENIZERS = {family: make_tokenizer(family) for family in FAMILIES}
ROWS = read_jsonl(Path(__file__).parent.parent / "data" / "relations.jsonl")
LABELS = ("born_in", "lives_in", "no_relation")


def relation(**fields):
    return RelationExtraction(**{"name": "r", "labels": LABELS, "max_length": 128} | fields)


def row(tokens, head, tail, **rest):
    return {"tokens": tokens, "head": head, "tail": tail} | rest


@st.composite
def pairs(draw, most=40):
    """Any text, with two spans in it that may nest, cross, touch or be the same."""
    text = draw(
        st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" @#aé́\u200d中\n")), min_size=1, max_size=most)
    )
    spans = [sorted(draw(st.tuples(*[st.integers(0, len(text) - 1)] * 2))) for _ in range(2)]
    return PairText(text, *((start, end + 1) for start, end in spans))


def overlapping(tokenizer, text, start, end):
    """The content subwords that hold a character of the range, one after the other."""
    encoding = tokenizer(text).encodings[0]
    return [
        i
        for i, ((s, e), special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask, strict=True))
        if not special and set(range(s, e)) & set(range(start, end))
    ]


@given(pairs())
def test_marking_a_text_only_adds_the_symbols_and_spaces(pair):
    marked, places = mark(pair)
    assert [marked[place] for place in places] == ["@", "@", "#", "#"]
    for place in places:
        assert marked[place - 1 : place] in ("", " ") and marked[place + 1 : place + 2] in ("", " ")
    for (start, end), opening, closing in ((pair.head, *places[:2]), (pair.tail, *places[2:])):
        own = [c for i, c in enumerate(marked) if opening < i < closing and i not in places and c != " "]
        assert own == [c for c in pair.text[start:end] if c != " "]
    assert [c for i, c in enumerate(marked) if i not in places and c != " "] == [c for c in pair.text if c != " "]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(pairs(), min_size=2, max_size=5))
def test_rows_are_encoded_together_as_each_is_by_itself(family, texts):
    task = relation(max_length=24)  # which cuts some of them
    for feature, pair in zip(task.encode([row(*pair) for pair in texts], TOKENIZERS[family]), texts, strict=True):
        (alone,) = task.encode([row(*pair)], TOKENIZERS[family])
        assert feature["input_ids"] == alone["input_ids"]
        assert feature["positions"].tolist() == alone["positions"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(pair=pairs())
def test_the_head_reads_the_symbols_of_its_spans(family, pair):
    tokenizer = TOKENIZERS[family]
    (feature,) = relation(max_length=4096).encode([row(*pair)], tokenizer)
    marked, (a, b, c, d) = mark(pair)
    assert feature["input_ids"] == tokenizer(marked)["input_ids"]
    *positions, last = feature["positions"].tolist()
    for place, position in zip((a, c, b, d), positions, strict=True):
        assert position in overlapping(tokenizer, marked, place, place + 1)
    assert last == len(feature["input_ids"]) - 1


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(pair=pairs())
def test_pooling_reads_each_subword_of_a_span_equally_often(family, pair):
    tokenizer = TOKENIZERS[family]
    (feature,) = relation(spans="pooling", max_length=4096).encode([row(*pair)], tokenizer)
    assert feature["input_ids"] == (tokenizer(pair.text)["input_ids"] or [tokenizer.eos_token_id])
    assert len(feature["words"]) == len(feature["positions"])
    for span, places in ((pair.head, feature["positions"][2::2]), (pair.tail, feature["positions"][3::2])):
        own, often = overlapping(tokenizer, pair.text, *span), Counter(places.tolist())
        assert set(often) == set(own) or not own or len(own) > MOST_PLACES
        if len(places) < MOST_PLACES:
            assert len(set(often.values())) == 1


@pytest.mark.parametrize("spans", ["markers", "pooling"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_place_is_lost_however_long_the_text_is(family, spans, data):
    tokenizer = TOKENIZERS[family]
    pair = data.draw(pairs(most=400))
    limit = data.draw(st.integers(8, 60))
    short, whole = (
        relation(spans=spans, max_length=most).encode([row(*pair)], tokenizer)[0] for most in (limit, 10**6)
    )
    assert len(short["input_ids"]) <= limit
    kept = iter(whole["input_ids"])
    assert all(token in kept for token in short["input_ids"])  # in their order
    ids, full = np.array(short["input_ids"]), np.array(whole["input_ids"])
    if spans == "markers":
        assert ids[short["positions"][:4]].tolist() == full[whole["positions"][:4]].tolist()
    else:  # of a long span its ends at least
        for k, span in ((2, pair.head), (3, pair.tail)):
            own = overlapping(tokenizer, pair.text, *span)
            assert not own or ids[short["positions"][k::2][[0, -1]]].tolist() == full[[own[0], own[-1]]].tolist()


def test_a_window_lies_around_both_spans_and_only_the_far_middle_is_cut():
    tokenizer = TOKENIZERS["wordpiece"]
    words = [f"w{i}" for i in range(300)]
    near, far = row(words, [150, 151], [155, 156]), row(words, [10, 11], [290, 291])
    for given_row, inside in ((near, "w152"), (far, None)):
        (feature,) = relation(max_length=64).encode([given_row], tokenizer)
        text = tokenizer.decode(feature["input_ids"]).replace(" ", "").replace("##", "")
        head, tail = (f"w{given_row[k][0]}" for k in ("head", "tail"))
        assert len(feature["input_ids"]) == 64 and f"@{head}@" in text and f"#{tail}#" in text
        assert inside is None or inside in text
        assert "w70" not in text
    with pytest.raises(RowError, match=r"2 that are left cannot hold both ends.*Raise max_length"):
        relation(max_length=4).encode([near], tokenizer)


@pytest.mark.parametrize("spans", ["markers", "pooling"])
@pytest.mark.parametrize("split", ["words", "characters"])
def test_spans_of_words_and_of_characters_are_one_thing(spans, split):
    words = ["Ann", "Lee", "met", "Bob"] if split == "words" else list("安见李四")
    text = (" " if split == "words" else "").join(words)
    at = {0: 0, 2: 7, 3: 12, 4: 15} if split == "words" else dict(enumerate(range(5)))
    task = relation(spans=spans, split=split)
    one, two = task.encode([row(words, [0, 2], [3, 4]), row(text, [at[0], at[2]], [at[3], at[4]])], TOKENIZERS["bytes"])
    assert one["input_ids"] == two["input_ids"] and one["positions"].tolist() == two["positions"].tolist()


def test_marker_vectors_are_those_a_causal_backbone_has_read():
    hidden = torch.arange(5.0).reshape(1, 5, 1)
    assert MarkerVectors(causal=False)(hidden, torch.ones(1, 5)).flatten().tolist() == [0, 1]
    assert MarkerVectors(causal=True)(hidden, torch.ones(1, 5)).flatten().tolist() == [2, 3, 4]


@pytest.mark.parametrize("causal", [False, True])
def test_pooled_vectors_are_means_and_know_no_padding(causal):
    hidden = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    found = PooledVectors(causal)(hidden, torch.tensor([[1] * 8, [1] * 4 + [0] * 4]))
    for text, length in ((0, 8), (1, 4)):
        values = hidden[text].tolist()
        wanted = [values[int(causal)], *(np.mean(values[start:length:2], axis=0) for start in (2, 3))]
        assert np.allclose(found[text], np.array(wanted), atol=1e-6)


def test_a_batch_without_labels_has_no_loss_and_a_forward_without_positions_an_answer():
    head = RelationHead(MarkerVectors(causal=False), 4, 3, 0.0)
    loss = head(torch.ones(2, 5, 4), torch.ones(2, 5), torch.tensor([-100, -100])).loss
    loss.backward()
    assert loss == 0 and head.classifier.weight.grad is not None
    for vectors in (MarkerVectors(True), PooledVectors(True)):
        assert RelationHead(vectors, 4, 3, 0.0)(torch.ones(2, 1, 4), torch.ones(2, 1)).logits.shape == (2, 1, 3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"head": [1, 1]}, r"'head' must be \[start, end\] with 0 <= start < end.*got \[1, 1\]"),
        ({"tail": [-1, 1]}, r"'tail' must be .*got \[-1, 1\]"),
        ({"tail": [0, 3]}, r"'tail' is \[0, 3\], but 'tokens' has 2 words. Spans count words"),
        ({"head": [0.0, 1.0]}, r"'head' must be \[start, end\], two whole numbers, got list \[0.0, 1.0\]"),
        ({"head": [True, 2]}, "two whole numbers"),
        ({"head": 1}, "two whole numbers, got int 1"),
        ({"tokens": 7}, "'tokens' must hold a list of words, or a text, got int 7|'text' must be a string or a list"),
        ({"tokens": "ab", "tail": [1, 3]}, r"'tokens' has 2 characters"),
    ],
)
def test_spans_that_are_none_are_refused_in_rows_and_in_inputs(changed, said):
    broken = row(["a", "b"], [0, 1], [1, 2]) | changed
    with pytest.raises(RowError, match=f"'r'.*(?:{said})") as error:
        relation().encode([row("ab", [0, 1], [1, 2]), broken], TOKENIZERS["bytes"])
    assert error.value.row == 1
    with pytest.raises(ValueError, match=f"'r'.*(?:{said})"):
        relation().read(broken)


def test_only_an_input_that_names_both_spans_is_accepted():
    task = relation(tokens="words", head="subject", tail="object")
    assert not task.accepts("Ann met Bob") and not task.accepts({"text": "Ann met Bob", "head": [0, 3]})
    example = {"text": "Ann met Bob", "head": (0, np.int64(3)), "tail": np.array([8, 11])}
    assert task.accepts(example) and task.accepts({"words": ["a"], "subject": [0, 1], "object": [0, 1]})
    assert task.read(example) == {"words": "Ann met Bob", "subject": (0, 3), "object": (8, 11)}
    with pytest.raises(ValueError, match="the input has no 'tail'"):
        task.read({"text": "Ann met Bob", "head": [0, 3]})


def test_the_label_of_no_relation_and_how_words_join_are_learned():
    task = RelationExtraction.from_dataset("r", ROWS)
    assert task.no_relation == "Other" and task.split == "words" and "Cause-Effect(e1,e2)" in task.labels
    assert relation().no_relation == "no_relation" and relation(no_relation="").no_relation == ""
    assert relation(labels=["Other", "NA", "x"]).no_relation == "NA" and relation(labels=["x", "y"]).no_relation is None
    chinese = [row(list("安见李四"), [0, 1], [2, 4], label=label) for label in "xy"]
    assert RelationExtraction.from_dataset("r", chinese).split == "characters"
    with pytest.raises(ValueError, match="no_relation='None' is none of its labels"):
        relation(no_relation="None")


def test_scores_are_scikit_learns_less_no_relation():
    rng = np.random.default_rng(0)
    gold, predicted = (rng.choice(["a", "b", "c", "NA"], 200).tolist() for _ in range(2))
    report = classification_report(gold, predicted, labels=["a", "b", "c"], output_dict=True, zero_division=0)
    found = relation_scores(predicted, gold, "NA")
    assert found["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["f1_micro"] == pytest.approx(report["micro avg"]["f1-score"])
    assert found["accuracy"] == np.mean(np.array(gold) == np.array(predicted)) and len(found) == 3
    assert relation_scores(["NA"], ["NA"], "NA") == {"accuracy": 1.0, "f1_micro": 0.0, "f1_macro": 0.0}


def test_the_official_score_takes_two_directions_for_one_relation():
    gold = ["A(e1,e2)", "A(e2,e1)", "A(e1,e2)", "B(e1,e2)", "Other", "Other"]
    predicted = ["A(e1,e2)", "A(e1,e2)", "Other", "B(e1,e2)", "B(e2,e1)", "C(e1,e2)"]
    # A: 1 right of 2 said and 3 there; B: 1 right of 2 said and 1 there; C is no gold relation.
    found = relation_scores(predicted, gold, "Other")
    assert found["f1_macro_relations"] == pytest.approx((2 / 5 + 2 / 3) / 2)
    assert found["f1_macro"] == pytest.approx((1 / 2 + 0 + 1 + 0 + 0) / 5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "t5"])
@pytest.mark.parametrize("spans", ["markers", "pooling"])
def test_a_pipeline_answers_pairs_of_one_text_apart(kind, spans, tiny_backbone):
    model = MultiTaskModel.from_backbone(tiny_backbone(kind), [relation(spans=spans)])
    pipe = MultiTaskPipeline(model)
    examples = [{"text": "Ann met Bob in Rome.", "head": [0, 3], "tail": tail} for tail in ([8, 11], [15, 19])]
    one, two = (answer["r"] for answer in pipe(examples))
    assert one.keys() == {"label", "score"} and one["label"] in LABELS and json.dumps(one)
    assert one["score"] != two["score"]
    assert pipe(examples[1])["r"]["score"] == pytest.approx(two["score"], abs=1e-5)
