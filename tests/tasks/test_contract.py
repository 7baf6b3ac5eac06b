"""What every task type must hold. A new type needs an entry in EXAMPLES, or these tests fail for it."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tiny import make_slow_backbone, read_jsonl
from transformers import AutoConfig, AutoTokenizer, pipeline

from hf_mtl import MultiTaskModel
from hf_mtl.backbone import prepare_tokenizer
from hf_mtl.data import INPUTS, MultiTaskCollator, encode_dataset
from hf_mtl.tasks import TASK_TYPES, Task, task_class, task_from_dict

TEXTS = ["It was fine.", "Nobody liked it", "The second part drags on and on", "We left, and rightly so!"]
# task type -> (the quickstart's data, a file of tests/data, or rows, that fit it; fields; a pipeline input)
EXAMPLES: dict[str, tuple[str | list[dict], dict[str, Any], Any]] = {
    "text-classification": ("intent", {}, "I lost my card"),
    "token-classification": ("pos", {}, "I lost my card in Paris ."),
    "dependency-parsing": ("trees", {}, "I lost my card in Paris ."),
    "intent-slots": (
        [{"tokens": ["go", "to", c], "tags": ["O", "O", f"B-{c}"], "intent": c} for c in ("Rome", "Oslo") * 6],
        {},
        "go to Lima",
    ),
    "multiple-choice": (
        [{"question": f"What is {i}?", "choices": ["a", "bee", "see"][: 2 + i % 2], "label": i % 2} for i in range(12)],
        {},
        {"question": "What is it?", "choices": ["this", "that"]},
    ),
    "question-answering": (
        "answer",
        {"max_length": 96, "stride": 16},
        {"question": "Who lost it?", "context": "Ann lost it."},
    ),
    "lemmatization": ("trees", {}, "Cats sang ."),
    "morphological-tagging": ("trees", {}, "Cats sang ."),
    "multi-label-classification": ("intents", {}, "I lost my card"),
    "regression": ([{"text": text, "score": i} for i, text in enumerate(TEXTS)], {}, "I lost my card"),
    "sentence-similarity": (
        [{"text": text, "text_pair": TEXTS[i // 2], "score": i} for i, text in enumerate(TEXTS)],
        {},
        {"text": "I lost my card", "text_pair": "My card is gone"},
    ),
    "soft-label-classification": (
        [{"text": text, "label": {"good": i, "bad": 3 - i, "neither": i % 2}} for i, text in enumerate(TEXTS)],
        {},
        "I lost my card",
    ),
    "relation-extraction": ("relations", {}, {"text": "Ann met Bob in Rome.", "head": [0, 3], "tail": [15, 19]}),
    "joint-relation-extraction": (
        "joint_relations",
        {"entities": "entities"},
        "Ann Lee runs Blue Mill in Oslo .",
    ),
    "fill-mask": (
        [{"text": text, "masked_text": f"{text} It is [MASK]."} for text in TEXTS],
        {},
        "It was a [MASK] day.",
    ),
    "text-generation": (
        [{"prompt": text, "text": TEXTS[-i]} for i, text in enumerate(TEXTS)],
        {"generation": {"max_new_tokens": 5}},
        "It was",
    ),
    **{
        kind: (
            [{"text": text, "target": TEXTS[i // 2]} for i, text in enumerate(TEXTS)],
            {"max_target_length": 8, "prefix": "say: "},
            "It was fine.",
        )
        for kind in ("text2text-generation", "translation", "summarization")
    },
    "sentence-embedding": (
        [{"text": f"{w} things", "positive": f"a {w} one"} for w in ("red", "old", "big", "new", "odd", "dry")],
        {},
        "green things",
    ),
}
KINDS = ["bert", "roberta", "gpt2", "t5"]
# For tasks that need a language model: of its kind, in their place.
LANGUAGE_MODELS = {
    "masked": {"gpt2": "modernbert", "t5": "distilbert"},
    "causal": {"bert": "llama", "roberta": "qwen3", "t5": "qwen2"},
    "seq2seq": {"bert": "bart", "roberta": "t5", "gpt2": "bart"},
}


def fitting(task: Task, kind: str = "bert") -> str:
    """The architecture, or another that can answer the task."""
    return LANGUAGE_MODELS.get(task.language_model, {}).get(kind, kind)


@pytest.fixture(params=sorted(TASK_TYPES))
def made(request: pytest.FixtureRequest, rows: Any) -> tuple[Task, list[dict], Any]:
    assert request.param in EXAMPLES, f"Task type {request.param!r} needs an entry in EXAMPLES."
    data, fields, example = EXAMPLES[request.param]
    if isinstance(data, str):
        own = Path(__file__).parent.parent / "data" / f"{data}.jsonl"
        data = read_jsonl(own, 24) if own.is_file() else rows(data, "train", 24)
    found = data
    return (
        task_class(request.param).from_dataset("it", datasets.Dataset.from_list(found), **fields),
        found,
        example,
    )


def prepared(folder: str) -> Any:
    return prepare_tokenizer(AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder))


def test_a_type_that_needs_no_offsets_encodes_with_a_slow_tokenizer(
    made: tuple[Task, list[dict], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    task, rows, _ = made
    folder = tmp_path_factory.getbasetemp() / "slow_contract"
    if not folder.exists():
        folder.mkdir()
        make_slow_backbone(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    if task.needs_offsets:
        with pytest.raises(ValueError, match=r"'it'.*a slow one"):
            prepare_tokenizer(tokenizer, config, [task])
        return
    tokenizer = prepare_tokenizer(tokenizer, config, [task])
    features = task.encode(rows, tokenizer)
    assert {feature["row"] for feature in features} == set(range(len(rows)))
    ids = [part for f in features for part in (f["input_ids"] if task.grouped else [f["input_ids"]])]
    assert all(part and max(part) < len(tokenizer) for part in ids)


def answers(model: MultiTaskModel, task: Task, rows: list[dict], batch: int) -> list[Any]:
    """Predictions by way of batches of a given size."""
    features = task.encode(rows, model.tokenizer)
    # A language model's predictions of texts are how likely it finds them.
    left_out = () if task.language_model and not task.scored_by_writing else ("labels",)
    collate = MultiTaskCollator(model.tokenizer, [task])
    logits: list[np.ndarray] = []
    for start in range(0, len(features), batch):
        part = features[start : start + batch]
        seen = [{k: v for k, v in f.items() if k in INPUTS and k not in left_out} | {"task_ids": 0} for f in part]
        with torch.no_grad():
            output = model(**collate(seen)).logits[task.name].numpy()
        logits += [task.cut(values, feature) for values, feature in zip(output, part, strict=True)]
    return task.decode(task.detokenize(logits, model.tokenizer), features, rows)


def alike(a: Any, b: Any) -> bool:
    """Equal, numbers within rounding."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return abs(a - b) < 1e-4 if isinstance(a, float) else a == b


def fits(task: Task, metric: str, value: float) -> bool:
    """Whether the value lies where such a metric can."""
    return value >= 0 if metric in task.lower_is_better else -1 <= value <= 1


def test_a_task_survives_json(made: Any) -> None:
    task, _, _ = made
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize("kind", KINDS)
def test_encode_collate_forward_backward_decode_score(made: Any, kind: str, tiny_backbone: Any) -> None:
    task, found, _ = made
    model = MultiTaskModel.from_backbone(tiny_backbone(fitting(task, kind)), [task])
    encoded = encode_dataset(task, 0, datasets.Dataset.from_list(found), model.tokenizer, "train")
    batch = MultiTaskCollator(model.tokenizer, [task])([encoded[i] for i in range(min(8, len(encoded)))])
    output = model(**batch)
    assert output.loss.dtype == torch.float32 and torch.isfinite(output.loss)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.heads.parameters())
    predictions = answers(model.eval(), task, found, batch=8)
    assert len(predictions) == len(found)
    scores = task.score(predictions, task.references(found))
    assert task.main_metric in scores and all(fits(task, metric, value) for metric, value in scores.items())


def test_the_loss_is_a_mean_over_rows_so_that_weights_of_tasks_compare(made: Any, tiny_backbone: Any) -> None:
    task, found, _ = made
    if task.compares_rows:  # more rows are more to choose from
        return
    model = MultiTaskModel.from_backbone(tiny_backbone(fitting(task)), [task]).eval()
    encoded = encode_dataset(task, 0, datasets.Dataset.from_list(found[:4]), model.tokenizer, "train")
    features = [encoded[i] for i in range(len(encoded))]
    collate = MultiTaskCollator(model.tokenizer, [task])
    with torch.no_grad():
        once, thrice = model(**collate(features)).loss, model(**collate(features * 3)).loss
    torch.testing.assert_close(thrice, once)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_equals_a_batch_of_many(made: Any, kind: str, tiny_backbone: Any) -> None:
    task, found, _ = made
    model = MultiTaskModel.from_backbone(tiny_backbone(fitting(task, kind)), [task])
    assert alike(answers(model, task, found[:6], batch=1), answers(model, task, found[:6], batch=5))


def test_the_card_of_a_model_says_how_to_ask_it(made: Any, tiny_backbone: Any) -> None:
    task, _, _ = made
    model = MultiTaskModel.from_backbone(tiny_backbone(fitting(task)), [task])
    line = next(line for line in str(model.card()).splitlines() if line.startswith("pipe("))
    assert list(eval(line, {"pipe": pipeline("multitask-nlp", model=model)})) == ["it"]


def test_predictions_and_answers_are_json(made: Any, tiny_backbone: Any) -> None:
    task, _, example = made
    model = MultiTaskModel.from_backbone(tiny_backbone(fitting(task)), [task])
    row = task.read(example)
    prediction = answers(model, task, [row], batch=1)[0]
    assert json.loads(json.dumps(prediction)) == prediction
    assert json.dumps(task.answer(prediction, row))


def test_save_and_load_give_the_same_answers(made: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    task, found, _ = made
    model = MultiTaskModel.from_backbone(tiny_backbone(fitting(task)), [task])
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert again.tasks == model.tasks
    assert alike(answers(model, task, found[:4], batch=4), answers(again, task, found[:4], batch=4))


def test_gold_answers_score_one_and_the_baseline_less(made: Any, tiny_backbone: Any) -> None:
    task, found, _ = made
    gold = task.references(found)
    commonest = task.baseline(gold, found)
    if commonest is None:  # a language model's tasks have no such answer
        return
    common = task.score(commonest, gold)
    assert all(fits(task, metric, value) for metric, value in common.items()) and common[task.main_metric] < 1


def test_rows_without_labels_are_encoded(made: Any, tiny_backbone: Any) -> None:
    task, found, _ = made
    inputs = set(task.inputs().values())
    bare = [{k: v for k, v in row.items() if k in inputs} for row in found]
    features = task.encode(bare, prepared(tiny_backbone(fitting(task))))
    assert {f["row"] for f in features} == set(range(len(found)))
    assert all("labels" not in f for f in features)


def test_no_input_is_longer_than_the_backbone_takes(made: Any, tiny_backbone: Any) -> None:
    task, found, _ = made
    tokenizer = prepared(tiny_backbone(fitting(task)))
    columns = task.inputs().values()
    long = {k: v for k, v in found[0].items() if k in columns}
    first = next(k for k in reversed(list(columns)) if isinstance(long[k], str) or isinstance(long[k][0], str))
    long[first] = long[first] * 200
    features = task.encode([long], tokenizer)
    inputs = [ids for f in features for ids in (f["input_ids"] if task.grouped else [f["input_ids"]])]
    assert max(map(len, inputs)) <= tokenizer.model_max_length == 128


@pytest.mark.parametrize("column_is", ["gone", "a number"])
def test_a_broken_column_is_named(made: Any, column_is: str, tiny_backbone: Any) -> None:
    task, found, _ = made
    column = task.columns_to_encode(list(found[0]))[0]
    if column_is == "gone":
        gone = {column, *task.inputs().values()}
        broken = [{k: v for k, v in row.items() if k not in gone} | {"other": 1} for row in found]
        column = task.columns_to_encode(list(broken[0]))[0]
    else:
        broken = [row | {column: 7} for row in found]
    with pytest.raises(ValueError, match=f"'it'.*{column}"):
        encode_dataset(task, 0, datasets.Dataset.from_list(broken), prepared(tiny_backbone(fitting(task))), "train")
