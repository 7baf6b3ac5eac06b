"""What a message takes a slip of the pen for."""

import pytest

from hf_mtl.nearest import nearest

TYPES = ["multi-label-classification", "multiple-choice", "text-classification", "text-generation"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("text-clasification", "text-classification"),
        ("multilabel", "multi-label-classification"),
        ("Multi_Label", "multi-label-classification"),
        ("text-generation-of-long-and-short-answers", "text-generation"),
    ],
)
def test_a_slip_or_a_beginning_is_recognized(given: str, meant: str) -> None:
    assert nearest(given, TYPES).endswith(f"Did you mean {meant!r}?")


@pytest.mark.parametrize("given", ["xyz", "te", "text-"])
def test_what_could_be_several_or_none_is_not_guessed(given: str) -> None:
    assert "Did you mean" not in nearest(given, TYPES)
