"""Scores against worked examples, the libraries underneath and brute-force counts; and their machinery."""

import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import evaluate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import sequence_labeling
from sklearn.metrics import accuracy_score, f1_score

from hf_mtl.scoring import (
    ClassificationScore,
    SpanScore,
    SquadScore,
    TagScore,
    classification_scores,
    squad_scores,
    tagging_scores,
)

LABELS = st.sampled_from(["a", "b", "c", "", "b\0", "New York"])
BIO = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"])
few = settings(max_examples=40, deadline=None)


def pairs_of(elements):
    """Two equally long lists, as (predictions, references)."""
    return st.lists(st.tuples(elements, elements), min_size=1, max_size=12).map(
        lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
    )


# Labels


def test_classification_scores_of_a_worked_example():
    # F1 of a: 2*2/(3+2), of b: 2*1/(1+2), of c (predicted only): 0.
    assert classification_scores(["a", "a", "a", "b", "c"], ["a", "a", "b", "b", "a"]) == pytest.approx(
        {"accuracy": 3 / 5, "f1_macro": (2 * 2 / 6 + 2 * 1 / 3 + 0) / 3}
    )


@few
@given(pairs_of(LABELS))
def test_classification_scores_are_brute_force_counts(pair):
    predictions, references = pair
    scores = classification_scores(predictions, references)
    f1 = []
    for label in {*predictions, *references}:
        right = sum(p == r == label for p, r in zip(predictions, references, strict=True))
        f1.append(2 * right / (predictions.count(label) + references.count(label)))
    assert scores["accuracy"] == pytest.approx(
        sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)
    )
    assert scores["f1_macro"] == pytest.approx(sum(f1) / len(f1))


def test_labels_as_many_as_rows_score_without_a_warning():
    labels = [f"label {i}" for i in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classification_scores(labels, labels) == {"accuracy": 1.0, "f1_macro": 1.0}
        assert classification_scores(labels[1:] + labels[:1], labels) == {"accuracy": 0.0, "f1_macro": 0.0}


def test_two_labels_score_as_many_do_without_a_positive_one():
    swap = {"yes": "no", "no": "yes"}
    predictions, references = ["yes", "no", "no", "yes", "no"], ["yes", "yes", "no", "no", "no"]
    assert classification_scores(predictions, references) == classification_scores(
        [swap[label] for label in predictions], [swap[label] for label in references]
    )


# Tags


def test_plain_tag_scores_are_scikit_learns_over_all_tokens():
    predictions = [["DET", "NOUN"], [], ["VERB", "VERB", "PUNCT"]]
    references = [["DET", "VERB"], [], ["NOUN", "VERB", "PUNCT"]]
    gold, predicted = ["DET", "VERB", "NOUN", "VERB", "PUNCT"], ["DET", "NOUN", "VERB", "VERB", "PUNCT"]
    scores = tagging_scores(predictions, references, spans=False)
    assert scores == pytest.approx(
        {
            "accuracy": accuracy_score(gold, predicted),
            "f1_macro": f1_score(gold, predicted, average="macro"),
        }
    )


def test_span_scores_of_seqevals_own_example():
    # The example in seqeval's README: one of two spans right, 8 of 10 tags.
    references = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predictions = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert tagging_scores(predictions, references, spans=True) == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.8}
    )


@few
@given(pairs_of(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("XY")), max_size=3)))
def test_span_scores_are_set_counts_of_the_encoded_spans(pair):
    def spans_and_tags(rows):
        spans, tags = set(), []
        for row, parts in enumerate(rows):
            line = []
            for gap, length, kind in parts:
                line += ["O"] * gap
                spans.add((row, len(line), length, kind))
                line += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
            tags.append(line + ["O"] * (15 - len(line)))
        return spans, tags

    (predicted, predictions), (gold, references) = spans_and_tags(pair[0]), spans_and_tags(pair[1])
    scores = tagging_scores(predictions, references, spans=True)
    right = len(predicted & gold)
    assert scores["precision"] == pytest.approx(right / max(len(predicted), 1))
    assert scores["recall"] == pytest.approx(right / max(len(gold), 1))
    assert scores["f1"] == pytest.approx(2 * right / max(len(predicted) + len(gold), 1))


@few
@given(pairs_of(BIO))
def test_span_scores_are_seqevals_on_tags_that_break_the_scheme_too(pair):
    predictions, references = [pair[0]], [pair[1]]
    scores = tagging_scores(predictions, references, spans=True)
    for metric in ("precision", "recall", "f1"):
        oracle = getattr(sequence_labeling, f"{metric}_score")
        assert scores[metric] == pytest.approx(oracle(references, predictions, zero_division=0))
    assert scores["accuracy"] == pytest.approx(sequence_labeling.accuracy_score(references, predictions))


def test_no_span_at_all_scores_zero_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = tagging_scores([["O", "O"]], [["O", "O"]], spans=True)
    assert scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}


# Answers


def test_squad_scores_of_the_official_program():
    # Counted by evaluate-v2.0.py of SQuAD 2.0 (there times 100) on these five questions.
    predictions = ["Denver Broncos", "", "the Broncos!", "in 1990 or so", "Norse"]
    references = [["The Denver Broncos", "Broncos"], [], ["Denver Broncos"], ["1990", "the year 1990"], []]
    assert squad_scores(predictions, references) == pytest.approx(
        {
            "exact_match": 0.4,
            "f1": 0.6133333333333333,
            "has_answer_exact_match": 0.3333333333333333,
            "has_answer_f1": 0.6888888888888888,
            "no_answer_accuracy": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("The  Cat.", "cat", 1, 1),
        ("a.b", "ab", 1, 1),  # punctuation goes without leaving a space
        ("'the' end", "end", 1, 1),  # punctuation goes before articles
        ("cat—the—dog", "cat——dog", 0, 0),  # articles leave a space
        ("theatre", "atre", 0, 0),  # articles are whole words
        ("“cat”", "cat", 0, 0),  # only ASCII punctuation goes
        ("cat cat dog", "cat", 0, 2 * (1 / 3) / (1 / 3 + 1)),  # a word counts as often as it occurs
        ("dog cat", "cat dog", 0, 1),  # F1 has no order
        ("", "cat", 0, 0),
        ("the", "cat", 0, 0),
    ],
)
def test_answers_are_compared_after_squads_normalisation(prediction, gold, exact, f1):
    assert squad_scores([prediction], [[gold]]) == pytest.approx({"exact_match": exact, "f1": f1})


@few
@given(pairs_of(st.lists(st.sampled_from(["red", "Red", "blue", "the", "-"]), max_size=5)))
def test_squad_f1_is_a_brute_force_count_of_shared_words(pair):
    def kept(words):
        return [word.lower() for word in words if word not in ("the", "-")]

    expected = []
    for predicted, gold in zip(*pair, strict=True):
        rest, shared = kept(gold), 0
        for word in kept(predicted):
            if word in rest:
                rest.remove(word)
                shared += 1
        total = len(kept(predicted)) + len(kept(gold))
        expected.append(2 * shared / total if total else 1.0)
    predictions, references = [" ".join(words) for words in pair[0]], [[" ".join(words)] for words in pair[1]]
    assert squad_scores(predictions, references)["f1"] == pytest.approx(sum(expected) / len(expected))


def test_the_best_gold_answer_counts_for_each_of_the_two_scores():
    assert squad_scores(["old cat"], [["the cat", "an old cat", "dog"]]) == {"exact_match": 1.0, "f1": 1.0}
    # Gold answers of articles alone are none, beside others.
    assert squad_scores(["a"], [["the", "cat"]]) == {"exact_match": 0.0, "f1": 0.0}
    assert squad_scores(["old cat"], [["dog", "cat"]]) == pytest.approx({"exact_match": 0.0, "f1": 2 / 3})


@pytest.mark.parametrize("gold", [[], [""], [" ", ""]])
def test_a_question_without_an_answer_is_right_only_when_none_is_given(gold):
    assert squad_scores([""], [gold]) == {"exact_match": 1.0, "f1": 1.0, "no_answer_accuracy": 1.0}
    assert squad_scores(["cat"], [gold]) == {"exact_match": 0.0, "f1": 0.0, "no_answer_accuracy": 0.0}


def test_answered_and_unanswered_questions_are_split_only_where_both_exist():
    assert set(squad_scores(["cat"], [["cat"]])) == {"exact_match", "f1"}
    scores = squad_scores(["cat", "cat", ""], [["cat"], [], []])
    assert scores["has_answer_exact_match"] == scores["has_answer_f1"] == 1.0
    assert scores["no_answer_accuracy"] == 0.5
    assert scores["exact_match"] == pytest.approx(2 / 3)


# Wrong input

SCORERS = {
    "classification": (classification_scores, "a"),
    "tags": (lambda p, r: tagging_scores(p, r, spans=False), ["a"]),
    "spans": (lambda p, r: tagging_scores(p, r, spans=True), ["O"]),
    "squad": (squad_scores, "a"),
}


@pytest.mark.parametrize(("score", "row"), SCORERS.values(), ids=SCORERS)
def test_no_rows_and_rows_without_a_reference_are_refused(score, row):
    with pytest.raises(ValueError, match="nothing to score"):
        score([], [])
    with pytest.raises(ValueError, match="predictions has 2 rows and references has 1"):
        score([row, row], [row])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification_scores(["a", 1], ["a", "b"]), r"predictions\[1\] is 1 \(int\)"),
        (lambda: classification_scores(["a"], [None]), r"references\[0\] is None"),
        (lambda: classification_scores("ab", ["a", "b"]), "predictions is 'ab'"),
        (lambda: tagging_scores([["a"], "b"], [["a"], ["b"]], spans=False), r"predictions\[1\] is 'b'"),
        (lambda: tagging_scores([["a"]], [[3]], spans=False), r"references\[0\]\[0\] is 3 \(int\)"),
        (lambda: squad_scores(["cat", "cat"], [["cat"], "cat"]), r"references\[1\] is 'cat'"),
        (lambda: squad_scores([None], [["cat"]]), r"predictions\[0\] is None"),
    ],
)
def test_values_that_are_not_text_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("spans", [True, False])
def test_rows_of_other_lengths_and_rows_without_tokens_are_named(spans):
    with pytest.raises(ValueError, match=r"predictions\[1\] has 1 tags and references\[1\] has 2"):
        tagging_scores([["O"], ["O"]], [["O"], ["O", "O"]], spans=spans)
    with pytest.raises(ValueError, match="None of the 2 rows has a token"):
        tagging_scores([[], []], [[], []], spans=spans)


@pytest.mark.parametrize("tag", ["NOUN", "", "I_PER", "BPER", "X-PER"])
def test_a_tag_that_spells_no_span_is_named(tag):
    with pytest.raises(ValueError, match=f"Tag {tag!r} spells no span.*spans=False"):
        tagging_scores([["O", tag]], [["O", "O"]], spans=True)


# The machinery

MODULES = {
    ClassificationScore: (["a", "b", "b"], ["a", "a", "b"]),
    TagScore: ([["a"], ["b", "b"], []], [["a"], ["a", "b"], []]),
    SpanScore: ([["B-X"], ["O", "B-X"], []], [["B-X"], ["B-X", "O"], []]),
    SquadScore: (["cat", "", "dog"], [["cat", "the cat"], [], ["cat"]]),
}
modules = pytest.mark.parametrize(
    ("module", "predictions", "references"), [(m, *rows) for m, rows in MODULES.items()], ids=str
)


@modules
def test_rows_added_in_parts_score_as_rows_given_at_once(module, predictions, references):
    metric = module()
    metric.add_batch(predictions=predictions[:1], references=references[:1])
    metric.add(prediction=predictions[1], reference=references[1])
    metric.add_batch(predictions=predictions[2:], references=references[2:])
    at_once = module().compute(predictions=predictions, references=references)
    assert metric.compute() == at_once
    # and a module that has computed starts anew
    assert metric.compute(predictions=predictions, references=references) == at_once
    assert all(0 <= value <= 1 and type(value) is float for value in at_once.values())


@modules
def test_a_module_without_rows_says_so(module, predictions, references):
    with pytest.raises(ValueError, match="no rows yet"):
        module().compute()
    with pytest.raises(ValueError, match="nothing to score"):
        module().compute(predictions=[], references=[])


def test_modules_combine():
    predictions, references = MODULES[SpanScore]
    combined = evaluate.combine({"tags": TagScore(), "spans": SpanScore()})
    combined.add_batch(predictions=predictions, references=references)
    scores = combined.compute()
    assert scores["f1"] == tagging_scores(predictions, references, spans=True)["f1"]
    assert scores["f1_macro"] == tagging_scores(predictions, references, spans=False)["f1_macro"]
    assert scores["tags_accuracy"] == scores["spans_accuracy"]


@modules
def test_scoring_needs_no_cache_folder(module, predictions, references, tmp_path, monkeypatch):
    file = tmp_path / "a file, so that no folder can be made in it"
    file.touch()
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", file / "metrics")
    with pytest.raises(NotADirectoryError):
        module(keep_in_memory=False)
    assert module().compute(predictions=predictions, references=references)
    assert list(tmp_path.iterdir()) == [file]


def test_scoring_in_the_users_cache_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.chdir(tmp_path)
    for module, (predictions, references) in MODULES.items():
        module().compute(predictions=predictions, references=references)
    assert list(tmp_path.iterdir()) == []


def test_scores_taken_at_the_same_time_do_not_mix():
    def score(count):
        predictions = ["a"] * count + ["b"] * (50 - count)
        return classification_scores(predictions, ["a"] * 50)["accuracy"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(score, range(50))) == [count / 50 for count in range(50)]


def test_scoring_costs_little_over_scikit_learn():
    labels = [f"label {i % 77}" for i in range(2000)]
    predictions = labels[1:] + labels[:1]

    def fastest(score):
        seconds = []
        for _ in range(5):
            start = time.thread_time()  # CPU seconds: a busy machine does not count
            score(predictions, labels)
            seconds.append(time.thread_time() - start)
        return min(seconds)

    bare = fastest(lambda p, r: (accuracy_score(r, p), f1_score(r, p, average="macro", zero_division=0)))
    assert fastest(classification_scores) < bare + 0.05
