"""Recipes: what they say becomes objects, what is wrong with them is said before anything is written."""

import copy
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from recipe_files import LABELS, recipe_values, some_rows, write_jsonl, write_recipe
from safetensors.torch import load_file

from hf_mtl import MultiTaskModel, TextClassification
from hf_mtl.recipe import SPLITS, Recipe, TaskData, parse_value
from hf_mtl.recipe.document import dump_document
from hf_mtl.recipe.values import fit

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
Values = dict[str, Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def values(tmp_path: Path, tiny_backbone: Callable[[], str]) -> Values:
    return recipe_values(tmp_path, tiny_backbone())


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Recipe]:
    return lambda values, overrides=None: Recipe.load(write_recipe(tmp_path, values), overrides)


def changed(values: Values, path: str, value: Any) -> Values:
    """The values with another one at the path; `...` takes it out."""
    values = copy.deepcopy(values)
    *way, last = path.split(".")
    at = values
    for key in way:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return values


# ---------------------------------------------------------------------- what a recipe says


def test_a_recipe_becomes_tasks_adapters_and_training_arguments(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    values["tasks"]["intent"]["weight"] = "2e0"
    values["mixing"] = {"strategy": "temperature", "temperature": 3, "cap": None}
    recipe = load(values)
    assert list(recipe.tasks) == ["intent", "pos", "answer"]
    assert recipe.tasks["intent"].weight == 2.0 and recipe.tasks["answer"].max_length == 64
    assert recipe.adapters.r == 2 and recipe.adapters.target_modules == "all-linear"
    args = recipe.training_arguments(tmp_path / "out")
    assert (args.mixing, args.temperature, args.cap, args.learning_rate) == ("temperature", 3.0, None, 1e-3)
    assert (args.report_to, args.save_strategy, args.eval_strategy) == ([], "no", "no")
    assert not (tmp_path / "out").exists()


def test_a_recipe_says_how_adapters_are_shared(values: Values, load: Callable[..., Recipe]) -> None:
    values["adapters"] |= {
        "sharing": "poly", "sharing_options": {"skills": 3}, "first_layer": 1, "train_backbone": True
    }  # fmt: skip
    recipe = load(values)
    tasks = [TextClassification(name="intent", labels=["yes", "no"])]
    config = recipe.build_model(tasks).config
    assert (config.sharing, config.sharing_options, config.train_backbone) == ("poly", {"skills": 3}, True)
    assert "layer" in config.adapters["target_modules"]


def test_a_recipe_says_all_of_the_mixture(values: Values, load: Callable[..., Recipe], tmp_path: Path) -> None:
    values["mixing"] = {
        "weights": {"intent": 2, "pos": "1 - progress", "answer": "0.5"},
        "batch_sizes": {"answer": 2}, "max_tokens_per_batch": "4096", "length_group": 20,
    }  # fmt: skip
    args = load(values).training_arguments(tmp_path / "out")
    assert args.mixing == "weights"  # what weights are for
    assert args.mixing_weights == {"intent": 2.0, "pos": "1 - progress", "answer": "0.5"}
    assert (args.batch_sizes, args.max_tokens_per_batch, args.length_group) == ({"answer": 2}, 4096, 20)
    values["mixing"] = {"strategy": "adaptive", "references": {"intent": 0.9, "pos": 0.8, "answer": 1}}
    recipe = load(values)
    with pytest.raises(ValueError, match="learns from evaluations: set eval_strategy"):
        recipe.training_arguments(tmp_path / "out")
    values["training"]["eval_strategy"] = "epoch"
    args = load(values).training_arguments(tmp_path / "out")
    assert args.mixing_references == {"intent": 0.9, "pos": 0.8, "answer": 1.0}
    values["mixing"] = {"strategy": "unimax", "max_repeats": 4}
    assert load(values).training_arguments(tmp_path / "out").max_repeats == 4.0


def test_balancing_and_its_options_become_training_arguments(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    values["balancing"] = {"method": "cagrad", "c": "4e-1", "normalize": "no"}
    values["training"]["gradient_accumulation_steps"] = 3
    args = load(values).training_arguments(tmp_path)
    assert (args.balancing, args.balancing_options) == ("cagrad", {"c": 0.4, "normalize": False})
    del values["balancing"]
    args = load(values).training_arguments(tmp_path)
    assert (args.balancing, args.balancing_options) == ("static", None)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_loads_and_its_files_are_there(path: Path) -> None:
    recipe = Recipe.load(path)
    assert all(data.there(split) for data in recipe.data.values() for split in SPLITS)


def test_no_adapters_and_no_sections_mean_a_shared_backbone_and_the_defaults(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    for section in ("adapters", "mixing", "training"):
        del values[section]
    recipe = load(values)
    assert recipe.adapters is None
    assert recipe.training_arguments(tmp_path).mixing == "temperature"


def test_the_best_model_is_looked_for_where_checkpoints_and_scores_come_together(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    values["training"]["load_best_model_at_end"] = True
    args = load(values).training_arguments(tmp_path)
    assert (args.save_strategy, args.eval_strategy) == ("epoch", "epoch")
    assert args.metric_for_best_model == "mean_score"


def test_a_backbone_beside_the_recipe_is_taken_from_there(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    assert load(changed(values, "backbone", "mine")).backbone == str(tmp_path / "mine")
    assert load(changed(values, "backbone", "owner/name")).backbone == "owner/name"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002), ("1E5", 1e5), ("-.5", -0.5), ("7", 7), ("010", "010"), ("no", "no"), ("on", "on"),
        ("true", True), ("null", None), ("", None), ("1:30", "1:30"), ("[1, a]", [1, "a"]), ("e5", "e5"),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml_1_2_reads_them(text: str, value: Any) -> None:
    read = parse_value(text, "--x")
    assert read == value and type(read) is type(value)


def test_what_is_written_as_yaml_is_read_back_the_same() -> None:
    values = {"a": "2e-3", "b": "no", "c": 3e-5, "d": ["010", "1_0", 1], "e": None, "f": True, "g": "ü\n"}
    assert parse_value(dump_document(values, "comment"), "text") == values


def test_a_merged_mapping_may_set_a_key_again() -> None:
    text = "x: {y: &base {k: 1, l: 2}}\nz: {<<: *base, k: 3}\nw: {<<: *base}"
    assert parse_value(text, "text") == {"x": {"y": {"k": 1, "l": 2}}, "z": {"k": 3, "l": 2}, "w": {"k": 1, "l": 2}}


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("2e-3", float, 0.002), (3, float, 3.0), ("12", int, 12), (1e3, int, 1000), ("yes", bool, True),
        ("Off", bool, False), (5, str, "5"), (None, int | None, None), (["a", 1], tuple[str, ...], ("a", "1")),
        (True, str | bool, True), ("1", str | int, "1"), ({"a": 1}, dict | str | None, {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_is_made_what_its_field_wants(value: Any, kind: Any, wanted: Any) -> None:
    made = fit(value, kind, "key")
    assert made == wanted and type(made) is type(wanted)


@pytest.mark.parametrize(
    ("value", "kind"),
    [("a", float), (1.5, int), (True, int), (True, str), (1, bool), ("a", tuple[str, ...]), (None, int), ([1], str)],
)
def test_a_value_that_does_not_fit_is_refused_by_its_key(value: Any, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^key must be .*, got "):
        fit(value, kind, "key")


# ---------------------------------------------------------------------- what is wrong with a recipe


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainin", {}, r"has no key 'trainin'\. Known: .*Did you mean 'training'\?"),
        ("backbone", ..., r"backbone must be a Hub id or a folder, got None"),
        ("tasks", ..., r"tasks is empty: name at least one"),
        ("tasks", ["intent"], r"tasks must hold keys and values, got \['intent'\]"),
        ("tasks.intent.type", "text-clasification", r"Unknown task type .*Did you mean 'text-classification'\?"),
        ("tasks.intent.type", ..., r"Task 'intent' has no 'type'"),
        ("tasks.intent.lable", "label", r"'intent' .*has no field 'lable'\..*Did you mean 'label'\?"),
        ("tasks.intent.weight", "much", r"tasks\.intent\.weight must be a number, got 'much'"),
        ("tasks.intent.labels", "a", r"tasks\.intent\.labels must be a list of text or null, got 'a'"),
        ("tasks.intent.name", "x", r"tasks\.intent has a key 'name'"),
        ("tasks.intent.data", ..., r"tasks\.intent has no 'data'"),
        ("tasks.intent.data", "x.jsonl", r"tasks\.intent\.data must hold keys and values, got 'x\.jsonl'"),
        ("tasks.intent.data", {}, r"tasks\.intent\.data must name files"),
        ("tasks.intent.data", {"trian": "x.jsonl"}, r"data has no key 'trian'\..*Did you mean 'train'\?"),
        ("tasks.intent.data.dev", "x.jsonl", r"has 'validation' and 'dev', which mean the same"),
        ("tasks.intent.data.test", "x.xlsx", r"data\.test: '.*x\.xlsx' ends in '\.xlsx'\. Known: "),
        ("tasks.intent.data.test", ["a.csv", "a.jsonl"], r"the files of a split must be of one kind"),
        ("tasks.intent.data.test", 5, r"data\.test must be a file's name, or a list of them, got 5"),
        ("tasks.keys", {"type": "text-classification", "data": {"train": "x.csv"}}, r"Task name 'keys' cannot be used"),
        ("adapters.type", "lorra", r"adapters\.type='lorra' is not known\. .*Did you mean 'lora'\?"),
        ("adapters.rank", 8, r"adapters has no key 'rank'\. Did you mean 'r'\?"),
        ("adapters.dropout", 0.1, r"adapters has no key 'dropout'\. Did you mean 'lora_dropout'\?"),
        ("adapters.alpha", 8, r"adapters has no key 'alpha'\. Did you mean 'lora_alpha'\?"),
        ("adapters.targets", "all-linear", r"adapters has no key 'targets'\. Did you mean 'target_modules'\?"),
        ("adapters", {"type": "ia3", "rank": 8}, r"adapters has no key 'rank'\. Known: "),
        ("adapters.lora_alfa", 8, r"adapters has no key 'lora_alfa'\..*Did you mean 'lora_alpha'\?"),
        ("adapters.r", "big", r"adapters\.r must be a whole number, got 'big'"),
        ("adapters.sharing", "shard", r"sharing='shard' is not known\. .*Did you mean 'shared'\?"),
        ("adapters.sharing_options", {"skills": 4}, r"sharing='private' has no options"),
        ("adapters.first_layer", "one", r"adapters\.first_layer must be a whole number, got 'one'"),
        ("adapters.modules_to_save", ["x"], r"modules_to_save=.*cannot be kept per task"),
        ("mixing.strategy", "temprature", r"mixing\.strategy='temprature'.*Did you mean 'temperature'\?"),
        ("mixing.temprature", 2, r"mixing has no key 'temprature'\..*Did you mean 'temperature'\?"),
        ("mixing.temperature", 0.5, r"mixing\.temperature=0\.5 must be 1"),
        ("mixing.cap", 0, r"mixing\.cap=0 must be 1 row or more"),
        ("mixing.weights", {"intnt": 1}, r"mixing\.weights has no key 'intnt'.*Did you mean 'intent'"),
        ("mixing.weights", [1, 2], r"mixing\.weights must hold keys and values, got \[1, 2\]"),
        ("mixing", {"weights": {"intent": "1 -"}}, r"mixing\.weights\['intent'\]='1 -' is not an expression"),
        ("mixing", {"weights": {"intent": True}}, r"mixing\.weights\.intent must be a number or text, got True"),
        ("mixing.strategy", "weights", r"mixing\.weights=None and mixing\.strategy='weights' do not fit together"),
        ("mixing.references", {"intent": "good"}, r"mixing\.references\.intent must be a number, got 'good'"),
        ("mixing.references", {"intent": 0}, r"mixing\.references\['intent'\]=0.0 must be a score above 0"),
        ("mixing.max_repeats", 0, r"mixing\.max_repeats=0.0 must be above 0"),
        ("mixing.batch_sizes", {"pos": "many"}, r"mixing\.batch_sizes\.pos must be a whole number, got 'many'"),
        ("mixing.max_tokens_per_batch", "all", r"mixing\.max_tokens_per_batch must be a whole number or null"),
        ("training.length_group", 4, r"write it as mixing\.length_group"),
        ("balancing", {"method": "pcgrd"}, r"balancing\.method='pcgrd' is not known\. .*Did you mean 'pcgrad'\?"),
        (
            "balancing",
            {"methd": "static"},
            r"balancing \(method static\) has no key 'methd'\..*Did you mean 'method'\?",
        ),
        ("balancing", {"method": "dwa", "windw": 5}, r"has no key 'windw'\..*Did you mean 'window'\?"),
        ("balancing", {"method": "dwa", "window": "few"}, r"balancing\.window must be a whole number, got 'few'"),
        ("training.balancing", "pcgrad", r"write it as `balancing: \{method: \.\.\.\}`"),
        ("training.learning_rat", 1, r"training has no key 'learning_rat'\..*Did you mean 'learning_rate'\?"),
        ("training.learning_rate", "fast", r"training\.learning_rate must be a number, got 'fast'"),
        ("training.num_train_epochs", [1], r"training\.num_train_epochs must be a number, got \[1\]"),
        ("training.eval_strategy", "epochs", r"training\.eval_strategy='epochs'.*Did you mean 'epoch'\?"),
        ("training.bf16", "maybe", r"training\.bf16 must be true or false, got 'maybe'"),
        ("training.temperature", 2, r"write it as mixing\.temperature"),
        ("training.output_dir", "x", r"come with the command: --output_dir"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest_known(
    path: str, value: Any, message: str, values: Values, load: Callable[..., Recipe]
) -> None:
    values.setdefault("balancing", {})
    with pytest.raises(ValueError, match=message):
        load(changed(values, path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone: x\ntasks: [a, b\n", r"recipe\.yaml', line 3, column 1: expected ',' or ']'"),
        ("backbone: x\ntasks:\n\ta: 1\n", r"line 3, column 1: found character '\\t'"),
        ("tasks:\n  a: {}\n  b: {}\n  a: {}\n", r"line 4, column 3: the key 'a' stands here again"),
        ("- a\n- b\n", r"must hold keys and values .*got \['a', 'b'\]"),
        ("", r"must hold keys and values .*got None"),
        ("a: b\x07c", r"line 1: the character 7 cannot stand in YAML"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Recipe.load(tmp_path / "recipe.yaml")


def test_a_recipe_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("backbone: x\n# Grüße\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 2: not UTF-8"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_a_missing_recipe_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(ValueError, match=r"no such file.*Did you mean 'recipe\.yaml'\?"):
        Recipe.load(tmp_path / "recipes.yaml")


# ---------------------------------------------------------------------- overrides


def test_overrides_set_values_and_the_text_says_the_same(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    given = {"training.learning_rate": 3e-5, "tasks.intent.weight": 2, "balancing.method": "static", "adapters": None}
    recipe = load(values, given)
    assert recipe.training["learning_rate"] == 3e-5
    assert recipe.tasks["intent"].weight == 2 and recipe.adapters is None
    again = tmp_path / "again.yaml"
    again.write_text(recipe.text)
    same = Recipe.load(again)
    for part in ("backbone", "tasks", "data", "adapters", "mixing", "balancing", "training"):
        assert getattr(same, part) == getattr(recipe, part), part


def test_without_overrides_the_text_is_the_file_with_its_comments(tmp_path: Path, values: Values) -> None:
    path = write_recipe(tmp_path, values)
    path.write_text("# mine\n" + path.read_text())
    assert Recipe.load(path).text == path.read_text()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trainin.seed", r"Override 'trainin\.seed'.*Did you mean 'training'\?"),
        ("training.sead", r"training has no key 'sead'\..*Did you mean 'seed'\?"),
        ("tasks.intnt.weight", r"tasks has no 'intnt'\..*Did you mean 'intent'\?"),
        ("tasks.intent.type.x", r"tasks\.intent\.type is 'text-classification', which has no keys"),
        ("backbone.x", r"backbone is .*, which has no keys"),
    ],
)
def test_an_override_of_nothing_is_refused(
    path: str, message: str, values: Values, load: Callable[..., Recipe]
) -> None:
    with pytest.raises(ValueError, match=message):
        load(values, {path: 1})


# ---------------------------------------------------------------------- data


ROWS = [{"text": 'a "quoted" text', "label": "NA"}, {"text": "null", "label": "é"}, {"text": "x, y", "label": "NA"}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".csv":
        datasets.Dataset.from_list(rows).to_csv(path)
    elif path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        write_jsonl(path, rows)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL", "rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl.gz"])
def test_every_kind_of_file_gives_its_rows_as_they_are(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / name, ROWS)
    loaded = TaskData.from_dict("t", {"train": name, "dev": [name, name]}, tmp_path).load()
    assert loaded["train"].to_list() == ROWS
    assert loaded["validation"].to_list() == ROWS * 2
    assert "test" not in loaded


def test_a_folder_of_the_hubs_layout_has_its_splits(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "set" / f"{split}.jsonl", ROWS)
    data = TaskData.from_dict("t", {"path": "set"}, tmp_path)
    assert {split: len(rows) for split, rows in data.load().items()} == {"train": 3, "validation": 3}
    named = TaskData.from_dict("t", {"path": "set", "train": "train[:2]", "test": "validation"}, tmp_path)
    assert {split: len(rows) for split, rows in named.load().items()} == {"train": 2, "test": 3}


def test_a_data_set_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    data = TaskData.from_dict("t", {"path": "nobody/no-such-data", "name": "small"}, tmp_path)
    with pytest.raises(ValueError, match=r"Task 't': data path 'nobody/no-such-data', name 'small' cannot be loaded"):
        data.load()


def test_a_file_is_looked_for_from_the_current_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "here" / "rows.jsonl", ROWS)
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    data = TaskData.from_dict("t", {"train": "here/rows.jsonl"}, tmp_path / "recipes")
    assert len(data.load()["train"]) == 3


def bad_line(rows: list[dict[str, Any]], column: str, value: Any) -> list[dict[str, Any]]:
    return [*rows[:3], {**rows[3], column: value}, *rows[4:]]


ANSWER = {"text": ["nowhere to be found"], "answer_start": [3]}


@pytest.mark.parametrize(
    ("task", "split", "content", "message"),
    [
        ("intent", "train", None, r"Task 'intent', split 'train': no such file: .*train\.jsonl\. Of the files in"),
        ("intent", "test", b"", r"Task 'intent', split 'test': no rows in "),
        ("intent", "validation", b'{"text": "a", "label": "b"}\n{"text": \n', r"line 2 is not a JSON object: '{"),
        ("pos", "validation", [{"words": ["a"], "tags": ["X"]}], r"'pos', split 'validation': .*no column 'tokens'"),
        (
            "intent", "validation", bad_line(some_rows("intent", "validation"), "label", "card_arival"),
            r"Split 'validation', row 3: Task 'intent': label 'card_arival'.*Did you mean 'card_arrival'\?",
        ),
        ("pos", "test", bad_line(some_rows("pos", "test"), "tags", ["NOUN"]), r"Split 'test', row 3: Task 'pos': "),
        ("answer", "train", bad_line(some_rows("answer", "train"), "answers", ANSWER), r"Task 'answer': "),
    ],
)  # fmt: skip
def test_bad_data_is_named_and_nothing_is_written(
    task: str, split: str, content: Any, message: str, values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    file = tmp_path / task / f"{split}.jsonl"
    if content is None:
        file.rename(file.with_name("trian.jsonl"))
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write_jsonl(file, content)
    with pytest.raises(ValueError, match=message):
        load(values).train(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named_with_the_nearest(values: Values, load: Callable[..., Recipe]) -> None:
    recipe = load(changed(values, "tasks.intent.data.train", "intents/train.jsonl"))
    with pytest.raises(ValueError, match=r"has no folder 'intents'\..*Did you mean 'intent'\?"):
        recipe.load_data()


def test_a_task_without_training_data_cannot_be_trained(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = load(changed(values, "tasks.pos.data.train", ...))
    with pytest.raises(ValueError, match=r"'pos' has no training data. Give it under tasks\.pos\.data\.train"):
        recipe.train(tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        ("backbone", "no/such-backbone", OSError, r"Backbone 'no/such-backbone': "),
        ("adapters.target_modules", ["nothing"], ValueError, r"nothing"),
    ],
)
def test_a_backbone_or_adapter_that_cannot_be_had_leaves_nothing(
    path: str,
    value: Any,
    error: type[Exception],
    message: str,
    values: Values,
    load: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        load(changed(values, path, value)).train(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_dir_that_is_a_file_is_refused(values: Values, load: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output_dir=.*recipe\.yaml' is a file"):
        load(values).train(tmp_path / "recipe.yaml")


def test_labels_that_the_recipe_gives_stay(values: Values, load: Callable[..., Recipe]) -> None:
    values["tasks"]["intent"]["labels"] = ["other", *reversed(LABELS)]
    recipe = load(values)
    intent, pos, _ = recipe.build_tasks(recipe.load_data(["train"]))
    assert intent.labels == ("other", *reversed(LABELS))
    assert "NOUN" in pos.labels


# ---------------------------------------------------------------------- training and scoring


def test_a_training_leaves_the_model_its_card_and_its_recipe(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    del values["tasks"]["pos"]["data"]["test"]
    del values["tasks"]["answer"]["data"]["validation"]
    recipe = load(values)
    trained = recipe.train(tmp_path / "out")
    assert trained.is_main and list(trained.reports) == ["validation", "test"]
    validation, test = trained.reports.values()
    assert set(validation.scores) == {"intent", "pos"} and set(test.scores) == {"intent", "answer"}
    assert set(test.baselines["intent"]) == set(test.scores["intent"]) == {"accuracy", "f1_macro"}
    assert test.baselines["intent"]["accuracy"] == 0.5  # two intents in turn
    assert test.metrics["test_intent_accuracy"] == test.scores["intent"]["accuracy"]
    main = (test.scores["intent"]["accuracy"] + test.scores["answer"]["f1"]) / 2
    assert test.metrics["test_mean_score"] == pytest.approx(main)
    assert (tmp_path / "out" / "recipe.yaml").read_text() == (tmp_path / "recipe.yaml").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert recipe.text in card and f"{test.scores['intent']['accuracy']:.4f}" in card
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    loaded = MultiTaskModel.from_pretrained(tmp_path / "out")
    for name, weights in trained.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name
    again = recipe.evaluate(loaded, "test", batch_size=3)
    assert again.scores == test.scores and again.baselines == test.baselines
    with pytest.raises(ValueError, match=r"split='tset' is not known\. .*Did you mean 'test'\?"):
        recipe.evaluate(loaded, "tset")


def test_the_same_recipe_gives_the_same_weights(values: Values, load: Callable[..., Recipe], tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)  # what ran before must not matter
        load(values).train(tmp_path / name)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_resumed_training_ends_where_an_unbroken_one_does(
    values: Values, load: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values["training"] |= {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    load(values).train(tmp_path / "out")
    whole = load_file(tmp_path / "out" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"has checkpoints of another run, checkpoint-3 the last\..*--resume; .*Recipe.train"
    ):
        load(values).train(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    for file in (tmp_path / "out" / "checkpoint-3").iterdir():
        file.unlink()
    (tmp_path / "out" / "checkpoint-3").rmdir()
    with caplog.at_level(logging.INFO, "hf_mtl"):
        load(values).train(tmp_path / "out", resume=True)
    assert f"goes on from {tmp_path / 'out' / 'checkpoint-2'}." in caplog.text
    resumed = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_resume_before_the_first_checkpoint_begins_at_the_start_and_says_so(
    strategy: str, values: Values, load: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values["training"] |= {"max_steps": 2, "save_strategy": strategy, "save_steps": 2}
    begun = tmp_path / "out" / "_saving" / "checkpoint-2"  # the job was killed in its first save
    begun.mkdir(parents=True)
    (begun / "model.safetensors").write_bytes(b"half of it")
    trained = load(values).train(tmp_path / "out", resume=True)
    assert trained.trainer.state.global_step == 2
    assert (
        f"There is no checkpoint-* in {str(tmp_path / 'out')!r} yet: the training begins at the start." in caplog.text
    )
    assert ("training.save_strategy" in caplog.text) == (strategy == "no")


def test_resume_does_not_begin_anew_where_the_only_checkpoint_is_damaged(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    values["training"] |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    load(values).train(tmp_path / "out")
    (tmp_path / "out" / "checkpoint-2" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no complete checkpoint.* checkpoint-2: it lacks model\.safetensors"):
        load(values).train(tmp_path / "out", resume=True)


def test_a_recipe_that_lies_in_the_output_dir_is_not_written_over(values: Values, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, values)
    before = path.read_text()
    Recipe.load(path, {"training.seed": 7}).train(tmp_path)
    assert path.read_text() == before
    assert "seed: 7" in (tmp_path / "README.md").read_text()


def test_a_model_is_scored_by_its_own_labels_and_must_have_the_tasks(
    values: Values, load: Callable[..., Recipe], tmp_path: Path
) -> None:
    trained = load(values).train(tmp_path / "out")
    only = changed(changed(values, "tasks.pos", ...), "tasks.answer", ...)
    del only["tasks"]["intent"]["data"]["train"]
    only["tasks"]["intent"]["labels"] = ["x", "y"]
    report = load(only).evaluate(trained.model, "test")
    assert list(report.scores) == ["intent"] and report.baselines == {}
    with pytest.raises(ValueError, match=r"No task of the recipe has a split 'train'\. There are .*'validation'"):
        load(only).evaluate(trained.model, "train")
    other = changed(only, "tasks", {"intents": only["tasks"]["intent"]})
    with pytest.raises(ValueError, match=r"The model has no task 'intents'\..*Did you mean 'intent'\?"):
        load(other).evaluate(trained.model, "test")
    tags = {"type": "token-classification", "data": values["tasks"]["pos"]["data"]}
    with pytest.raises(ValueError, match=r"'token-classification' in the recipe, and 'text-classification' in"):
        load(changed(values, "tasks.intent", tags)).evaluate(trained.model, "test")
