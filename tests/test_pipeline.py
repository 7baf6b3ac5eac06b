"""MultiTaskPipeline: what may be asked, how, and that batches change no answer."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from tiny import ARCHITECTURES
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_mtl import (
    MultiTaskModel,
    MultiTaskPipeline,
    QuestionAnswering,
    Task,
    TextClassification,
    TokenClassification,
)
from hf_mtl.pipeline_batches import WindowTokenizer

LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4)
TEXTS = [
    "I lost my card in Paris yesterday, and nobody at the bank could tell me what to do about it.",
    "Hello",
    "what's the exchange rate?",
    "",
    "Hello",
    "Where is my money? Where is my money? Where is my money? Where is my money?",
]
PAIR = {"text": "A man sleeps.", "text_pair": "Nobody is awake."}
QUESTION = {"question": "Where was it lost?", "context": TEXTS[0]}


def all_tasks() -> list[Task]:
    return [
        TextClassification(name="topic", labels=("x", "y", "z")),
        TokenClassification(name="entities", labels=("O", "B-a", "I-a", "B-b", "I-b")),
        TokenClassification(name="pos", labels=("NOUN", "VERB", "X"), split="whitespace"),
        TextClassification(name="entails", labels=("yes", "no"), text_pair="text_pair"),
        QuestionAnswering(name="answer"),
    ]


def build(folder: str, adapters: Any = None, tasks: Any = None, **kwargs: Any) -> MultiTaskPipeline:
    """A pipeline whose tasks disagree: heads are sure of something, and adapters are not the identity."""
    model = MultiTaskModel.from_backbone(folder, tasks or all_tasks(), adapters=adapters)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or (name.startswith("heads") and parameter.ndim > 1):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return MultiTaskPipeline(model, device="cpu", **kwargs)


@pytest.fixture(scope="module")
def pipe(tiny_backbone: Any) -> MultiTaskPipeline:
    return build(tiny_backbone())


@pytest.fixture(scope="module")
def routed(tiny_backbone: Any) -> MultiTaskPipeline:
    return build(tiny_backbone(), LORA)


def assert_same(a: Any, b: Any) -> None:
    """Equal, scores up to rounding."""
    if isinstance(a, float):
        assert a == pytest.approx(b, abs=1e-5)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def count_rows(model: MultiTaskModel) -> list[int]:
    """The sizes of the batches that the backbone sees from now on."""
    seen: list[int] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(kwargs["input_ids"]))

    model.backbone.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


# ---------------------------------------------------------------------- what may be asked


def test_one_text_is_answered_by_the_tasks_that_a_text_is_enough_for(pipe: Any) -> None:
    answers = pipe(TEXTS[0])
    assert list(answers) == ["topic", "entities", "pos"]
    assert set(answers["topic"]) == {"label", "score"}
    assert set(answers["entities"][0]) == {"entity_group", "score", "word", "start", "end"}
    assert set(answers["pos"][0]) == {"entity", "score", "index", "word", "start", "end"}
    assert json.loads(json.dumps(answers)) == answers


def test_dicts_are_answered_by_the_tasks_that_find_their_inputs(pipe: Any) -> None:
    assert list(pipe(PAIR)) == ["topic", "entities", "pos", "entails"]
    answers = pipe(QUESTION)
    assert list(answers) == ["answer"]
    assert set(answers["answer"]) == {"score", "start", "end", "answer"}
    assert list(pipe({"tokens": ["I", "lost", "it"]})) == ["entities", "pos"]


def test_words_that_are_given_keep_their_number_and_places(pipe: Any) -> None:
    tags = pipe({"tokens": ["New York", "isn't", "far"]}, tasks=["pos"])["pos"]
    assert [(tag["word"], tag["start"], tag["end"]) for tag in tags] == [
        ("New York", 0, 8),
        ("isn't", 9, 14),
        ("far", 15, 18),
    ]


def test_a_list_may_mix_texts_and_dicts(pipe: Any) -> None:
    mixed = [TEXTS[0], QUESTION, PAIR, TEXTS[1]]
    assert_same(pipe(mixed), [pipe(example) for example in mixed])


@pytest.mark.parametrize(
    "many", [list, tuple, np.array, lambda texts: datasets.Dataset.from_dict({"text": texts})["text"]]
)
def test_sequences_give_lists(many: Any, pipe: Any) -> None:
    answers = pipe(many(TEXTS))
    assert isinstance(answers, list)
    assert_same(answers, [pipe(text) for text in TEXTS])


@pytest.mark.parametrize(
    "many",
    [
        iter,
        lambda texts: datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)}),
        lambda texts: KeyDataset(datasets.Dataset.from_dict({"words": texts}), "words"),
    ],
    ids=["generator", "dataset", "key dataset"],
)
def test_other_iterables_give_iterators(many: Any, pipe: Any) -> None:
    answers = pipe(many(TEXTS))
    assert isinstance(answers, Iterator)
    assert_same(list(answers), [pipe(text) for text in TEXTS])


def test_a_generator_is_read_no_further_than_a_window_ahead(pipe: Any) -> None:
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield "Hello"

    answers = pipe(endless(), batch_size=2, tasks=["topic"])
    assert not taken
    first = [next(answers) for _ in range(3)]
    assert first[0] == first[2]
    assert len(taken) == 64


def test_nothing_asked_is_nothing_answered(pipe: Any) -> None:
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []


def test_tasks_are_chosen_at_the_call_or_at_construction(pipe: Any) -> None:
    assert list(pipe("Hello", tasks=["pos", "topic"])) == ["pos", "topic"]
    assert list(pipe("Hello", tasks="topic")) == ["topic"]
    chosen = MultiTaskPipeline(pipe.model, device="cpu", tasks=["topic"])
    assert list(chosen("Hello")) == ["topic"]
    assert list(chosen("Hello", tasks=["pos"])) == ["pos"]


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
@pytest.mark.parametrize("which", ["pipe", "routed"])
def test_answers_do_not_hang_on_the_batch(which: str, batch_size: int, request: Any) -> None:
    pipe = request.getfixturevalue(which)
    inputs = [*TEXTS, PAIR, QUESTION]
    assert_same(pipe(inputs, batch_size=batch_size), [pipe(example) for example in inputs])


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "adapters"])
@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_every_architecture_answers_alone_as_in_a_batch(kind: str, adapters: Any, tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone(kind), adapters)
    inputs = [TEXTS[0], "Hello", "", QUESTION]
    assert_same(pipe(inputs), [pipe(example) for example in inputs])


def test_answers_are_those_of_the_model(pipe: Any) -> None:
    inputs = pipe.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        scores = pipe.model(**inputs, tasks=["topic"]).logits["topic"].softmax(-1)[0]
    answer = pipe(TEXTS[0])["topic"]
    assert answer["score"] == pytest.approx(float(scores.max()), abs=1e-5)
    assert answer["label"] == ("x", "y", "z")[int(scores.argmax())]


def test_without_adapters_the_backbone_runs_once_for_all_tasks(tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone())
    seen = count_rows(pipe.model)
    pipe(["I lost my card", "Hello", "Hello"])
    assert seen == [2]


def test_with_adapters_each_task_has_its_pass_and_they_share_batches(tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone(), LORA)
    seen = count_rows(pipe.model)
    pipe(["I lost my card", "Hello", "Hello"])
    assert seen == [6]


def test_batches_are_made_by_length(tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone(), tasks=all_tasks()[:1])
    widths = []
    pipe.model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    pipe(["a a a a a a", "b", "a a a a a b", "c"], batch_size=2)
    assert widths == [(2, 3), (2, 8)]


def test_an_inner_layer_is_read_where_rows_of_a_batch_differ_in_tasks(tiny_backbone: Any) -> None:
    tasks = [
        TextClassification(name="deep", labels=("x", "y"), layer=1),
        QuestionAnswering(name="answer"),
    ]
    pipe = build(tiny_backbone(), tasks=tasks)
    inputs = ["Hello", QUESTION, TEXTS[0]]
    assert_same(pipe(inputs), [pipe(example) for example in inputs])


def test_the_same_texts_are_tokenized_once(pipe: Any) -> None:
    tokenizer = WindowTokenizer(pipe.tokenizer)
    first = tokenizer(["Hello", "you"], truncation=True, max_length=8)
    assert tokenizer(["Hello", "you"], truncation=True, max_length=8) is first
    assert tokenizer(["Hello", "you"], truncation=True, max_length=3) is not first
    assert tokenizer(["Hello"], ["you"]).data == pipe.tokenizer(["Hello"], ["you"]).data
    assert tokenizer([["Hello"], ["you"]], is_split_into_words=True).data["input_ids"]
    assert (len(tokenizer), tokenizer.pad_token_id) == (len(pipe.tokenizer), pipe.tokenizer.pad_token_id)


def test_a_model_in_training_answers_without_dropout_and_goes_on_training(tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone())
    expected = pipe(TEXTS)
    pipe.model.train()
    assert_same(pipe(TEXTS), expected)
    assert pipe.model.training
    assert pipe.model.heads["topic"].training


def test_bfloat16_answers_are_plain_numbers(tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone(), LORA)
    pipe.model.to(torch.bfloat16)
    assert json.loads(json.dumps(pipe([TEXTS[0], QUESTION])))


# ---------------------------------------------------------------------- strange input

STRANGE = {
    "nothing": "",
    "blank": " \n\t ",
    "digits": "3.14",
    "emoji": "I 💚 Paris 👨‍👩‍👧 and 🏳️‍🌈!",
    "NUL": "a\x00b \x00",
    "half surrogates": "card \ud800 in \udfff Paris",
    "many scripts": "Ⅷ ﬁn straße 한국 中文字 e\u0301",
}


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "gpt2"])
@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_places_are_those_in_the_text_that_was_given(text: str, kind: str, tiny_backbone: Any) -> None:
    pipe = build(tiny_backbone(kind))
    answers = pipe(text)
    assert set(answers) == {"topic", "entities", "pos"}
    for tag in answers["entities"] + answers["pos"]:
        assert tag["word"] == text[tag["start"] : tag["end"]]
    assert [tag["word"] for tag in answers["pos"]] == text.split()
    asked = pipe({"question": "Where?", "context": text})["answer"]
    # An answer can be written down: half surrogates, which no encoding knows, become U+FFFD in it, one to one.
    assert asked["answer"] == re.sub("[\ud800-\udfff]", "\ufffd", text[asked["start"] : asked["end"]])


def test_a_hundred_thousand_characters_are_answered_beside_a_short_text(pipe: Any) -> None:
    text = ("Paris is far away. " * 5264)[:100_000]
    long, short = pipe([text, "Hello"])
    assert len(long["pos"]) == len(text.split())
    assert long["pos"][-1]["end"] == len(text.rstrip())
    assert_same(short, pipe("Hello"))
    assert pipe({"question": "Where?", "context": text})["answer"]["end"] <= 100_000


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, r"Task 'topic': 'text' must be a string, got NoneType None"),
        (3, r"Task 'topic': 'text' must be a string, got int 3"),
        (b"Hello", r"Task 'topic': 'text' must be a string, got bytes"),
        (["Hello", None], r"inputs\[1\]: Task 'topic': 'text' must be a string, got NoneType None"),
        ([QUESTION, {"question": 1, "context": "a"}], r"inputs\[1\]: Task 'answer': 'question' must be"),
        ([QUESTION, QUESTION | {"question": " "}], r"inputs\[1\]: Task 'answer': .*'question' is empty"),
        (["Hello", {"txt": "Hello"}], r"inputs\[1\]: No task .* has \['txt'\]: 'topic' needs \['text'\]"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_with_its_place(inputs: Any, message: str, pipe: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(inputs)


def test_wrong_input_of_a_generator_is_named_with_its_place(pipe: Any) -> None:
    answers = pipe((text for text in ["Hello"] * 40 + [None]), batch_size=1, tasks=["topic"])
    with pytest.raises(ValueError, match=r"inputs\[40\]: Task 'topic'"):
        list(answers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["topik"]}, r"no task 'topik'. Known: .* Did you mean 'topic'"),
        ({"tasks": []}, "asks nothing"),
        ({"task": ["topic"]}, r"no parameter 'task'.* Did you mean 'tasks'"),
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"tasks": ["answer"]}, r"Task 'answer' needs \['question', 'context'\]"),
    ],
)  # fmt: skip
def test_wrong_parameters_say_what_to_do(options: Any, message: str, pipe: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pipe("Hello", **options)


@pytest.mark.parametrize(("options"), [{"tasks": ["topik"]}, {"batch_size": -1}, {"task_names": ["topic"]}])
def test_wrong_parameters_are_refused_at_construction(options: Any, pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"topik|batch_size|task_names"):
        MultiTaskPipeline(pipe.model, device="cpu", **options)


def test_a_model_without_a_tokenizer_asks_for_one(tiny_backbone: Any) -> None:
    model = build(tiny_backbone()).model
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        MultiTaskPipeline(model, device="cpu")
    assert MultiTaskPipeline(model, tokenizer=tiny_backbone(), device="cpu")("Hello")
    assert model.tokenizer is not None


def test_a_plain_model_is_refused(tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match="answers by a MultiTaskModel, got BertModel, which has no tasks"):
        pipeline("multitask-nlp", model=AutoModel.from_pretrained(tiny_backbone()), device="cpu")


# ---------------------------------------------------------------------- transformers' own function


def test_transformers_makes_it_of_a_folder_and_of_a_model(pipe: Any, tmp_path: Any) -> None:
    pipe.save_pretrained(tmp_path)
    expected = pipe(TEXTS)
    loaded = pipeline("multitask-nlp", model=str(tmp_path), device="cpu", batch_size=4)
    assert type(loaded) is MultiTaskPipeline
    assert_same(loaded(TEXTS), expected)
    of_object = pipeline("multitask-nlp", model=pipe.model, device="cpu", tasks=["topic"])
    assert_same(of_object("Hello"), {"topic": pipe("Hello")["topic"]})


@pytest.mark.parametrize(
    ("first", "options"),
    [
        ("", "trust_remote_code=True"),
        ("from hf_mtl.pipeline import MultiTaskPipeline", ""),
    ],
)
def test_a_new_process_answers_the_same(first: str, options: str, routed: Any, tmp_path: Any) -> None:
    routed.save_pretrained(tmp_path / "m")
    script = (
        f"import sys, json\n{first}\nfrom transformers import pipeline\n"
        f"pipe = pipeline('multitask-nlp', model=sys.argv[1], device='cpu', {options})\n"
        "print(json.dumps([type(pipe).__module__, pipe(['I lost my card in Paris', 'Hello'])]))\n"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    module, answers = json.loads(done.stdout.splitlines()[-1])
    assert module == "hf_mtl.pipeline"
    assert_same(answers, routed(["I lost my card in Paris", "Hello"]))
