"""Recipes of tasks that write or fill in, by the command line: an encoder-decoder, a decoder, an encoder."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from recipe_files import TRAINING, recipe_values, some_rows, write_jsonl, write_recipe
from transformers import AutoTokenizer

from hf_mtl import MultiTaskModel
from hf_mtl.cli import main

Run = Callable[..., tuple[int, str, str]]
SPLITS = ("train", "validation", "test")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Arguments -> exit code, stdout, stderr."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def language_recipe(folder: Path, backbone: str, tasks: dict[str, dict[str, Any]], beside: tuple[str, ...]) -> Path:
    """A recipe of tasks on pairs of texts, beside some of the usual ones."""
    values = recipe_values(folder, backbone)
    for split in SPLITS:
        texts = [row["text"] for row in some_rows("intent", split, 4)]
        pairs = [{"source": text, "target": " ".join(reversed(text.split())), "text": text} for text in texts]
        write_jsonl(folder / "pairs" / f"{split}.jsonl", pairs)
    data = {split: f"pairs/{split}.jsonl" for split in SPLITS}
    values["tasks"] = {name: task | {"data": data} for name, task in tasks.items()} | {
        name: values["tasks"][name] for name in beside
    }
    values["training"] = dict(TRAINING) | {"max_steps": 3}
    return write_recipe(folder, values)


def predicted(line: str) -> dict[str, Any]:
    return json.loads(line)["predictions"]


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "shared"])
def test_a_t5_translates_classifies_tags_and_answers(
    adapters: bool, run: Run, tmp_path: Path, tiny_backbone: Callable[[str], str]
) -> None:
    task = {"type": "translation", "text": "source", "prefix": "turn round: ", "max_target_length": 12}
    recipe = language_recipe(
        tmp_path, tiny_backbone("t5"), {"turned": task | {"generation": {"num_beams": 2}}}, ("intent", "pos", "answer")
    )
    out = tmp_path / "out"
    code, printed, problem = run("train", recipe, "--output_dir", out, *([] if adapters else ["--adapters", "null"]))
    assert code == 0, problem
    for name, metric in (("turned", "bleu"), ("intent", "accuracy"), ("pos", "accuracy"), ("answer", "f1")):
        assert any(line.split()[:2] == [name, metric] for line in printed.splitlines())
    card = (out / "README.md").read_text()
    assert "the backbone's own language model as its head (`turned`) or a head of its own (`intent`, `pos`" in card
    task = MultiTaskModel.from_pretrained(out).task("turned")
    assert (task.prefix, task.max_target_length, task.generation) == ("turn round: ", 12, {"num_beams": 2})

    asked = write_jsonl(tmp_path / "asked.jsonl", [{"text": "lost", "question": "What?", "context": "a card"}])
    code, printed, _ = run("predict", out, "--input", asked)
    assert code == 0 and list(predicted(printed)) == ["turned", "intent", "pos", "answer"]

    if not adapters:
        return
    # A bias towards one subword makes the model write nothing else: options reach it from both commands.
    tokenizer = AutoTokenizer.from_pretrained(out)
    word = next(i for i in range(10, 900) if tokenizer.decode([i]).isalpha())
    options = f"{{max_new_tokens: 3, sequence_bias: [[[{word}], 1000.0]]}}"
    code, printed, _ = run("predict", out, "lost", "--tasks", "turned", "--generation", options)
    written = predicted(printed)["turned"]["translation_text"]
    assert code == 0 and written == tokenizer.decode([word] * 3)
    test = write_jsonl(tmp_path / "forced.jsonl", [{"source": "lost", "target": written}])
    scores = tmp_path / "scores.json"
    biased = ("evaluate", out, recipe, "--output", scores, "--tasks.turned.data.test", test)
    assert run(*biased, "--tasks.turned.generation", options)[0] == 0
    assert json.loads(scores.read_text())["test_turned_chrf"] == 1
    assert run(*biased)[0] == 0
    assert json.loads(scores.read_text())["test_turned_chrf"] < 1


def test_a_decoder_writes_classifies_and_tags(run: Run, tmp_path: Path, tiny_backbone: Callable[[str], str]) -> None:
    task = {"type": "text-generation", "text": "target", "prompt": "source"}
    recipe = language_recipe(tmp_path, tiny_backbone("gpt2"), {"written": task}, ("intent", "pos"))
    out = tmp_path / "out"
    # A key that the recipe lacks may be set on the way to an option.
    code, printed, problem = run("train", recipe, "--output_dir", out, "--tasks.written.generation.max_new_tokens", "2")
    assert code == 0, problem
    assert any(line.split()[:2] == ["written", "perplexity"] for line in printed.splitlines())
    card = (out / "README.md").read_text()
    assert "Of `perplexity` lower is better, and more than 1 is possible." in card
    assert MultiTaskModel.from_pretrained(out).task("written").generation == {"max_new_tokens": 2}
    code, printed, _ = run("predict", out, "I lost my")
    answers = predicted(printed)
    assert code == 0 and list(answers) == ["written", "intent", "pos"]
    code, printed, _ = run("predict", out, "I lost my", "--tasks", "written", "--generation", "{max_new_tokens: 9}")
    assert code == 0 and len(predicted(printed)["written"]["generated_text"]) > len(
        answers["written"]["generated_text"]
    )
    scores = tmp_path / "scores.json"
    assert run("evaluate", out, recipe, "--output", scores)[0] == 0
    assert {"test_written_token_accuracy", "test_written_perplexity", "test_pos_accuracy"} < set(
        json.loads(scores.read_text())
    )


def test_an_encoder_fills_masks_and_classifies(run: Run, tmp_path: Path, tiny_backbone: Callable[[str], str]) -> None:
    recipe = language_recipe(tmp_path, tiny_backbone("bert"), {"domain": {"type": "fill-mask"}}, ("intent",))
    out = tmp_path / "out"
    code, printed, problem = run("inspect", recipe, "--rows", "1")
    assert code == 0, problem
    assert "domain (fill-mask)\n  train: 4 rows\n    subwords: median" in printed
    code, printed, problem = run("train", recipe, "--output_dir", out)
    assert code == 0, problem
    assert any(line.split()[:2] == ["domain", "pseudo_perplexity"] for line in printed.splitlines())
    code, printed, _ = run("predict", out, "I lost my [MASK].")
    filled = predicted(printed)["domain"]
    assert code == 0 and len(filled) == 5 and filled[0]["sequence"].startswith("I lost my ")
    assert run("evaluate", out, recipe)[0] == 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"generation": {"num_beems": 2}}, r"generation has an option 'num_beems'"),
        ({"generation": {"num_beams": 0}}, "generation.num_beams must be a whole number of 1 or more, got 0"),
        ({"generation": {"num_return_sequences": 3}}, "num_return_sequences=3 needs num_beams=3 or more"),
        ({"generation": 4}, "tasks.turned.generation must be keys and values or null, got 4"),
        ({"type": "fill-mask"}, "needs a masked language model"),
        ({"type": "text-generation", "text": "target"}, "needs a decoder"),
        ({"prefix": 3.5, "max_target_length": "long"}, "tasks.turned.max_target_length must be a whole number"),
    ],
)
def test_what_a_user_got_wrong_is_said_before_anything_is_read(
    said: dict[str, Any], message: str, run: Run, tmp_path: Path, tiny_backbone: Callable[[str], str]
) -> None:
    task = {"type": "translation", "text": "source"} | said
    recipe = language_recipe(tmp_path, tiny_backbone("t5"), {"turned": task}, ("intent",))
    for command in (["inspect", recipe], ["train", recipe, "--output_dir", tmp_path / "out"]):
        code, _, problem = run(*command)
        assert code == 2 and message in problem
    assert not (tmp_path / "out").exists()


def test_a_scorer_that_is_not_installed_is_asked_for_before_the_training(
    run: Run, tmp_path: Path, tiny_backbone: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)  # as Python itself marks what cannot be imported
    task = {"type": "translation", "text": "source", "max_target_length": 4}
    recipe = language_recipe(tmp_path, tiny_backbone("t5"), {"turned": task}, ())
    code, printed, problem = run("train", recipe, "--output_dir", tmp_path / "out")
    assert code == 2 and "need sacrebleu: pip install 'hf_mtl[generation]', from a clone pip install" in problem
    assert "train_loss" not in printed
