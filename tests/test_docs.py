"""The documentation names what there is."""

from pathlib import Path

import pytest

from hf_mtl.balancing import BALANCING_METHODS, balancing_options
from hf_mtl.tasks import TASK_TYPES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/tasks.md"])
@pytest.mark.parametrize(
    "name", sorted(name for name, kind in TASK_TYPES.items() if kind.__module__.startswith("hf_mtl"))
)
def test_every_task_type_is_in(page: str, name: str) -> None:
    assert f"`{name}`" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BALANCING_METHODS)
def test_every_balancing_method_and_its_options_are_in(name: str) -> None:
    lines = (ROOT / "docs" / "balancing.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"| `{name}` |"))
    assert all(f"`{option}`" in line for option in balancing_options(name) if option != "normalize")
