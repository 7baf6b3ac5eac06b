"""What all tasks share: names, number fields, and what from_dataset accepts."""

import datasets
import pytest
from tiny import make_tokenizer

from hf_mtl.tasks import QuestionAnswering, TextClassification

ROWS = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]
DATA = datasets.Dataset.from_list(ROWS)


@pytest.mark.parametrize(
    "data",
    [ROWS, DATA, {"train": ROWS}, {"train": DATA}, datasets.DatasetDict({"train": DATA, "test": DATA})],
    ids=["list", "dataset", "dict of lists", "dict", "DatasetDict"],
)
def test_labels_are_learned_from_any_kind_of_data(data):
    assert TextClassification.from_dataset("t", data).labels == ("neg", "pos")


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_labels_do_not_hang_on_the_data_sets_format(kind):
    data = datasets.Dataset.from_list([{"text": "a", "label": 0}, {"text": "b", "label": 1}]).with_format(kind)
    assert TextClassification.from_dataset("t", data).labels == ("0", "1")


@pytest.mark.parametrize(
    "data, message",
    [
        (datasets.DatasetDict({"test": DATA, "dev": DATA}), r"'train', and the data has \['test', 'dev'\]"),
        (DATA.to_iterable_dataset(), "streaming=False"),
        ({"train": DATA.to_iterable_dataset()}, "streaming=False"),
        ([], "has no rows"),
        (["text"], "must be a datasets.Dataset, a list of dicts, or a dict of splits, got list"),
        (None, "got NoneType"),
        ([{"text": "a", "labl": "x"}], "no column 'label'.*Did you mean 'labl'"),
    ],
)
def test_other_data_is_refused_with_the_way_out(data, message):
    with pytest.raises(ValueError, match=message):
        TextClassification.from_dataset("t", data)


@pytest.mark.parametrize("field, meant", [("text_column", "text"), ("lable", "label"), ("text_pairs", "text_pair")])
def test_a_field_that_is_none_comes_with_the_fields_there_are(field, meant):
    with pytest.raises(ValueError, match=rf"'t' .*no field '{field}'\. Known: \['name', .*Did you mean '{meant}'\?"):
        TextClassification.from_dataset("t", ROWS, **{field: "review"})


@pytest.mark.parametrize("name", ["backbone", "keys", "update", "training", "get", "copy", "1st", "a b", "", 7])
def test_names_that_cannot_be_used_come_with_one_that_can(name):
    with pytest.raises(ValueError, match=r"cannot be used.*For example '(.+)'") as error:
        TextClassification(name=name)
    TextClassification(name=str(error.value).split("For example '")[1].split("'")[0])


@pytest.mark.parametrize(
    "field, value",
    [(f, v) for f in ("weight", "dropout", "layer", "max_length") for v in ("64", True, [1], float("nan"))]
    + [("weight", -1), ("weight", None), ("weight", float("inf")), ("dropout", 1), ("dropout", None)]
    + [("layer", None), ("layer", 1.0), ("max_length", 3), ("max_length", 64.0)],
)
def test_numbers_that_are_none_are_refused(field, value):
    with pytest.raises(ValueError, match=f"'t': {field} must be a"):
        TextClassification(name="t", **{field: value})


@pytest.mark.parametrize(
    "field, value", [("stride", True), ("stride", -1), ("n_best", "5"), ("n_best", 0), ("null_threshold", "0")]
)
def test_the_numbers_of_question_answering_too(field, value):
    with pytest.raises(ValueError, match=f"'t': {field} must be a"):
        QuestionAnswering(name="t", **{field: value})


def test_numbers_that_fit_are_kept():
    task = TextClassification(name="t", weight=0, dropout=0, layer=-2, max_length=4)
    assert (task.weight, task.dropout, task.layer, task.max_length) == (0, 0, -2, 4)


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_questions_are_answered_alike_whichever_side_is_cut(kind):
    context = " ".join(f"w{i}" for i in range(60))
    start = context.index("w31")
    rows = [{"question": "Which?", "context": context, "answers": {"text": ["w31"], "answer_start": [start]}}]
    task = QuestionAnswering(name="t", max_length=24, stride=8)
    for side in ("left", "right"):
        tokenizer = make_tokenizer(kind)
        tokenizer.truncation_side = side
        features = task.encode(rows, tokenizer)
        covered = {c for f in features for s, e in f["offsets"] for c in range(s, e)}
        assert {c for c, shown in enumerate(context) if shown.strip()} <= covered
        marked = [f for f in features if f["labels"] != [0, 0]]
        assert marked
        for f in marked:
            first, last = (f["offsets"][k - f["first"]] for k in f["labels"])
            assert context[first[0] : last[1]].strip() == "w31"
