"""What all tests share: tiny backbones, and small real data."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported; the Hub's tests run the client elsewhere
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback_hub import loopback_hub  # noqa: F401
from tiny import RECIPE_DATA, make_backbone, read_jsonl


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """kind -> folder with a tiny random backbone of that architecture and its tokenizer."""
    made: dict[str, str] = {}

    def backbone(kind: str = "bert") -> str:
        if kind not in made:
            made[kind] = make_backbone(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return backbone


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[dict]]:
    """(task, split, number) -> rows of the quickstart's data."""

    def read(task: str, split: str = "train", number: int = 40) -> list[dict]:
        return read_jsonl(Path(RECIPE_DATA, task, f"{split}.jsonl"), number)

    return read


@pytest.fixture
def torchs_products() -> Iterator[None]:
    """Adapters by torch's products, also where compiled ones are there."""
    from hf_mtl.adapters import native

    before = native.instructions()
    native.use_instructions(None)
    yield
    native.use_instructions(before and "best")
