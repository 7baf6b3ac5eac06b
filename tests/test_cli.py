"""The command line: from a recipe to an answer, and one line for what a user got wrong."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from recipe_files import recipe_values, some_rows, write_jsonl, write_recipe
from safetensors.torch import load_file, save_file

from hf_mtl import MultiTaskModel, MultiTaskPipeline
from hf_mtl.cli import main

ROOT = Path(__file__).parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Arguments -> exit code, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[[], str]) -> tuple[Path, Path]:
    """A recipe, and the folder of the model that the command line trained by it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        recipe = write_recipe(folder, recipe_values(folder, tiny_backbone()))
        # The override comes first: its value must not be taken for the recipe.
        assert main(["train", "--training.max_steps", "3", str(recipe), "--output_dir", str(folder / "out")]) == 0
    return recipe, folder / "out"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# ---------------------------------------------------------------------- from a recipe to an answer


def test_train_prints_scores_beside_the_majority_and_how_to_ask(
    run: Run, tmp_path: Path, tiny_backbone: Callable[[], str]
) -> None:
    recipe = write_recipe(tmp_path, recipe_values(tmp_path, "no/such-backbone"))
    out = tmp_path / "out"
    code, printed, _ = run("train", recipe, f"--output_dir={out}", "--backbone", tiny_backbone(), "--training.seed=3")
    assert code == 0
    assert "Scores on the validation data" in printed and "Scores on the test data" in printed
    assert printed.count("task    metric        score  majority     gain") == 2
    assert f'The model is in {out}. Ask it:\n  hf-mtl predict {out} "Some text."\n' in printed
    assert MultiTaskModel.from_pretrained(out).config.backbone_name == tiny_backbone()
    assert "seed: 3" in (out / "recipe.yaml").read_text()


def test_evaluate_prints_the_table_and_writes_every_metric(
    trained: tuple[Path, Path], run: Run, tmp_path: Path
) -> None:
    recipe, model = trained
    code, printed, said = run("evaluate", model, recipe, "--split", "dev", "--output", tmp_path / "scores.json")
    assert code == 0 and f"Model '{model}': taken from this folder." in said and "Backbone" not in said
    metrics = json.loads((tmp_path / "scores.json").read_text())
    assert {"validation_intent_accuracy", "validation_pos_accuracy", "validation_answer_f1"} < set(metrics)
    assert f"mean of the tasks' main metrics: {metrics['validation_mean_score']:.4f}" in printed
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("intent  accuracy")]
    assert row[2:4] == [f"{metrics['validation_intent_accuracy']:.4f}", "0.5000"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.json"]


def test_evaluate_takes_a_batch_size_and_other_data(trained: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    recipe, model = trained
    other = write_jsonl(tmp_path / "other.jsonl", some_rows("intent", "test", 3))
    asked = (
        "evaluate",
        model,
        recipe,
        "--batch_size",
        2,
        "--tasks.intent.data.test",
        other,
        "--output",
        tmp_path / "o.json",
    )
    assert run(*asked)[0] == 0
    assert json.loads((tmp_path / "o.json").read_text())["test_intent_accuracy"] * 3 % 1 == pytest.approx(0, abs=1e-9)


def test_predict_answers_as_the_pipeline_does(trained: tuple[Path, Path], run: Run) -> None:
    texts = ["I lost my card", "Café 🙂"]
    code, printed, _ = run("predict", trained[1], *texts, "--tasks", "intent, pos", "--batch_size", 1)
    assert code == 0
    answers = MultiTaskPipeline(MultiTaskModel.from_pretrained(trained[1]), tasks=["intent", "pos"])(
        texts, batch_size=1
    )
    assert lines(printed) == [{"text": t, "predictions": a} for t, a in zip(texts, answers, strict=True)]
    assert "Café 🙂" in printed


def test_predict_answers_every_line_of_a_file(trained: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    squad = some_rows("answer", "test", 1)[0]
    examples = ["plain", {"text": "with an id", "id": 7}, squad, "", "half \ud800", "nul \0"]
    file, out = write_jsonl(tmp_path / "in.jsonl", examples), tmp_path / "out.jsonl"
    assert run("predict", trained[1], "--input", file, "--output", out)[:2] == (0, "")
    answered = lines(out.read_text())
    for example, line in zip(examples, answered, strict=True):
        given = {"text": example} if isinstance(example, str) else example
        assert {key: value for key, value in line.items() if key != "predictions"} == given
    assert [sorted(line["predictions"]) for line in answered[:3]] == [["intent", "pos"], ["intent", "pos"], ["answer"]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".csv", 'text,id\n"a card, lost",7\nNA,8\n'),
        (".tsv", "text\tid\na card, lost\t7\nNA\t8\n"),
        (".txt", "a card, lost\n\nNA\n"),
        (".json", '[{"text": "a card, lost"}, {"text": "NA"}]'),
        (".parquet", None),
    ],
)
def test_predict_reads_what_recipes_read(
    ending: str, content: str | None, trained: tuple[Path, Path], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / f"in{ending}"
    if content is None:
        when = datetime.date(2026, 1, 2)
        datasets.Dataset.from_dict({"text": ["a card, lost", "NA"], "day": [when, when]}).to_parquet(file)
    else:
        file.write_text(content)
    code, printed, _ = run("predict", trained[1], "--input", file)
    answered = lines(printed)
    assert code == 0 and [line["text"] for line in answered] == ["a card, lost", "NA"]
    asked = lines(run("predict", trained[1], "a card, lost", "NA")[1])
    assert [line["predictions"] for line in answered] == [line["predictions"] for line in asked]
    assert answered[0].get("day", "2026-01-02") == "2026-01-02"


def test_predict_reads_the_words_of_treebanks_and_names_a_row(
    trained: tuple[Path, Path], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "in.conllu"
    words = [("I", "PRON"), ("lost", "VERB"), ("it", "PRON")]
    rows = [f"{i}\t{word}\t_\t{tag}\t_\t_\t{i - 1}\tdep\t_\t_" for i, (word, tag) in enumerate(words, 1)]
    file.write_text("# text = I lost it\n" + "\n".join(rows) + "\n\n")
    code, printed, _ = run("predict", trained[1], "--input", file, "--tasks", "pos")
    assert code == 0 and [answer["word"] for answer in lines(printed)[0]["predictions"]["pos"]] == ["I", "lost", "it"]
    file = tmp_path / "in.csv"
    file.write_text("question,context\nwho,me\n,you\n")
    code, _, errors = run("predict", trained[1], "--input", file)
    assert code == 2 and f"{file}, row 2: Task 'answer': column 'question' is empty" in errors
    file.write_text("")
    assert f"--input {file}: the file is empty" in run("predict", trained[1], "--input", file)[2]


def test_the_script_for_launchers_is_the_same_training(trained: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, model = trained
    command = [sys.executable, ROOT / "recipes" / "finetune.py", recipe, "--output_dir", tmp_path / "out"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--training.max_steps", "3"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Scores on the test data" in done.stdout
    first, second = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "out"))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


# ---------------------------------------------------------------------- what a user got wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml", "--output_dir", "OUT"], "error: Recipe 'none.yaml': no such file."),
        (["train", "RECIPE", "--output_dir", "OUT", "--training.sead", "1"], "error: training has no key 'sead'."),
        (["train", "RECIPE", "--output_dir", "OUT", "--trainin.seed=1"], "error: Override 'trainin.seed'"),
        (["train", "RECIPE", "--output_dir", "OUT", "--training.bf16"], "error: --training.bf16 needs a value"),
        (["train", "RECIPE", "--training.bf16", "--output_dir", "OUT"], "error: --training.bf16 needs a value"),
        (["train", "RECIPE", "--output_dir", "OUT", "--training.seed", "["], "error: --training.seed [, line 1"),
        (["evaluate", "MODEL", "RECIPE", "--split", "tset"], "error: split='tset' is not known."),
        (["evaluate", "MODEL", "RECIPE", "--output", "no/such/f.json"], "error: --output no/such/f.json: the folder"),
        (["predict", "MODEL"], "error: Give either texts to answer or --input FILE."),
        (["predict", "MODEL", "a", "--input", "b.jsonl"], "error: Give either texts to answer or --input"),
        (["predict", "MODEL", "--input", "none.jsonl"], "error: --input none.jsonl: no such file."),
        (["predict", "MODEL", "--input", "TOML"], "rows.toml: the ending '.toml' is not"),
        (["predict", "MODEL", "a", "--tasks", "intnt"], "Did you mean 'intent'?"),
        (["predict", "MODEL", "a", "--output", "."], "error: --output . is a folder"),
        (["predict", "no/such/folder", "a"], "error: Model 'no/such/folder' is neither an existing folder nor"),
        (["predict", "no-such-model", "a"], "error: Model 'no-such-model': the Hub cannot be reached"),
        (
            ["predict", ".", "a"],
            "error: '.' is no folder that `hf-mtl train --output_dir` wrote: it has no config.json",
        ),
        (["predict", "BACKBONE", "a"], "its config.json is of a 'bert' model."),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    trained: tuple[Path, Path],
    tiny_backbone: Callable[[], str],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"RECIPE": trained[0], "MODEL": trained[1], "OUT": tmp_path / "out", "BACKBONE": tiny_backbone()}
    names["TOML"] = trained[0].with_name("rows.toml")
    names["TOML"].write_text("text = 'hello'", encoding="utf-8")
    code, printed, errors = run(*[names.get(argument, argument) for argument in arguments])
    said = errors.strip().splitlines()[-1]
    assert code == 2 and printed == ""
    assert message in said and said.startswith("error: ") and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"a"\n{"text": \n', "in.jsonl, line 2 is not JSON in UTF-8: '{\"text\":'"),
        ('"a"\n\n"b"\n', "in.jsonl, line 2 is not JSON in UTF-8: ''"),
        ('"a"\n"b"\n12\n', "in.jsonl, line 3 must be a string or an object, got 12"),
        ('"a"\nnull\n', "in.jsonl, line 2 must be a string or an object, got None"),
        ('"a"\n{"question": "b"}\n', "in.jsonl, line 2: No task can answer the input, which has ['question']"),
        ('"a"\n"b"\n{"text": null}\n', "in.jsonl, line 3: Task 'intent': 'text' must be a string, got NoneType"),
        ('"a"\n{"question": "", "context": "c"}\n', "in.jsonl, line 2: Task 'answer': column 'question' is empty"),
    ],
)
def test_a_bad_line_is_named_and_the_old_output_stays(
    content: str, message: str, trained: tuple[Path, Path], run: Run, tmp_path: Path
) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(content)
    out.write_text("old\n")
    code, _, errors = run("predict", trained[1], "--input", file, "--output", out)
    assert code == 2 and message in errors
    assert out.read_text() == "old\n" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [("cut short", "cut short or damaged"), ("wrong shapes", "not of the shapes that config.json says")],
)
def test_damaged_weights_are_named(
    damage: str, said: str, trained: tuple[Path, Path], run: Run, tmp_path: Path
) -> None:
    for file in trained[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    if damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:2000])
    else:
        wrong = {
            key: torch.zeros(3, 5) if key.endswith("classifier.weight") else v for key, v in load_file(weights).items()
        }
        save_file(wrong, weights, metadata={"format": "pt"})
    code, printed, errors = run("predict", tmp_path, "a")
    assert (code, printed) == (2, "")
    assert "error: " in errors and str(tmp_path) in errors and said in errors and "Traceback" not in errors


def test_debug_shows_where_an_error_comes_from(run: Run) -> None:
    with pytest.raises(ValueError, match="no such file"):
        run("train", "none.yaml", "--output_dir", "out", "--debug")


def test_an_interrupt_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_mtl.recipe.Recipe.load", interrupted)
    assert run("train", "x.yaml", "--output_dir", "out") == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "x.yaml"], "required: --output_dir"),
        (["predict", "x", "a", "--batch_size", "0"], "must be a whole number of 1 or more, got '0'"),
        (["train", "x.yaml", "--output_dir", "o", "--unknown", "1"], "unrecognized arguments: --unknown 1"),
    ],
)
def test_wrong_usage_is_argparses_matter(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_help_and_version_import_nothing_slow() -> None:
    program = (
        "import json, sys, time; start = time.perf_counter()\n"
        "from hf_mtl.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: took = time.perf_counter() - start; code = end.code\n"
        "slow = {'torch', 'transformers', 'peft', 'datasets', 'numpy', 'yaml'} & set(sys.modules)\n"
        "json.dump([code, sorted(slow), took], sys.stderr)"
    )
    runs = []
    for _ in range(3):  # the least of three: other programs run beside this one
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
        assert "train" in done.stdout and "evaluate" in done.stdout and "predict" in done.stdout
        code, slow, took = json.loads(done.stderr)
        assert (code, slow) == (0, [])
        runs.append(took)
    assert min(runs) < 0.3


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import hf_mtl

    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"hf-mtl {hf_mtl.__version__}\n"
