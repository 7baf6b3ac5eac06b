"""The documentation names what there is."""

from pathlib import Path

import pytest

from hf_mtl.tasks import TASK_TYPES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/tasks.md"])
@pytest.mark.parametrize(
    "name", sorted(name for name, kind in TASK_TYPES.items() if kind.__module__.startswith("hf_mtl"))
)
def test_every_task_type_is_in(page: str, name: str) -> None:
    assert f"`{name}`" in (ROOT / page).read_text(encoding="utf-8")
