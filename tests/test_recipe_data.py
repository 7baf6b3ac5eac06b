"""The data of a recipe: every format's rows, what is done to them, and what is said of broken ones."""

import csv
import gzip
import json
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest
from recipe_files import write_jsonl
from tiny import RECIPE_DATA, read_jsonl

from hf_mtl.recipe import TaskData
from hf_mtl.recipe.readers.uneven import uneven_columns
from hf_mtl.tasks import MultiLabelClassification, TextClassification, TokenClassification

TREES = read_jsonl(Path(__file__).parent / "data" / "trees.jsonl")
POS = read_jsonl(RECIPE_DATA / "pos" / "train.jsonl", 30)
Load = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """What stands under `data:` (and the task) -> split -> rows."""
    return lambda values, task="t": TaskData.from_dict(task, values, tmp_path).load()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def to(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
        return path

    return to


def numbered(number: int) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(number)]


# ---------------------------------------------------------------------- formats


def conll(rows: list[dict[str, Any]], between: str = "\t") -> str:
    sentences = ["".join(f"{w}{between}{t}\n" for w, t in zip(r["tokens"], r["tags"], strict=True)) for r in rows]
    return "\n".join(sentences)


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.iob", "a.iob2", "a.CONLL", "a.conll.gz"])
@pytest.mark.parametrize("between", ["\t", " ", "   "])
def test_conll_columns_are_read_as_they_were_written(name: str, between: str, load: Load, write: Any) -> None:
    rows = [row for row in POS if all(" " not in word for word in row["tokens"])]
    write(name, conll(rows, between))
    assert load({"train": name})["train"].to_list() == [{"tokens": r["tokens"], "tags": r["tags"]} for r in rows]


def test_conll_leaves_out_documents_comments_and_columns_that_are_not_wanted(load: Load, write: Any) -> None:
    text = "\ufeff# id 1\n-DOCSTART- -X- -X- O\n\n\nEU NNP B-NP B-ORG\r\n"
    text += "# NN O O\n# a comment\n\u3000 X O O\n\n \t\na b c d"
    write("a.conll", text)
    both = load({"train": "a.conll"})["train"].to_list()
    assert both == [{"tokens": ["EU", "#", "\u3000"], "tags": ["B-ORG", "O", "O"]}, {"tokens": ["a"], "tags": ["d"]}]
    named = load({"train": "a.conll", "columns": ["tokens", "pos", None, "tags"]})["train"]
    assert named.column_names == ["tokens", "pos", "tags"] and named[0]["pos"] == ["NNP", "NN", "X"]
    mapped = load({"train": "a.conll", "columns": {"words": "tokens"}})["train"]
    assert mapped[1] == {"words": ["a"], "tags": ["d"]}
    write("words.conll", "one\ntwo words\n")
    write("tabs.conll", "New York\tB\n\t\n")
    with pytest.raises(ValueError, match=r"line 2: expected 1 column parted by white space, as `columns` names"):
        load({"train": "words.conll", "columns": ["tokens"]})


def conllu(row: dict[str, Any], comments: str = "") -> str:
    columns = (row[key] for key in ("tokens", "lemmas", "upos", "xpos", "feats", "heads", "deprels"))
    lines = ("\t".join([str(i), *map(str, word), "_", "_"]) for i, word in enumerate(zip(*columns, strict=True), 1))
    return comments + "\n".join(lines) + "\n"


def test_conllu_gives_words_trees_text_and_id(load: Load, write: Any) -> None:
    write("a.conllu", "\n".join(conllu(row, f"# sent_id = s{i}\n# text = t {i}\n") for i, row in enumerate(TREES)))
    rows = load({"train": "a.conllu"})["train"]
    assert rows.features["heads"] == datasets.List(datasets.Value("int32"))
    for i, (row, tree) in enumerate(zip(rows, TREES, strict=True)):
        assert row == {key: tree[key] for key in row.keys() & tree.keys() - {"text", "id"}} | {
            "text": f"t {i}",
            "id": f"s{i}",
        }


WORD = "{}\tw\tl\tNOUN\t_\t_\t{}\tdep\t_\t_\n"
RANGE = "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
EMPTY = "1.1\tw\t_\t_\t_\t_\t_\t_\t0:root\t_\n"


def test_conllu_leaves_out_multiword_tokens_and_empty_nodes(load: Load, write: Any) -> None:
    write("a.conllu", "# newdoc\n\n" + RANGE + WORD.format(1, 0) + EMPTY + WORD.format(2, "_"))
    (row,) = load({"train": "a.conllu"})["train"]
    assert (row["tokens"], row["heads"], row["text"], row["id"]) == (["w", "w"], [0, None], "w w", "1")


def squad(rows: list[dict[str, Any]], **more: Any) -> str:
    answers = [[{"text": t, "answer_start": s} for t, s in zip(*r["answers"].values(), strict=True)] for r in rows]
    paragraphs = [
        {"context": r["context"], "qas": [{"id": r["id"], "question": r["question"], "answers": a}]}
        for r, a in zip(rows, answers, strict=True)
    ]
    articles = [{"title": "A", "paragraphs": paragraphs[:2]}, {"paragraphs": paragraphs[2:], "title": "B"}]
    return json.dumps({"version": "1.1"} | more | {"data": articles, "end": [1]}, indent=1)


def test_squads_json_is_known_by_its_shape(load: Load, write: Any) -> None:
    rows = [{**row, "id": str(i)} for i, row in enumerate(read_jsonl(RECIPE_DATA / "answer" / "test.jsonl", 5))]
    rows = [row | {"answers": {k: row["answers"][k] for k in ("text", "answer_start")}} for row in rows]
    write("a.json", squad(rows))
    write("b.json", squad(rows).replace('"answers": [', '"is_impossible": true, "answers": ['))
    write("rows.json", json.dumps([{"text": "a"}]))
    found = load({"train": ["a.json", "a.json"], "validation": "b.json", "test": "rows.json"})
    keys = ("id", "context", "question", "answers")
    assert [{k: r[k] for k in keys} for r in found["train"]] == [{k: r[k] for k in keys} for r in rows] * 2
    assert found["train"]["title"][:5] == ["A", "A", "B", "B", "B"]
    assert [r["answers"] for r in found["validation"]] == [{"text": [], "answer_start": []}] * 5
    assert found["test"].to_list() == [{"text": "a"}]


def test_plain_text_is_a_row_a_line(load: Load, write: Any) -> None:
    write("a.txt", " one\r\n\n \ntwo\u2028three")
    assert load({"train": "a.txt"})["train"].to_list() == [{"text": " one"}, {"text": "two\u2028three"}]


QUESTION = {"question": "q", "answers": []}


def article(**question: Any) -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [question]}]}]})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.conll", "a O\nb\n", r"split 'train': .*a\.conll, line 2: expected 2 columns parted by white space, as in "),
        ("a.conll", "a\tO\nb c O\n", r"line 2: expected 2 columns parted by tabs, .* got 'b c O'"),
        ("a.conll", "a\tO\n\tO\n", r"line 2: expected 2 columns .* and none of them empty"),
        ("a.conll", "a\nb\n", r"line 1: expected a word and its tag.*columns: \[tokens\]"),
        ("a.conllu", WORD.format(1, 0) + WORD.format(3, 1), r"a\.conllu, line 2: expected word 2, got '3"),
        ("a.conllu", WORD.format(1, 0) + WORD.format(1, 0), r"line 2: expected word 2 \(or a blank line before"),
        ("a.conllu", WORD.format(1, 2), r"line 1: expected in column 7 a head from 0 to 1, or _, got '2'"),
        ("a.conllu", "1 w l NOUN _ _ 0 dep _ _\n", r"line 1: expected 10 columns parted by tabs"),
        ("a.conllu", RANGE + WORD.format(1, 0), r"line 2: expected word 2, since a multiword token .* up to word 2"),
        ("a.conllu", WORD.format(1, 0) + RANGE, r"line 2: expected a multiword token from 2 on"),
        ("a.conllu", EMPTY + WORD.format(1, 0), r"line 1: expected word 1 or the empty node 0\.1"),
        ("a.json", article(question="q"), r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: expected 'answers' with a list, got"),
        ("a.json", article(answers=[]), r"qas\[0\]: expected 'question' with text, got an object with \['answers'\]"),
        ("a.json", article(question="q", answers=[{"text": "a", "answer_start": "1"}]), r"answers\[0\]: .* got '1'"),
        ("a.json", article(**QUESTION)[:-1] + ",\n", r"line 2, column 1: expected JSON"),
        ("a.txt", b"one\n\xff\n", r"a\.txt, line 2: expected text in UTF-8, got '\xff'"),
        ("a.csv", b"text,label\nok,1\ncaf\xe9,2\n", r"a\.csv, line 3: expected text in UTF-8, got 'caf\xe9,2'"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9"}\n', r"a\.jsonl, line 2: expected text in UTF-8, .*`iconv"),
        ("a.txt.gz", b"one\n", r"a\.txt\.gz cannot be read: Not a gzipped file"),
        ("a.txt", " \n", r"split 'train': no rows in .*a\.txt"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_line(
    name: str, text: str | bytes, message: str, load: Load, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load({"train": name})


UNEVEN = [
    (["text,label\na,1\n", "text,label\nb,none\n"], ".csv",
     r"column 'label' holds a whole number in .*0\.csv, line 2 and text in .*1\.csv, line 2\. Make it one kind\."),
    (["text\tlabel\na\tb\n", 'text\tlabel\tmore\n"b\tc\td\n'], ".tsv",
     r"1\.tsv, line 2 has the column 'more', and rows before it have none\. Give it .* \[\{train: ONE"),
    (['{"score": 1}\n', '\n{"score": 2}\n{"score": 0.5}\n'], ".jsonl",
     r"column 'score' holds a whole number in .*0\.jsonl, line 1 and a fraction in .*1\.jsonl, line 3\."),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "kind", "message"), UNEVEN)
def test_a_column_that_changes_or_comes_later_is_named_with_its_line(
    texts: list[str], kind: str, message: str, write: Any
) -> None:
    files = [write(f"{i}{kind}", text) for i, text in enumerate(texts)]
    assert re.search(message, next(uneven_columns(files, kind)))


def test_files_whose_columns_differ_are_refused_by_the_line_where_they_begin_to(load: Load, write: Any) -> None:
    write("a.jsonl", '{"text": "a", "label": 1}\n')
    write("b.jsonl", '{"text": "b", "label": "c"}\n')
    with pytest.raises(
        ValueError, match=r"split 'train': column 'label' holds a whole number in .* and text in .*b\.j"
    ):
        load({"train": ["a.jsonl", "b.jsonl"]})


def test_of_tables_the_columns_are_blamed_before_texts_that_look_like_numbers(write: Any) -> None:
    one, other = write("a.csv", "text,n\n2020,1\n"), write("b.csv", "text,other\nwords,x\n")
    assert "line 2 has the column 'other', and rows before it have none" in next(uneven_columns([one, other], ".csv"))


def test_the_column_that_changes_last_is_the_first_to_be_blamed(write: Any) -> None:
    table = "text,n\n2020,1\nwords,2\n" + "more,3\n" * 5 + "more,unk\n"
    assert next(uneven_columns([write("a.csv", table)], ".csv")).startswith("column 'n' holds")


def test_a_cell_too_long_to_look_at_does_not_hide_the_fault(load: Load, write: Any) -> None:
    write("a.csv", "text,n\na,1\n")
    write("b.csv", f"text,other\n{'x' * 200_000},1\n")
    with pytest.raises(ValueError, match=r"Task 't', split 'train': .*cannot be read"):
        load({"train": ["a.csv", "b.csv"]})


def test_a_file_is_read_again_only_when_it_changed(load: Load, write: Any) -> None:
    write("a.conll", "a O\n")
    one, again = (load({"train": "a.conll"})["train"] for _ in range(2))
    assert one.cache_files == again.cache_files and one._fingerprint == again._fingerprint
    write("a.conll", "b O\n")
    changed = load({"train": "a.conll"})["train"]
    assert changed["tokens"][:] == [["b"]] and changed._fingerprint != one._fingerprint
    other = load({"train": "a.conll", "columns": ["words", "tags"]})["train"]
    assert other.column_names == ["words", "tags"]


# ---------------------------------------------------------------------- rows held out, rows drawn


@pytest.fixture
def twenty(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "rows.jsonl", numbered(20)).name


def test_held_out_rows_are_disjoint_from_the_training_rows_and_stay_the_same(load: Load, twenty: str) -> None:
    values = {"train": twenty, "split": {"dev": 0.1, "test": 5, "seed": 1}}
    first, second = load(values), load(values)
    texts = {split: rows["text"][:] for split, rows in first.items()}
    assert {split: len(rows) for split, rows in texts.items()} == {"train": 13, "validation": 2, "test": 5}
    assert sorted(chain.from_iterable(texts.values())) == sorted(row["text"] for row in numbered(20))
    assert {split: rows["text"][:] for split, rows in second.items()} == texts
    assert {split: rows._fingerprint for split, rows in second.items()} == {s: r._fingerprint for s, r in first.items()}
    assert all(rows == sorted(rows, key=lambda text: int(text[5:])) for rows in texts.values())
    assert load({"train": twenty, "split": {"validation": 2, "test": 5}})["test"]["text"][:] != texts["test"]


def test_a_held_out_split_is_the_same_when_it_is_asked_for_alone(twenty: str, tmp_path: Path) -> None:
    data = TaskData.from_dict("t", {"train": twenty, "split": {"validation": 0.25}}, tmp_path)
    assert data.load(["validation"])["validation"].to_list() == data.load()["validation"].to_list()
    assert list(data.load(["validation"])) == ["validation"] and data.names() == ["train", "validation"]
    assert data.there("validation") and not data.there("test")


def test_rows_are_drawn_after_others_were_held_out(load: Load, twenty: str) -> None:
    split = {"split": {"validation": 0.2}}
    whole, few = load({"train": twenty, **split}), load({"train": twenty, **split, "max_rows": {"train": 4}})
    more = load({"train": twenty, **split, "max_rows": 8})
    assert few["validation"].to_list() == whole["validation"].to_list() == more["validation"].to_list()
    drawn = [set(rows["train"]["text"]) for rows in (few, more, whole)]
    assert [len(texts) for texts in drawn] == [4, 8, 16] and drawn[0] < drawn[1] < drawn[2]
    each = load({"train": twenty, "validation": twenty, "test": twenty, "max_rows": 3})
    assert {split: len(rows) for split, rows in each.items()} == {"train": 3, "validation": 3, "test": 3}


# ---------------------------------------------------------------------- columns and labels


def test_columns_are_renamed_and_what_had_the_name_gives_way(load: Load, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "old", "sentence": "s", "y": 1}])
    assert load({"train": "a.jsonl", "columns": {"text": "sentence", "label": "y"}})["train"].to_list() == [
        {"text": "s", "label": 1}
    ]
    swapped = load({"train": "a.jsonl", "columns": {"text": "sentence", "sentence": "text"}})["train"]
    assert swapped.to_list() == [{"sentence": "old", "text": "s", "y": 1}]


def test_a_part_of_a_column_of_dicts_is_a_column(load: Load, tmp_path: Path) -> None:
    rows = [{"translation": {"en": f"a {i}", "de": f"ein {i}"}, "id": i} for i in range(4)]
    columns = {"text": "translation.en", "target": "translation.de"}
    write_jsonl(tmp_path / "t.jsonl", rows)
    train = load({"train": "t.jsonl", "columns": columns})["train"]
    assert train[1] == {"id": 1, "text": "a 1", "target": "ein 1"}
    with pytest.raises(ValueError, match=r"columns\.text: split 'train' has no column 'translation\.fr'"):
        load({"train": "t.jsonl", "columns": {"text": "translation.fr"}})


def labelled(values: list[Any], feature: Any = None) -> datasets.Dataset:
    rows = datasets.Dataset.from_dict({"text": ["a"] * len(values), "label": values})
    return rows if feature is None else rows.cast_column("label", feature)


@pytest.mark.parametrize(
    ("values", "feature", "labels", "wanted"),
    [
        (["neg", "pos", "neu"], None, {"neg": "bad", "neu": "bad"}, ["bad", "pos", "bad"]),
        ([0, 1, -1], None, {0: "no", 1: "yes"}, ["no", "yes", "-1"]),
        (["0", "1"], None, {0: "no"}, ["no", "1"]),
        ([True, False], None, {True: "yes", False: "no"}, ["yes", "no"]),
        ([["B-per", "O"], []], None, {"B-per": "B-PER"}, [["B-PER", "O"], []]),
        (["neg", "pos"], datasets.ClassLabel(names=["pos", "neg"]), {"neg": "bad"}, [1, 0]),
        ([["a", "b"], ["c"]], datasets.List(datasets.ClassLabel(names=["a", "b", "c"])), {"b": "a"}, [[0, 0], [1]]),
    ],
)  # fmt: skip
def test_labels_are_renamed_where_the_task_has_them(
    values: Any, feature: Any, labels: Any, wanted: Any, load: Load, tmp_path: Path
) -> None:
    labelled(values, feature).to_parquet(tmp_path / "a.parquet")
    rows = load({"train": "a.parquet", "labels": labels}, TextClassification(name="t"))["train"]
    assert rows["label"][:] == wanted and rows["text"][:] == ["a"] * len(values)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_cells_that_hold_lists_as_text_become_lists(name: str, load: Load, tmp_path: Path) -> None:
    rows = [
        ["topics", "tokens", "head", "tags"],
        ["a; b;", "Ann  Lee ran", "[0, 2]", "['B-x', 'O']"],  # the last as pandas writes it
        ["", "So", "[0, 1]", "[]"],
        ["b", "", "[]", ""],
    ]
    with (tmp_path / name).open("w", newline="") as file:
        if name == "rows.csv":
            csv.writer(file).writerows(rows)
        else:
            file.writelines("\t".join(row) + "\n" for row in rows)
    lists = {"topics": ";", "tokens": " ", "head": "json", "tags": "json"}
    task = MultiLabelClassification(name="t", label="topics")
    found = load({"train": name, "lists": lists, "labels": {"b": "c"}}, task)["train"]
    assert found["topics"][:] == [["a", "c"], [], ["c"]]
    assert found["tokens"][:] == [["Ann", "Lee", "ran"], ["So"], []]
    assert found["head"][:] == [[0, 2], [0, 1], []] and found["tags"][:] == [["B-x", "O"], [], []]


def test_numbers_and_tables_of_one_column_are_cut_too(load: Load, write: Any) -> None:
    write("a.csv", "label\n1;2\n3\n")
    write("b.csv", "label\n3\n4\n")
    found = load({"train": "a.csv", "test": "b.csv", "lists": {"label": ";"}})
    assert found["train"]["label"][:] == [["1", "2"], ["3"]] and found["test"]["label"][:] == [["3"], ["4"]]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["['a' 'b']"], "row 0 holds no list as JSON or Python writes it"),  # of NumPy
        (["[1]", '["a"]'], "the lists hold now one kind of value, now another"),
        (['["a", 1]'], "the lists hold now one kind of value, now another"),
        (["[" * 100_000], "row 0 holds no list"),
    ],
)
def test_cells_that_hold_no_lists_are_named(cells: list[str], message: str, load: Load, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"tags": cell} for cell in cells])
    with pytest.raises(ValueError, match=rf"data\.lists\.tags: split 'train'.*{message}"):
        load({"train": "a.jsonl", "lists": {"tags": "json"}})


def test_lists_that_are_lists_already_stay(load: Load, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", POS)
    found = load({"train": "a.jsonl", "lists": {"tokens": ";", "tags": "json"}})
    assert found["train"]["tokens"][:] == [row["tokens"] for row in POS]


def test_label_names_that_were_declared_stay_declared(load: Load, tmp_path: Path) -> None:
    labelled(["a", "c"], datasets.ClassLabel(names=["a", "b", "c"])).to_parquet(tmp_path / "a.parquet")
    rows = load({"train": "a.parquet", "labels": {"b": "c"}}, TextClassification(name="t"))["train"]
    assert rows.features["label"].names == ["a", "c"] and rows["label"][:] == [0, 1]


# ---------------------------------------------------------------------- several sources


def test_sources_stand_one_behind_the_other_with_the_columns_of_all(load: Load, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x", "extra": 1}])
    labelled(["y", "x"], datasets.ClassLabel(names=["y", "x"])).rename_column("text", "t").to_parquet(
        tmp_path / "b.parquet"
    )
    second = {"train": "b.parquet", "test": "b.parquet", "columns": {"text": "t"}, "max_rows": {"test": 1}}
    found = load([{"train": "a.jsonl"}, second], TextClassification(name="t"))
    assert found["train"].to_list() == [{"text": t, "label": x} for t, x in [("a", "x"), ("a", "y"), ("a", "x")]]
    assert len(found["test"]) == 1 and found["test"].features["label"].names == ["y", "x"]
    data = TaskData.from_dict("t", [{"train": "a.jsonl"}, {"train": "b.parquet"}], tmp_path)
    assert data.label() == "a.jsonl and b.parquet"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "lable": "x"}, r"data\[1\]: split 'train' has no column 'label', which .* mean 'lable'\?"),
        ({"text": "a", "label": 1}, r"column 'label' holds not the same .*data\[0\]': 'string', .*data\[1\]': 'int64'"),
    ],
)  # fmt: skip
def test_sources_that_do_not_go_together_are_named(row: Any, message: str, load: Load, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}])
    write_jsonl(tmp_path / "b.jsonl", [row])
    with pytest.raises(ValueError, match=message):
        load([{"train": "a.jsonl"}, {"train": "b.jsonl"}], TextClassification(name="t"))


def test_a_column_that_the_task_does_not_read_may_differ_and_numbers_may_be_wider(load: Load, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"tokens": ["a"], "tags": ["x"], "id": "1", "n": 1}])
    write_jsonl(tmp_path / "b.jsonl", [{"tokens": ["b"], "tags": [], "id": 2, "n": 0.5}])
    rows = load([{"train": "a.jsonl"}, {"train": "b.jsonl"}], TokenClassification(name="t"))["train"]
    assert rows.to_list() == [{"tokens": ["a"], "tags": ["x"], "n": 1.0}, {"tokens": ["b"], "tags": [], "n": 0.5}]


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.conll"])
def test_a_stream_is_read_up_to_max_rows_and_kept(name: str, load: Load, write: Any) -> None:
    # What is behind the rows that are wanted is broken: nobody must have read it.
    rows = POS * (1 if name.endswith("conll") else 4000)
    text = conll(POS) if name.endswith("conll") else "".join(json.dumps(row) + "\n" for row in rows)
    write(name, text + "\n\nbroken\n")
    values = {"train": name, "streaming": True, "max_rows": 6, "split": {"validation": 2}}
    first, again = load(values), load(values)
    assert len(first["train"]) == 4 and len(first["validation"]) == 2
    assert {w for rows in first.values() for w in map(tuple, rows["tokens"])} == {tuple(r["tokens"]) for r in POS[:6]}
    assert first["train"].cache_files and first["train"]._fingerprint == again["train"]._fingerprint


def test_a_folder_of_the_hubs_layout_can_be_streamed(load: Load, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_jsonl(tmp_path / "set" / f"{split}.jsonl", numbered(9))
    found = load({"path": "set", "streaming": True, "max_rows": {"train": 4, "test": 20}})
    assert {split: len(rows) for split, rows in found.items()} == {"train": 4, "test": 9}
    named = load({"path": "set", "train": "test", "streaming": True, "max_rows": {"train": 3}})
    assert named["train"].to_list() == numbered(3)
    with pytest.raises(ValueError, match=r"tasks\.t\.data\.streaming needs max_rows\.test"):
        load({"path": "set", "streaming": True, "max_rows": {"train": 4}})
    with pytest.raises(ValueError, match=r"data\.split\.test: the data set .* has this split already"):
        load({"path": "set", "split": {"test": 2}})


# ---------------------------------------------------------------------- what is wrong with `data:`


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"tasks\.t\.data is an empty list"),
        (["rows.jsonl"], r"tasks\.t\.data\[0\] must hold keys and values, got 'rows\.jsonl'"),
        ([{"train": "rows.jsonl"}, {"trian": "x"}], r"data\[1\] has no key 'trian'\..*Did you mean 'train'\?"),
        ({"splt": {}}, r"data has no key 'splt'\..*Did you mean 'split'\?"),
        ({"split": 0.1}, r"data\.split must hold keys and values, got 0\.1"),
        ({"split": {"validaton": 0.1}}, r"data\.split has no key 'validaton'\..*Did you mean 'validation'\?"),
        ({"split": {"validation": 1.5}}, r"data\.split\.validation must be a share of the training rows, .* got 1\.5"),
        ({"split": {"validation": "0,1"}}, r"data\.split\.validation must be .* got '0,1'"),
        ({"split": {"validation": True}}, r"data\.split\.validation must be .* got True"),
        ({"split": {"validation": 0.5, "test": 0.5}}, r"data\.split takes 1 of the training rows"),
        ({"split": {"train": 0.5}}, r"data\.split has a key 'train'"),
        ({"split": {"test": 1, "seed": -1}}, r"data\.split\.seed must be a whole number from 0 to"),
        ({"split": {"test": 0.5}, "test": "rows.jsonl"}, r"data\.split\.test: the data has this split already"),
        ({"split": {"test": 0.01}}, r"data\.split\.test: 0\.01 of 20 training rows is none"),
        ({"split": {"test": 20}}, r"data\.split takes 20 rows, and there are 20 .* nothing is left"),
        ({"train": None, "test": "rows.jsonl", "split": {"validation": 2}}, r"is taken out of train, and"),
        ({"max_rows": 0}, r"data\.max_rows must be a whole number of 1 or more, got 0"),
        ({"max_rows": {"train": "all"}}, r"data\.max_rows\.train must be a whole number of 1 or more, got 'all'"),
        ({"streaming": True}, r"data\.streaming needs max_rows for train: .*max_rows: 10000"),
        ({"streaming": "yes", "max_rows": 2}, r"data\.streaming must be true or false, got 'yes'"),
        ({"columns": ["text"]}, r"data\.columns: a list names the columns of files that end in \.conll"),
        ({"columns": {"text": 1}}, r"data\.columns\.text must be the name of a column in the data, got 1"),
        ({"columns": {"a": "text", "b": "text"}}, r"data\.columns has the column 'text' twice"),
        ({"columns": {"text": "txt"}}, r"data\.columns\.text: split 'train' has no column 'txt'.*mean 'text'\?"),
        ({"lists": {"text": ""}}, r"data\.lists\.text must be what stands between the parts of a cell"),
        ({"lists": {"txt": ";"}}, r"data\.lists\.txt: split 'train' has no column 'txt'.*mean 'text'\?"),
        ({"lists": {"n": ";"}}, r"data\.lists\.n: column 'n' of split 'train' holds no text, but Value"),
        ({"lists": {"text": "json"}}, r"data\.lists\.text: split 'train', row 0 holds no list .*: 'text 0'"),
        ({"labels": {"a": None}}, r"data\.labels\.a must be a label's name, got None"),
        ({"labels": {"aa": "b"}}, r"data\.labels has 'aa', which no row has as a label\. Known: \['a', 'b', 'c'\]"),
        ({"labels": {"a": "b"}, "columns": {"label": "n"}}, r"none of the columns \['label'\] holds these labels"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_data_section_is_named_by_its_path(
    values: Any, message: str, load: Load, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [row | {"n": 0.5} for row in numbered(20)])
    with pytest.raises(ValueError, match=message):
        load({"train": "rows.jsonl"} | values if isinstance(values, dict) else values, TextClassification(name="t"))


def test_labels_need_the_task_that_says_where_they_are(load: Load, twenty: str) -> None:
    with pytest.raises(ValueError, match=r"Give from_dict the task itself"):
        load({"train": twenty, "labels": {"a": "b"}})


@pytest.mark.parametrize("comment", ["# id 4711", "# sent_id = 1", "# id 4711\tdomain=train", "# sent_id=1 x"])
def test_metadata_with_as_many_parts_as_columns_is_no_word(comment: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(f"{comment}\nrobert _ B-PER\nsmith _ I-PER\n\n# _ O\n", encoding="utf-8")
    task = TokenClassification(name="ner")
    rows = TaskData.from_dict(task, {"train": "a.conll"}, tmp_path).load()["train"]
    assert list(rows["tokens"]) == [["robert", "smith"], ["#"]]
