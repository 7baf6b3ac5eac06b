"""What language tasks read of a row, without a model."""

import sys
from typing import Any

import datasets
import pytest
from tiny import make_tokenizer as bare_tokenizer
from tokenizers import processors

from hf_mtl import (
    FillMask,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    Summarization,
    Text2TextGeneration,
    TextClassification,
    TextGeneration,
    Translation,
)
from hf_mtl.data import MultiTaskCollator, encode_dataset


def make_tokenizer(family: str) -> Any:
    tokenizer = bare_tokenizer(family)
    tokenizer.model_max_length = 512
    return tokenizer


def hidden(tokenizer: Any, text: str, **fields: Any) -> list[list[str]]:
    """The tokens of a text, those that are hidden together in a list."""
    (feature,) = FillMask(name="it", **fields).encode([{"text": text}], tokenizer)
    found: dict[int, list[str]] = {}
    for token, word in feature["labels"]:
        found.setdefault(word, []).append(tokenizer.convert_ids_to_tokens(token))
    return list(found.values())


def test_words_are_hidden_whole() -> None:
    words = hidden(make_tokenizer("bytes"), "I lost my xylophone")
    assert ["".join(word) for word in words] == ["I", "Ġlost", "Ġmy", "Ġxylophone"] and len(words[3]) > 1


@pytest.mark.parametrize("text", ["我昨天在巴黎丢了我的卡", "ฉันทำบัตรหาย", "昨日カードをなくした"])
@pytest.mark.parametrize("family", ["bytes", "unigram", "wordpiece"])
def test_writing_without_spaces_is_not_hidden_whole(family: str, text: str) -> None:
    tokenizer = make_tokenizer(family)
    parts = hidden(tokenizer, text)
    if family == "bytes":  # a character of several bytes is hidden whole
        assert len(parts) == len(text) and max(map(len, parts)) == 3
    assert max(map(len, parts)) <= 3


def test_long_words_are_hidden_in_parts_and_their_neighbours_whole() -> None:
    text = "I lost https://example.org/qqxxzzqqxxzz"
    words = hidden(make_tokenizer("unigram"), text)
    assert words[:2] == [["▁I"], ["▁lost"]] and all(len(word) == 1 for word in words[2:]) and len(words) > 10


def test_special_tokens_that_somebody_wrote_are_not_asked_for() -> None:
    tokenizer = make_tokenizer("bytes")
    (feature,) = FillMask(name="it").encode([{"text": "a <mask> b <s> c"}], tokenizer)
    asked = [token for token, _ in feature["labels"]]
    assert "".join(tokenizer.convert_ids_to_tokens(asked)).replace("Ġ", "") == "abc"
    assert [feature["input_ids"][place] for place in feature["positions"]] == asked
    (unknown,) = FillMask(name="it").encode([{"text": "a ☃"}], make_tokenizer("wordpiece"))
    assert len(unknown["labels"]) == 2


def test_of_a_long_prompt_the_end_is_read_behind_what_begins_every_text() -> None:
    tokenizer = make_tokenizer("bytes-bare")
    tokenizer.bos_token = "<s>"
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
    )
    task = TextGeneration(name="it", max_length=16)
    short, long = task.encode([{"prompt": "I lost"}, {"prompt": "a " * 50 + "my card"}], tokenizer)
    assert short["input_ids"] == tokenizer("I lost")["input_ids"]
    assert long["input_ids"] == [begin, *tokenizer("a " * 50 + "my card")["input_ids"][-15:]]


@pytest.mark.parametrize("first", [0, 1])
def test_rows_with_types_and_rows_without_are_a_batch_in_any_order(first: int) -> None:
    tokenizer = make_tokenizer("unigram-bare")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # what transformers has by default
    tasks = [TextGeneration(name="gen"), TextClassification(name="cls", labels=("a", "b"))]
    row = {"text": "I lost my card", "label": "a"}
    parts = [encode_dataset(task, i, [row], tokenizer, "train") for i, task in enumerate(tasks)]
    items = [parts[first][0], parts[1 - first][0]]
    assert ["token_type_ids" in item for item in items] == [first == 1, first == 0]
    batch = MultiTaskCollator(tokenizer, tasks)(items)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape and not batch["token_type_ids"].any()


def test_one_column_cannot_be_both_of_a_tasks_columns() -> None:
    with pytest.raises(ValueError, match="'it': masked_text must be another column than text, got 'text'"):
        FillMask(name="it", masked_text="text")
    with pytest.raises(ValueError, match="'it': prompt must be another column than text, got 'answer'"):
        TextGeneration(name="it", text="answer", prompt="answer")


def test_a_prompt_column_that_is_named_must_be_there() -> None:
    tokenizer, task = make_tokenizer("bytes-bare"), TextGeneration(name="it", prompt="question")
    data = datasets.Dataset.from_list([{"questoin": "x", "text": "I lost"}])
    with pytest.raises(ValueError, match=r"'it'.*no column 'question'.*'questoin'"):
        encode_dataset(task, 0, data, tokenizer, "train")
    with pytest.raises(ValueError, match="no column 'question'"):
        TextGeneration.from_dataset("it", data, prompt="question")
    assert TextGeneration.from_dataset("it", data) == TextGeneration(name="it")
    answered = encode_dataset(task, 0, datasets.Dataset.from_list([{"question": "x"}]), tokenizer, "test")
    assert not answered.labelled


@pytest.mark.parametrize(
    ("task", "library"),
    [
        (Translation(name="it"), "sacrebleu"),
        (Text2TextGeneration(name="it"), "sacrebleu"),
        (Summarization(name="it"), "rouge_score"),
    ],
)
def test_what_a_score_needs_is_asked_for_before_training(
    task: Any, library: str, tiny_backbone: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as where it is not installed
    model = MultiTaskModel.from_backbone(tiny_backbone("t5"), [task])
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    labelled = {"it": [{"text": "a", "target": "b"}]}
    with pytest.raises(ImportError, match=rf"need {library.replace('_', '-')}.*hf_mtl\[generation\]"):
        MultiTaskTrainer(model, args, train_dataset=labelled, eval_dataset=labelled)
    MultiTaskTrainer(model, args, train_dataset=labelled)  # is not scored
    MultiTaskTrainer(model, args, eval_dataset={"it": [{"text": "a"}]})  # nothing to score


def test_targets_that_are_cut_are_said_before_training(tiny_backbone: Any, tmp_path: Any, caplog: Any) -> None:
    rows = [{"text": "a", "target": "one two three four five six seven eight nine"}] * 4
    for longest, warned in ((4, True), (64, False)):
        caplog.clear()
        model = MultiTaskModel.from_backbone(tiny_backbone("t5"), [Translation(name="it", max_target_length=longest)])
        args = MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        MultiTaskTrainer(model, args, train_dataset={"it": rows})
        assert ("Task 'it': 100 % of its training targets fill max_target_length=4" in caplog.text) == warned
