"""Regression and sentence similarity: the range of the numbers, the loss, the answers and their scores."""

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overfit import overfit
from scipy.stats import rankdata
from tiny import make_tokenizer
from transformers import BertConfig

from hf_mtl.data import encode_dataset
from hf_mtl.scoring.correlation import CorrelationScore, correlation_scores
from hf_mtl.tasks import RowError, task_from_dict
from hf_mtl.tasks.regression import Regression, SentenceSimilarity

TOKENIZER = make_tokenizer("wordpiece")
TOKENIZER.model_max_length = 128
PAIRS = [
    {"text": text, "text_pair": pair, "score": score}
    for text, pair, score in [
        ("I lost my card.", "My card is gone.", 4.6),
        ("I lost my card.", "Is breakfast included?", 0.0),
        ("Where is the pool?", "How do I get to the pool?", 4.4),
        ("Where is the pool?", "Where is the bank?", 1.6),
        ("Please cancel my booking.", "I do not need the room any more.", 3.8),
        ("Please cancel my booking.", "Please confirm my booking.", 2.2),
        ("The train was late again.", "Again the train did not come on time.", 4.8),
        ("The train was late again.", "The bus was early.", 1.4),
        ("She bought three apples.", "She bought four apples.", 3.4),
        ("She bought three apples.", "The sky is clear tonight.", 0.2),
        ("Open the window.", "Open the window.", 5.0),
        ("Open the window.", "Close the window.", 2.0),
    ]
]
few = settings(max_examples=60, deadline=None)


def rows_of(*scores):
    return [{"text": f"text {i}", "score": score} for i, score in enumerate(scores)]


def learned(*scores, **fields):
    return Regression.from_dataset("t", rows_of(*scores), **fields)


def decoded(task, *logits):
    rows = [{"row": i} for i in range(len(logits))]
    return [found["score"] for found in task.decode([np.array([x], dtype=np.float32) for x in logits], rows, rows)]


def test_the_row_without_a_number_is_named_where_it_made_a_table_s_column_text():
    with pytest.raises(ValueError, match=r"got str ''\. Leave out rows that have none\. This is row 2\."):
        learned("1.5", "-2", "", "3e2")
    with pytest.raises(ValueError, match=r"got str '1\.5'\. Write it without quotation marks\. This is row 0\."):
        learned("1.5", "2")


def test_the_range_is_that_of_the_training_data():
    assert (learned(1, 5, 2).low, learned(1, 5, 2).high) == (1.0, 5.0)
    task = learned(1.5, 4, low=0)
    assert (task.low, task.high) == (0, 4.0)
    assert learned(3, 3, low=0, high=5).high == 5
    assert task_from_dict(task.to_dict()) == task


def test_a_range_without_width_is_refused():
    with pytest.raises(ValueError, match=r"'t': column 'score' holds numbers from 3 to 3.*low=... and high="):
        learned(3, 3)
    with pytest.raises(ValueError, match="'t': high must be above low, which is 2, got 2"):
        Regression(name="t", low=2, high=2)
    with pytest.raises(ValueError, match="'t': low must be a finite number, got nan"):
        Regression(name="t", low=float("nan"))
    with pytest.raises(ValueError, match=r"range of its numbers is not known. Make it by Regression.from_dataset"):
        Regression(name="t", low=2).build_head(BertConfig(hidden_size=8))


@pytest.mark.parametrize("value", ["3.5", None, True, float("nan"), float("inf"), 10**400, [1.0]])
def test_what_is_no_number_is_named(value):
    with pytest.raises(RowError, match="'t': column 'score' must hold a finite number, got") as error:
        Regression(name="t", low=0, high=1).encode(rows_of(1, value), TOKENIZER)
    assert error.value.row == 1


def test_a_missing_number_of_the_training_data_is_named_with_its_row():
    with pytest.raises(ValueError, match=r"got NoneType None.*This is row 1"):
        learned(1.0, None, 2.0)


@few
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6, unique=True).filter(lambda x: max(x) - min(x) > 1e-3))
def test_decoding_what_the_loss_wants_gives_the_numbers_back(scores):
    task = learned(*scores)
    targets = task.stack_labels([f["labels"] for f in task.encode(rows_of(*scores), TOKENIZER)], 3)
    assert targets.shape == (len(scores), 1) and targets.min() == 0 and targets.max() == 1
    assert decoded(task, *targets[:, 0].tolist()) == pytest.approx(scores, abs=1e-6 * (task.high - task.low))


def test_small_differences_of_large_numbers_are_kept():
    task = learned(1_700_000_000, 1_700_000_001, 1_700_000_002)
    assert task.stack_labels([1_700_000_001.0], 1).item() == 0.5


def test_answers_are_clipped_to_the_range():
    assert decoded(Regression(name="t", low=1, high=5), -0.3, 0.5, 1.0, 7.0) == [1, 3, 5, 5]


def test_the_loss_is_the_squared_error_of_each_row_with_its_own_target():
    torch.manual_seed(0)
    task = Regression(name="t", low=0, high=5)
    head = task.build_head(BertConfig(hidden_size=8)).eval()
    output = head(torch.randn(6, 3, 8), torch.ones(6, 3), task.stack_labels([0.0, 1, 2, 3, 4, 5], 3))
    found = output.logits.detach().numpy().ravel()
    assert output.logits.shape == (6, 1)
    assert output.loss.item() == pytest.approx(((found - np.arange(6) / 5) ** 2).mean())


def test_the_range_changes_no_feature():
    one, two = Regression(name="t", low=0, high=5), Regression(name="t", low=-1, high=1, pooling="last")
    assert one.encode(rows_of(1, 2), TOKENIZER) == two.encode(rows_of(1, 2), TOKENIZER)
    assert one.encoding_key() == two.encoding_key() and {"low", "high", "pooling"} <= one.not_in_features


def test_the_baseline_is_the_mean():
    task = Regression(name="t", low=0, high=5)
    found = task.baseline([0.0, 1.0, 5.0], [{}] * 2)
    assert found == [{"score": 2.0}] * 2
    assert task.score(found, [1.0, 4.0]) == {"pearson": 0, "spearman": 0, "mse": 2.5}


def test_similarity_needs_a_pair():
    task = SentenceSimilarity.from_dataset("t", PAIRS)
    assert task.columns() == ("text", "text_pair", "score")
    assert task.read({"text": "a", "text_pair": "b"}) == {"text": "a", "text_pair": "b"}
    assert not task.accepts("a")
    with pytest.raises(ValueError, match="'t': text_pair must be a column"):
        SentenceSimilarity(name="t", text_pair=None)
    with pytest.raises(ValueError, match="'t': the data has no column 'text_pair'"):
        SentenceSimilarity.from_dataset("t", rows_of(1, 2))


def test_whole_numbers_of_a_data_set_are_encoded_as_numbers_are():
    data = datasets.Dataset.from_list(rows_of(1, 5))
    encoded = encode_dataset(Regression.from_dataset("t", data), 0, data, TOKENIZER, "train")
    assert encoded.features["labels"] == [1.0, 5.0]


def test_a_dozen_pairs_are_learned(tiny_backbone):
    task = SentenceSimilarity.from_dataset("t", PAIRS)
    logits, features = overfit(task, PAIRS, tiny_backbone())
    found = task.decode(logits, features, PAIRS)
    assert all(found.keys() == {"score"} and 0 <= found["score"] <= 5 for found in found)
    scores = task.score(found, task.references(PAIRS))
    assert scores["spearman"] > 0.9 and scores["mse"] < 0.5


# Scores

few_values = st.integers(-3, 3).map(float)
wide_values = st.floats(-1e6, 1e6, allow_subnormal=False)


@few
@given(st.lists(st.tuples(few_values | wide_values, few_values | wide_values), min_size=1, max_size=10))
def test_correlations_are_covariances_of_numbers_and_of_ranks(pairs):
    found, gold = map(np.array, zip(*pairs, strict=True))

    def correlation(a, b):
        a, b = a - a.mean(), b - b.mean()
        size = np.sqrt((a**2).sum() * (b**2).sum())
        return (a * b).sum() / size if size else 0.0

    scores = correlation_scores(found.tolist(), gold.tolist())
    assert scores["mse"] == pytest.approx(((found - gold) ** 2).mean())
    assert scores["spearman"] == pytest.approx(correlation(rankdata(found), rankdata(gold)), abs=1e-9)
    if min(np.ptp(found), np.ptp(gold)) > 1e-3:  # of less the plain formula above loses too much
        assert scores["pearson"] == pytest.approx(correlation(found, gold), abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.0])
@pytest.mark.parametrize("rounding", [0, 1e-15])
def test_constant_numbers_correlate_with_nothing(constant, rounding):
    varied, same = [1.0, 2.0, 4.0], [constant, constant * (1 + rounding), constant]
    for found, gold in ((varied, same), (same, varied), (same, same)):
        scores = CorrelationScore().compute(predictions=found, references=gold)
        assert scores["pearson"] == scores["spearman"] == 0


def test_numbers_that_cannot_be_scored_are_named():
    with pytest.raises(ValueError, match=r"predictions\[1\] is nan: expected a finite number"):
        correlation_scores([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(TypeError, match=r"references\[0\] is '1' \(str\): expected a number"):
        correlation_scores([1.0], ["1"])
    with pytest.raises(ValueError, match="empty"):
        correlation_scores([], [])


def test_names_are_no_numbers() -> None:
    rows = datasets.Dataset.from_list([{"text": "a", "score": 0}, {"text": "b", "score": 1}])
    rows = rows.cast_column("score", datasets.ClassLabel(names=["bad", "good"]))
    with pytest.raises(ValueError, match=r"'t'.*'score'.*ClassLabel.*text-classification"):
        Regression.from_dataset("t", rows)
