"""Registration with transformers, whatever is imported first: each order in a fresh process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_mtl import MultiTaskModel, TextClassification

CHECK = """
from transformers import AutoConfig, AutoModel, pipeline
import sys
folder = sys.argv[1]
assert type(AutoConfig.from_pretrained(folder)).__name__ == "MultiTaskConfig"
assert type(AutoModel.from_pretrained(folder)).__name__ == "MultiTaskModel"
assert set(pipeline("multitask-nlp", model=folder)("a text")) == {"topic"}
"""
ORDERS = {
    "the package": "import hf_mtl",
    "the config": "from hf_mtl import MultiTaskConfig",
    "the model": "from hf_mtl import MultiTaskModel",
    "a task": "from hf_mtl import TextClassification",
    "the trainer": "from hf_mtl import MultiTaskTrainer",
    "the package, then Trainer": "import hf_mtl; from transformers import Trainer",
    "the package, then peft": "import hf_mtl, peft",
    "transformers' tables": "from transformers import AutoModel, pipeline; import hf_mtl",
    "the config's module": "import hf_mtl.config",
    "the pipeline's module": "import hf_mtl.pipeline",
}


@pytest.fixture(scope="module")
def saved(tiny_backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    topic = TextClassification(name="topic", labels=("x", "y"))
    MultiTaskModel.from_backbone(tiny_backbone(), [topic]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("first", ORDERS)
def test_auto_classes_and_pipeline_know_the_model(first: str, saved: Path) -> None:
    run = subprocess.run([sys.executable, "-c", ORDERS[first] + CHECK, str(saved)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


def test_what_was_loaded_by_remote_code_is_saved_again(saved: Path, tmp_path: Path) -> None:
    code = """
import sys
from transformers import AutoConfig, AutoModel, pipeline
first = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
first.save_pretrained(sys.argv[2] + "/model")
pipeline("multitask-nlp", model=sys.argv[1], trust_remote_code=True).model.save_pretrained(sys.argv[2] + "/pipeline")
AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2] + "/config")
assert set(pipeline("multitask-nlp", model=sys.argv[2] + "/model")("a text")) == {"topic"}
"""
    run = subprocess.run([sys.executable, "-c", code, str(saved), str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    for folder in ("model", "pipeline"):
        assert {file.name for file in (tmp_path / folder).iterdir()} == {file.name for file in saved.iterdir()}


def test_importing_the_package_costs_next_to_nothing() -> None:
    script = "import transformers, time; t = time.perf_counter(); import hf_mtl; print(time.perf_counter() - t)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.1
