"""A broken line in the middle of a file, read whole or as a stream: file and line are named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hf_mtl.recipe.data import TaskData

GOOD = [json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) for i in range(40)]
WAYS: list[dict[str, Any]] = [{}, {"streaming": True, "max_rows": 30}]


def load(file: Path, **options: Any) -> Any:
    return TaskData.from_dict("topic", {"train": str(file)} | options).load(["train"])["train"]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_was_cut_off_is_named_with_its_file(tmp_path: Path, packed: bool, options: dict[str, Any]) -> None:
    file = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    content = "\n".join([*GOOD[:17], '{"text": "cut of', *GOOD[17:]]).encode()
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError) as caught:
        load(file, **options)
    assert str(caught.value) == (
        f"Task 'topic', split 'train': {file}, line 18 is not a JSON object: '{{\"text\": \"cut of'."
    )


@pytest.mark.parametrize("options", WAYS)
def test_a_packed_file_that_breaks_off_is_named_with_the_last_line_that_is_whole(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(GOOD * 100).encode())[:-20])
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz cannot be read behind line \d+: Compressed file ended"):
        load(file, **options)


def test_a_stream_stops_before_rows_that_it_does_not_need(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(GOOD), encoding="utf-8")
    assert len(load(file, streaming=True, max_rows=30)) == 30
