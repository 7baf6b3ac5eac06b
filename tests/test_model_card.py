"""The card: what the Hub reads of it, what people read of it, and that no string of a user breaks either."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from markdown_it import MarkdownIt

from hf_mtl import (
    Lemmatization,
    MultiTaskConfig,
    QuestionAnswering,
    Summarization,
    Task,
    TextClassification,
    TextGeneration,
    TokenClassification,
)
from hf_mtl.model_card import render_card, write_card
from hf_mtl.model_card.card import _about
from hf_mtl.model_card.markdown import code, fenced, one_line
from hf_mtl.model_card.metadata import is_hub_id

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
INTENT = TextClassification(name="intent", labels=("card_arrival", "lost_card", "top_up", "refund"))
POS = TokenClassification(name="pos", labels=("NOUN", "VERB"))
ANSWER = QuestionAnswering(name="answer")
LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}

SCORES = {
    "intent": {"f1_macro": 0.8, "accuracy": 0.91234},
    "pos": {"accuracy": 0.9},
    "answer": {"f1": 0.5, "exact_match": 0.4},
}
CHANCE = {"intent": {"accuracy": 0.013, "f1_macro": 0.0}, "answer": {"f1": 0.0}}
HOSTILE = [
    "O|x",
    "a\\|b",
    "| --- | --- |",
    "yes",
    "1e3",
    "null",
    "日本語 👩‍🚀",
    "`code`",
    "``",
    "**bold** _em_ <b>html</b> &amp; &#124; [a](b) <http://a.b> # ~~x~~",
    "{{ 7 * 7 }} {% raw %}",
    "end\\",
    "---",
    ": - ? ! % @ 'q' \"d\"",
]


def config(*tasks: Task, **fields: Any) -> MultiTaskConfig:
    return MultiTaskConfig(
        text_config={"model_type": "bert"}, tasks=list(tasks), **{"backbone_name": BACKBONE, **fields}
    )


def full_card(**changes: Any) -> ModelCard:
    given: dict[str, Any] = {
        "model_id": "you/three-tasks",
        "results": SCORES,
        "baselines": CHANCE,
        "datasets": {
            "intent": "PolyAI/banking77",
            "pos": {"name": "UD English EWT", "url": "https://universaldependencies.org"},
        },
        "recipe": "backbone: x\n",
        "license": "apache-2.0",
        "language": "en",
    }  # fmt: skip
    return render_card(config(INTENT, POS, ANSWER, adapters=LORA), **given | changes)


def metadata(card: ModelCard) -> dict[str, Any]:
    """The header as a YAML parser reads it."""
    return yaml.safe_load(str(card).split("---\n")[1])


@dataclass
class Page:
    """What a Markdown reader makes of a card: an independent parser's view."""

    headings: list[str]
    tables: list[list[list[str]]]  # table -> row -> cell, as it is shown
    items: list[str]
    blocks: list[str]

    @classmethod
    def of(cls, card: ModelCard) -> "Page":
        page = cls([], [], [], [])
        tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(card.text)
        for before, token in zip([None, *tokens], tokens, strict=False):
            if token.type == "table_open":
                page.tables.append([])
            elif token.type == "tr_open":
                page.tables[-1].append([])
            elif token.type == "fence":
                page.blocks.append(token.content)
            elif token.type == "inline" and before is not None:
                shown = "".join(child.content for child in token.children or [])
                if before.type in ("th_open", "td_open"):
                    page.tables[-1][-1].append(shown)
                elif before.type == "heading_open":
                    page.headings.append(shown)
                elif before.type == "paragraph_open" and before.level:
                    page.items.append(shown)
        return page

    def code(self) -> list[str]:
        return [block for block in self.blocks if "pipeline(" in block]


def rows(table: list[list[str]]) -> list[dict[str, str]]:
    """The rows of a table, by its header."""
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


# ---------------------------------------------------------------------- what the Hub reads


def test_metadata_names_library_backbone_data_and_metrics() -> None:
    header = metadata(full_card(tags=["banking", "hf_mtl"]))
    assert {key: value for key, value in header.items() if key != "model-index"} == {
        "library_name": "transformers",
        "base_model": BACKBONE,
        "datasets": ["PolyAI/banking77"],
        "license": "apache-2.0",
        "language": "en",
        "metrics": ["accuracy", "f1", "exact_match"],
        "tags": ["hf_mtl", "multi-task-learning", "text-classification", "token-classification",
                 "question-answering", "banking"],
    }  # fmt: skip


def test_model_index_has_every_score_under_its_task_and_data() -> None:
    index = metadata(full_card())["model-index"]
    assert [entry["name"] for entry in index] == ["three-tasks"]
    found = {entry["task"]["name"]: entry for entry in index[0]["results"]}
    assert found["intent"]["task"]["type"] == "text-classification"
    assert found["intent"]["dataset"] == {
        "type": "PolyAI/banking77", "name": "PolyAI/banking77", "split": "test"
    }  # fmt: skip
    assert found["pos"]["dataset"] == {"type": "ud-english-ewt", "name": "UD English EWT", "split": "test"}
    assert found["answer"]["dataset"] == {"type": "answer", "name": "answer", "split": "test"}
    assert found["intent"]["metrics"] == [
        {"type": "accuracy", "name": "accuracy", "value": 0.9123},
        {"type": "f1", "name": "f1_macro", "value": 0.8},
    ]


def test_the_hub_client_reads_back_the_results_that_were_written() -> None:
    card = full_card()
    again = ModelCard(str(card))
    assert again.data.eval_results == card.data.eval_results
    assert len(again.data.eval_results) == 5
    assert metadata(card)["model-index"] == eval_results_to_model_index("three-tasks", again.data.eval_results)
    assert str(again) == str(card)


def test_tasks_of_one_type_on_one_data_set_keep_their_scores_apart() -> None:
    tasks = [TextClassification(name=name, labels=("no", "yes")) for name in ("a", "b", "c")]
    data = {"id": "nyu-mll/glue"}
    card = render_card(
        config(*tasks),
        results={name: {"accuracy": score} for name, score in zip("abc", (0.1, 0.2, 0.3), strict=True)},
        datasets={"a": data, "b": data | {"config": "c"}, "c": data},
    )
    entries = metadata(card)["model-index"][0]["results"]
    assert [(e["task"]["name"], [m["value"] for m in e["metrics"]]) for e in entries] == [
        ("a", [0.1]), ("b", [0.2]), ("c", [0.3])
    ]  # fmt: skip
    assert ModelCard(str(card)).data.eval_results == card.data.eval_results


@pytest.mark.parametrize(
    ("tasks", "tag"),
    [((INTENT,), "text-classification"), ((INTENT, POS), None), ((), None)],
)
def test_pipeline_tag_is_the_one_type_of_all_tasks(tasks: tuple[Task, ...], tag: str | None) -> None:
    assert metadata(render_card(config(*tasks))).get("pipeline_tag") == tag


def test_a_backbone_that_is_a_folder_is_no_base_model_and_its_path_stays_private(tmp_path: Path) -> None:
    folder = tmp_path / "my *best* backbone"
    folder.mkdir()
    card = render_card(config(INTENT, backbone_name=str(folder)))
    assert "base_model" not in metadata(card)
    assert str(tmp_path) not in str(card)
    assert "my *best* backbone" in Page.of(card).headings[0]


def test_a_folder_here_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("runs/model")
    (tmp_path / "runs" / "model").mkdir(parents=True)
    assert not is_hub_id("runs/model")


@pytest.mark.parametrize("name", ["gpt2", BACKBONE, "a.b_c-d/e"])
def test_is_hub_id_takes_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", [None, "", "./x", "/abs/x", "a/b/c", "a b/c", "a--b", "x.git", "-a", "a/", "a" * 97])
def test_is_hub_id_refuses_what_the_hub_refuses(name: str | None) -> None:
    assert not is_hub_id(name)


def test_only_hub_ids_are_data_sets_of_the_hub() -> None:
    data = {"intent": "data/train.jsonl", "pos": "/home/me/secret/pos.csv", "answer": "SQuAD"}
    card = full_card(datasets=data)
    assert "datasets" not in metadata(card)
    assert "/home/me" not in str(card)
    assert [row["Data"] for row in rows(Page.of(card).tables[0])] == ["data/train.jsonl", "pos.csv", "SQuAD"]


def test_norwegian_is_a_language() -> None:
    assert metadata(full_card(language=["no", "en"]))["language"] == ["no", "en"]


# ---------------------------------------------------------------------- what people read


def test_task_table_has_a_row_per_task_with_its_main_score() -> None:
    labels = ["4: card_arrival, lost_card, top_up, ...", "2: NOUN, VERB", "-"]
    assert rows(Page.of(full_card()).tables[0]) == [
        {
            "Task": task,
            "Type": kind,
            "Labels": names,
            "Metric": metric,
            "Score": score,
            "Majority": chance,
            "Data": data,
        }
        for task, kind, names, metric, score, chance, data in [
            ("intent", "text-classification", labels[0], "accuracy", "0.9123", "0.0130", "PolyAI/banking77"),
            ("pos", "token-classification", labels[1], "accuracy", "0.9000", "-", "UD English EWT"),
            ("answer", "question-answering", labels[2], "f1", "0.5000", "0.0000", "-"),
        ]
    ]


def test_score_table_has_every_score_beside_the_majority() -> None:
    assert [tuple(row.values()) for row in rows(Page.of(full_card()).tables[1])] == [
        ("intent", "accuracy", "0.9123", "0.0130"),
        ("intent", "f1_macro", "0.8000", "0.0000"),
        ("pos", "accuracy", "0.9000", "-"),
        ("answer", "f1", "0.5000", "0.0000"),
        ("answer", "exact_match", "0.4000", "-"),
    ]


def test_one_metric_a_task_needs_no_second_table() -> None:
    assert len(Page.of(full_card(results={"pos": {"accuracy": 0.5}})).tables) == 1


def test_without_scores_the_card_has_no_columns_for_them_and_says_so() -> None:
    card = render_card(config(INTENT, ANSWER))
    page = Page.of(card)
    assert page.tables[0][0] == ["Task", "Type", "Labels"]
    assert "model-index" not in metadata(card)
    assert "metrics" not in metadata(card)
    assert any("No score is known here for intent, answer" in item for item in page.items)


def test_every_code_block_is_python_that_names_the_model_and_each_task_its_inputs() -> None:
    blocks = Page.of(full_card()).code()
    called = [ast.unparse(node) for block in blocks for node in ast.parse(block).body]
    assert "pipe = pipeline('multitask-nlp', model='you/three-tasks')" in called
    assert "pipe = pipeline('multitask-nlp', model='you/three-tasks', trust_remote_code=True)" in called
    calls = [ast.parse(line).body[0].value for line in called if line.startswith("pipe(")]  # type: ignore[attr-defined]
    given = {ast.literal_eval(call.keywords[0].value)[0]: ast.literal_eval(call.args[0]) for call in calls}
    assert {name: ANSWER.accepts(example) for name, example in given.items()} == {
        "intent": False, "pos": False, "answer": True
    }  # fmt: skip
    assert INTENT.accepts(given["intent"]) and POS.accepts(given["pos"])


def test_a_given_example_is_shown_with_its_answer_shortened() -> None:
    text = 'Say "hi"\n👋'
    card = full_card(
        examples={
            "intent": (text, {"label": "refund", "score": 0.98765}),
            "pos": (["a"], [{"word": "a" * 500}]),
        }
    )
    block = Page.of(card).code()[0]
    lines = block.splitlines()
    call = next(i for i, line in enumerate(lines) if '"intent"' in line)
    assert ast.literal_eval(ast.parse(lines[call]).body[0].value.args[0]) == text  # type: ignore[attr-defined]
    assert lines[call + 1] == '# {"intent": {"label": "refund", "score": 0.988}}'
    assert lines[call + 4].startswith('# {"pos":') and lines[call + 4].endswith("...")
    assert max(map(len, lines)) < 200


def test_each_task_type_says_what_it_answers() -> None:
    items = [item for item in Page.of(full_card()).items if " takes " in item]
    assert items == [
        'intent takes text. One label for a text or a pair. Answer: {"label", "score"}.',
        "pos takes text. A tag for each word, read off its first subword. Answer, BIO tags: a list of "
        '{"entity_group", "score", "word", "start", "end"}; plain tags: a list of '
        '{"entity", "score", "index", "word", "start", "end"}.',
        "answer takes question and context. Extractive question answering. Answer: "
        '{"score", "start", "end", "answer"}, the empty answer from 0 to 0; a list of them, the likeliest first, where '
        "top_k is more than 1.",
    ]


def test_a_task_type_without_a_docstring_says_nothing() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(Task):
        column: str = "text"

    assert _about(Silent) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"sharing": "poly"},
            [
                "the tasks share a LoRA adapter (r = 8) (poly), and each has",
                "The tasks share adapters,",
                "adapter of its",
            ],
        ),
        (
            {"sharing": "shared"},
            ["The tasks share adapters, so training on the new task's data alone changes the other tasks' answers"],
        ),
        (
            {"train_backbone": True},
            ["The backbone was trained too, and each task has", "The tasks share the backbone,"],
        ),
    ],
)
def test_the_card_says_how_the_tasks_share(given: dict[str, Any], said: list[str]) -> None:
    shared = config(INTENT, adapters=LORA)
    for name, value in given.items():
        setattr(shared, name, value)
    text = render_card(shared).text
    assert all(words in text for words in said) and "leaves the other" not in text


@pytest.mark.parametrize("sharing", ["private", "mtl-lora"])
def test_the_card_names_the_tasks_that_stand_apart_from_the_rest(sharing: str) -> None:
    plain, mixed = (config(INTENT, POS, adapters=LORA) for _ in range(2))
    plain.sharing = mixed.sharing = sharing
    mixed.task_adapters = {"intent": LORA | {"r": 3}, POS.name: None}
    found = one_line(render_card(mixed).text)
    alone = "" if sharing == "private" else " of its own alone"
    assert f"`intent` has a LoRA adapter (r = 3){alone}, `{POS.name}` has no adapter." in found
    kept = f"changes the answers of those that do, and not those of `intent`, `{POS.name}`: train it together"
    assert (kept in found) == (sharing != "private")
    assert "Otherwise than" not in render_card(plain).text and "and not those" not in render_card(plain).text


@pytest.mark.parametrize(
    ("adapters", "said", "unsaid"),
    [
        (LORA, "The backbone is frozen, and each task has a LoRA adapter (r = 8)", "share"),
        (None, "The tasks share all of the backbone", "frozen"),
    ],
)
def test_the_card_says_what_the_tasks_share(adapters: Any, said: str, unsaid: str) -> None:
    text = render_card(config(INTENT, adapters=adapters)).text
    assert said in text and unsaid not in text


def test_the_recipe_stands_in_a_block_that_it_cannot_end() -> None:
    recipe = "tasks:\n  a: {note: '```'}\n````\n# Heading?\r\nend: 1\n"
    page = Page.of(full_card(recipe=recipe))
    assert recipe.replace("\r", "") in page.blocks
    assert "Heading?" not in page.headings
    assert fenced("a\ud800", "yaml") == "```yaml\na?\n```"


def test_data_is_attributed_with_everything_that_is_known_of_it() -> None:
    data = {
        "name": "SQuAD [v1|v2]", "url": "https://e.org/a b)|<x>", "authors": "R. & al.",
        "license": "CC BY-SA 4.0", "changes": "300 rows were chosen.", "rows": {"train": 1500, "test": 300},
    }  # fmt: skip
    card = full_card(datasets={"answer": data})
    assert "https://e.org/a%20b%29%7C%3Cx%3E" in card.text
    assert (
        "answer: SQuAD [v1|v2], by R. & al., licence CC BY-SA 4.0. Changes: 300 rows were chosen. "
        "Rows: 1,500 train, 300 test."
    ) in Page.of(card).items


def test_a_config_without_tasks_has_a_card() -> None:
    card = render_card(config(backbone_name=None))
    assert "One model for 0 tasks.\n" in card.text


# ---------------------------------------------------------------------- strings that could break it


@pytest.mark.parametrize("label", HOSTILE)
def test_any_label_is_shown_as_it_is_in_its_cell(label: str) -> None:
    card = render_card(config(TextClassification(name="intent", labels=(label[:37], "b"))))
    assert rows(Page.of(card).tables[0])[0]["Labels"] == f"2: {label[:37]}, b"


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_of_data_is_shown_as_it_is_and_survives_the_metadata(name: str) -> None:
    card = full_card(datasets={"intent": {"name": name, "license": name, "url": "https://a.b"}}, tags=[name])
    page = Page.of(card)
    assert [row["Data"] for row in rows(page.tables[0])] == [name, "-", "-"]
    assert f"intent: {name}, licence {name}." in page.items
    assert metadata(card)["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert ModelCard(str(card)).data.tags[-1] == name
    assert page.headings == Page.of(full_card()).headings


def test_control_characters_and_half_surrogates_become_harmless(tmp_path: Path) -> None:
    bad = "a\n---\nb\r\n| c\x00\x85\u2028d\ud800\ufffe"
    good = "a --- b | c d\ufffd\ufffe"
    labels = (bad, "", "x" * 99)
    card = render_card(
        config(TextClassification(name="intent", labels=labels)),
        model_id=f"you/{bad}",
        results={"intent": {"accuracy": 1}},
        datasets={"intent": bad},
        split=bad,
        license=bad,
        language=bad,
        tags=bad,
        recipe=bad,
    )
    row = rows(Page.of(card).tables[0])[0]
    assert row["Labels"] == f"3: {good}, (empty), {'x' * 37}..."
    assert row["Data"] == good
    header = metadata(ModelCard(write_card(tmp_path, card).read_text(encoding="utf-8")))
    assert header["model-index"][0]["results"][0]["dataset"] == {
        "type": "a-b-c-d", "name": good, "split": good
    }  # fmt: skip
    assert header["license"] == header["language"] == header["tags"][-1] == header["model-index"][0]["name"] == good


def test_what_parsers_of_tables_do_not_agree_on_is_no_code() -> None:
    assert code("a\\|b") == r"a\\\|b"
    assert code("a|b") == r"`a\|b`"


def test_a_model_id_cannot_leave_its_string() -> None:
    model = 'you/"); import os  # `'
    page = Page.of(full_card(model_id=model))
    assert page.headings[0] == '"); import os # `'
    tree = ast.parse(page.code()[0])
    assert [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and "you" in str(node.value)] == [
        model
    ]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": {"intnet": {"accuracy": 1.0}}}, "results names a task 'intnet'.*Did you mean 'intent'"),
        ({"baselines": {"x": {}}}, "baselines names a task 'x'"),
        ({"datasets": {"x": "a/b"}}, "datasets names a task 'x'"),
        ({"examples": {"x": ("a", None)}}, "examples names a task 'x'"),
        ({"results": {"pos": {"accuracy": float("nan")}}}, r"results.*pos.*accuracy.* must be .* got nan"),
        ({"results": {"pos": {"accuracy": "0.9"}}}, "must be a finite number, got '0.9'"),
        ({"datasets": {"pos": {"name": "a", "licence": "b"}}}, "no field 'licence'.*Did you mean 'license'"),
        ({"datasets": {"pos": {"license": "b"}}}, "has no 'name'"),
        ({"datasets": {"pos": {"id": "a b"}}}, "id must be .* owner/name, got 'a b'"),
        ({"datasets": {"pos": {"name": "a", "url": "javascript:alert(1)"}}}, "url must begin with https://"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        full_card(**changes)


# ---------------------------------------------------------------------- files


def test_write_card_writes_the_readme_of_a_folder_with_spaces_over_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "my new model"
    card = full_card()
    for _ in range(2):
        assert write_card(folder, card) == folder / "README.md"
        assert (folder / "README.md").read_bytes() == str(card).encode("utf-8")
    assert str(ModelCard.load(folder / "README.md")) == str(card)


CARDS = sorted(path for path in (Path(__file__).parent.parent / "model_cards").glob("*.md") if path.name != "README.md")


def test_there_are_cards() -> None:
    assert CARDS


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.name)
def test_the_cards_kept_here_are_as_the_code_renders_them(path: Path) -> None:
    card = ModelCard.load(path)
    page, now = Page.of(card), Page.of(full_card())
    assert str(card) == path.read_text(encoding="utf-8")
    assert set(page.headings[1:]) <= set(now.headings)
    shown = {
        (row["Task"], row["Metric"]): row["Score"]
        for table in page.tables
        for row in rows(table)
        if row.get("Score", "-") != "-"
    }
    kept = {(r.task_name, r.metric_name): f"{r.metric_value:.4f}" for r in card.data.eval_results or []}
    assert shown == kept


# ---------------------------------------------------------------------- tasks that write, and lemmas


def test_errors_are_said_to_be_better_when_lower_and_who_has_a_head() -> None:
    written = TextGeneration(name="written")
    card = render_card(config(written), results={"written": {"token_accuracy": 0.5, "perplexity": 12.5}})
    assert "Of `perplexity` lower is better, and more than 1 is possible." in str(card)
    assert "each has the backbone's own language model as its head.\n" in str(card)
    (first, second) = metadata(card)["model-index"][0]["results"][0]["metrics"]
    assert (first["type"], second["type"], second["value"]) == ("accuracy", "perplexity", 12.5)
    both = str(render_card(config(Summarization(name="short"), INTENT), results={"intent": {"accuracy": 0.5}}))
    assert "own language model as its head (`short`) or a head of its own (`intent`).\n" in both
    assert "lower is better" not in both and "lower is better" not in str(full_card())
    rouge = render_card(config(Summarization(name="short")), results={"short": {"rougeL": 0.5, "rouge1": 0.6}})
    assert [m["type"] for m in metadata(rouge)["model-index"][0]["results"][0]["metrics"]] == ["rouge", "rouge"]


def test_edit_scripts_are_no_labels_on_a_card() -> None:
    card = str(render_card(config(Lemmatization.from_dataset("lemma", [{"tokens": ["Cats"], "lemmas": ["cat"]}]))))
    assert "Labels" not in card and "A task with labels" not in card
