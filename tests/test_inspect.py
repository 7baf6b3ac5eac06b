"""What `hf-mtl inspect` says of a recipe's data, counted again by hand."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median_low
from typing import Any

import datasets
import pytest
from recipe_files import recipe_values, some_rows, write_jsonl, write_recipe
from transformers import AutoTokenizer

from hf_mtl.cli import main
from hf_mtl.recipe import Recipe
from hf_mtl.recipe.inspection import inspect_recipe

Values = dict[str, Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def backbone(tiny_backbone: Callable[[], str], tmp_path: Path) -> str:
    """A backbone's folder without its weights."""
    folder = tmp_path / "backbone"
    folder.mkdir()
    for file in Path(tiny_backbone()).iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return str(folder)


@pytest.fixture
def values(tmp_path: Path, backbone: str) -> Values:
    return recipe_values(tmp_path, backbone)


@pytest.fixture
def inspect(tmp_path: Path) -> Callable[..., Any]:
    return lambda values, rows=3: inspect_recipe(Recipe.load(write_recipe(tmp_path, values)), rows)


def test_rows_labels_and_lengths_are_those_of_the_data(values: Values, inspect: Any, backbone: str) -> None:
    found = inspect(values)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    assert {name: report.type for name, report in found.items()} == {
        "intent": "text-classification",
        "pos": "token-classification",
        "answer": "question-answering",
    }
    for split in ("train", "validation", "test"):
        intent, pos, answer = (found[name].splits[split] for name in ("intent", "pos", "answer"))
        rows = some_rows("intent", split)
        assert intent.rows == pos.rows == answer.rows == 8
        assert intent.labels == Counter(row["label"] for row in rows)
        assert list(intent.labels.values()) == sorted(intent.labels.values(), reverse=True)
        assert pos.labels == Counter(tag for row in some_rows("pos", split) for tag in row["tags"])
        assert answer.labels == {} and answer.unknown is None
        sizes = [len(tokenizer(row["text"])["input_ids"]) for row in rows]
        lengths = intent.lengths
        assert (lengths.median, lengths.longest, lengths.limit) == (median_low(sizes), max(sizes), 128)
        assert lengths.median <= lengths.p95 <= lengths.longest and lengths.cut == lengths.windowed == 0


def test_rows_that_are_cut_or_read_in_windows_are_counted(values: Values, inspect: Any, backbone: str) -> None:
    for task in ("intent", "pos"):
        values["tasks"][task]["max_length"] = 12
    found = inspect(values)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    intent, pos, answer = (found[name].splits["train"].lengths for name in ("intent", "pos", "answer"))
    long = sum(len(tokenizer(row["text"])["input_ids"]) > 12 for row in some_rows("intent", "train"))
    assert 0 < intent.cut == long / 8 and intent.windowed == 0 and intent.limit == 12
    long = sum(len(tokenizer(" ".join(row["tokens"]))["input_ids"]) > 12 for row in some_rows("pos", "train"))
    assert 0 < pos.windowed == long / 8 and pos.cut == 0
    pairs = [(row["question"], row["context"]) for row in some_rows("answer", "train")]
    sizes = [len(tokenizer(*pair)["input_ids"]) for pair in pairs]
    assert answer.longest == max(sizes) and answer.windowed == sum(size > 64 for size in sizes) / 8


def test_labels_that_no_training_row_has_and_missing_ones_are_counted(
    values: Values, inspect: Any, tmp_path: Path
) -> None:
    rows = some_rows("intent", "test", 4)
    write_jsonl(
        tmp_path / "intent" / "test.jsonl", [{**rows[0], "label": "new"}, {**rows[1], "label": None}, *rows[2:]]
    )
    tagged = some_rows("pos", "validation", 3)
    tagged[2]["tags"][0] = "NEW"
    write_jsonl(tmp_path / "pos" / "validation.jsonl", tagged[2:])
    found = inspect(values)
    test = found["intent"].splits["test"]
    assert (test.rows, test.unlabelled, test.unknown, test.labels["new"]) == (4, 1, 1, 1)
    assert found["pos"].splits["validation"].unknown == 1
    assert found["intent"].splits["train"].unknown is None and found["intent"].splits["validation"].unknown == 0


def test_published_test_rows_without_labels_are_counted_as_such(values: Values, inspect: Any, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["b", "a"])
    for split, labels in (("train", [0, 1, 1]), ("test", [-1, -1])):
        rows = datasets.Dataset.from_dict({"text": ["x"] * len(labels), "label": labels}).cast_column("label", names)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    values["tasks"] = {
        "intent": {"type": "text-classification", "data": {"train": "train.parquet", "test": "test.parquet"}}
    }
    report = inspect(values)["intent"]
    assert report.splits["train"].labels == {"a": 2, "b": 1}
    assert (report.splits["test"].labels, report.splits["test"].unlabelled) == ({}, 2)
    assert sorted(example.gold for example in report.examples) == ["a", "a", "b"]


def test_examples_show_the_row_its_subwords_and_its_gold_answer(values: Values, inspect: Any, backbone: str) -> None:
    found = inspect(values, 2)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    assert [len(report.examples) for report in found.values()] == [2, 2, 2]
    rows = some_rows("intent", "train")
    for example in found["intent"].examples:
        assert example.row in rows and example.gold == example.row["label"]
        ids = tokenizer(example.row["text"])["input_ids"]
        assert example.subwords == [[tokenizer.decode([i]) for i in ids]]
    for example in found["answer"].examples:
        assert example.gold == list(dict.fromkeys(example.row["answers"]["text"]))
        assert all(window[0] == "<s>" and len(window) <= 64 for window in example.subwords)


def test_a_row_that_cannot_be_used_is_named(values: Values, inspect: Any, tmp_path: Path) -> None:
    rows = some_rows("answer", "train")
    rows[2]["question"] = " "
    write_jsonl(tmp_path / "answer" / "train.jsonl", rows)
    with pytest.raises(ValueError, match=r"Split 'train', row 2: Task 'answer': column 'question' is empty"):
        inspect(values)


# ---------------------------------------------------------------------- the command


def test_the_command_prints_it_all(values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"text {i} é", "label": f"l{i % 13}"} for i in range(26)]
    write_jsonl(tmp_path / "intent" / "train.jsonl", rows)
    recipe = write_recipe(tmp_path, values)
    assert main(["inspect", "--tasks.pos.max_length", "12", str(recipe), "--rows", "1"]) == 0
    printed = capsys.readouterr().out
    assert "intent (text-classification)\n  train: 26 rows\n    subwords: median" in printed
    assert "    labels (13): l0 2, l1 2, l10 2, l11 2, " in printed and ", and 3 more\n" in printed
    assert "    8 rows with a label that no training row has: " in printed
    assert "of at most 12: 0.0% cut, " in printed and "% in windows" in printed
    assert printed.count("  example 1: {") == 3 and "example 2" not in printed
    assert '{"text": "text' in printed and "é" in printed and ": <s>|" in printed and '    gold: "l' in printed


def test_the_command_names_new_labels_and_columns_that_are_there_and_not_read(
    values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"text": "a", "text_pair": "b", "label": f"l{i % 2}"} for i in range(4)]
    write_jsonl(tmp_path / "intent" / "train.jsonl", pairs)
    write_jsonl(tmp_path / "intent" / "validation.jsonl", [pairs[0], pairs[0] | {"label": "new"}])
    assert main(["inspect", str(write_recipe(tmp_path, values))]) == 0
    printed = capsys.readouterr().out
    assert "    1 row with a label that no training row has: new\n" in printed
    assert "  the column 'text_pair' is not read; text_pair: text_pair in the task reads it\n" in printed
    values["tasks"]["intent"]["text_pair"] = "text_pair"
    del values["tasks"]["intent"]["data"]["test"]
    assert main(["inspect", str(write_recipe(tmp_path, values))]) == 0
    assert "is not read" not in capsys.readouterr().out


def test_the_command_says_what_is_wrong_in_one_line(
    values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pos" / "train.jsonl").unlink()
    assert main(["inspect", str(write_recipe(tmp_path, values))]) == 2
    assert "error: Task 'pos', split 'train': no such file" in capsys.readouterr().err.splitlines()[-1]


# ---------------------------------------------------------------------- texts that are written, and lemmas


def test_targets_are_measured_and_shown_as_the_model_learns_them(
    values: Values, inspect: Any, tiny_backbone: Callable[[str], str], tmp_path: Path, capsys: Any
) -> None:
    rows = [{"text": row["text"], "target": row["text"][::-1]} for row in some_rows("intent", "train")]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    task = {"type": "translation", "prefix": "turn: ", "max_target_length": 9, "data": {"train": "pairs.jsonl"}}
    values |= {"backbone": tiny_backbone("t5"), "tasks": {"turned": task}}
    report = inspect(values)["turned"]
    tokenizer = AutoTokenizer.from_pretrained(values["backbone"])
    sizes = [len(tokenizer(text_target=row["target"])["input_ids"]) for row in rows]
    found = report.splits["train"]
    assert (found.targets.median, found.targets.longest, found.targets.limit) == (median_low(sizes), max(sizes), 9)
    assert found.targets.cut == sum(size > 9 for size in sizes) / 8 > 0 and found.targets.windowed == 0
    assert found.labels == {} and found.lengths.longest == max(
        len(tokenizer("turn: " + row["text"])["input_ids"]) for row in rows
    )
    for example in report.examples:
        ids = tokenizer(text_target=example.row["target"], truncation=True, max_length=9)["input_ids"]
        assert example.targets == [[tokenizer.decode([i]) for i in ids]] and example.gold == example.row["target"]
    assert main(["inspect", str(tmp_path / "recipe.yaml"), "--rows", "1"]) == 0
    printed = capsys.readouterr().out
    assert "    targets: median " in printed and "of at most 9: " in printed and "    target subwords: <s>|" in printed


@pytest.mark.parametrize("prompted", [True, False])
def test_a_decoder_s_text_is_measured_with_its_prompt(
    prompted: bool, values: Values, inspect: Any, tiny_backbone: Callable[[str], str], tmp_path: Path
) -> None:
    rows = [{"text": row["text"]} | ({"prompt": "Say: "} if prompted else {}) for row in some_rows("intent", "train")]
    write_jsonl(tmp_path / "texts.jsonl", rows)
    task = {"type": "text-generation", "max_length": 16, "data": {"train": "texts.jsonl"}}
    values |= {"backbone": tiny_backbone("gpt2"), "tasks": {"written": task}}
    report = inspect(values)["written"]
    tokenizer = AutoTokenizer.from_pretrained(values["backbone"])
    before = len(tokenizer("Say: ")["input_ids"]) if prompted else 0
    sizes = [before + len(tokenizer(row["text"])["input_ids"]) + 1 for row in rows]
    found = report.splits["train"]
    assert found.lengths.longest == max(sizes) and found.targets is None
    long = sum(size > 16 for size in sizes) / 8
    assert (found.lengths.cut, found.lengths.windowed) == ((long, 0) if prompted else (0, long)) and long > 0
    assert all(len(e.subwords[0]) - len(e.targets[0]) == before for e in report.examples)


def test_all_texts_that_are_compared_are_measured(values: Values, inspect: Any, tmp_path: Path) -> None:
    rows = [{"text": "a card", "positive": row["text"]} for row in some_rows("intent", "train")]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    values["tasks"] = {"near": {"type": "sentence-embedding", "max_length": 12, "data": {"train": "pairs.jsonl"}}}
    report = inspect(values)["near"]
    tokenizer = AutoTokenizer.from_pretrained(values["backbone"])
    sizes = [len(tokenizer(row["positive"])["input_ids"]) for row in rows]
    lengths = report.splits["train"].lengths
    assert (lengths.longest, lengths.cut) == (max(sizes), sum(size > 12 for size in sizes) / 8)
    assert lengths.cut > 0 and all(len(example.subwords) == 2 for example in report.examples)


def test_lemmas_are_no_labels(values: Values, inspect: Any, tmp_path: Path) -> None:
    rows = [{"tokens": ["Cats", "sang"], "lemmas": ["cat", "sing"]}, {"tokens": ["Dogs"], "lemmas": ["dog"]}]
    write_jsonl(tmp_path / "lemmas.jsonl", rows)
    data = {"train": "lemmas.jsonl", "test": "lemmas.jsonl"}
    values["tasks"] = {"lemma": {"type": "lemmatization", "data": data}}
    report = inspect(values)["lemma"]
    assert all((found.labels, found.unknown) == ({}, None) for found in report.splits.values())
    assert sorted(example.gold for example in report.examples) == [["cat", "sing"], ["dog"]]


def test_a_task_that_the_backbone_cannot_have_is_named(values: Values, inspect: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{"text": "x", "target": "y"}])
    values["tasks"] = {"turned": {"type": "translation", "data": {"train": "pairs.jsonl"}}}
    with pytest.raises(ValueError, match=r"'turned' \(translation\) needs an encoder-decoder"):
        inspect(values)
