"""Losses in a recipe: fields of a task, teachers and R-Drop."""

from pathlib import Path
from typing import Any

import pytest
from recipe_files import recipe_values, write_recipe

from hf_mtl.recipe import Recipe


@pytest.fixture
def values(tmp_path: Path, tiny_backbone: Any) -> dict[str, Any]:
    return recipe_values(tmp_path, tiny_backbone())


def test_a_recipe_says_smoothing_weights_teachers_and_r_drop(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    values["tasks"]["intent"] |= {"label_smoothing": "1e-1", "class_weights": "balanced"}
    values["tasks"]["pos"] |= {"class_weights": {"NOUN": 2}}
    teachers = {"intent": "alone", "pos": "you/teacher"}
    values["training"] |= {"teachers": teachers, "r_drop": {"pos": "5e-1"}, "teacher_weight": 0.5}
    recipe = Recipe.load(write_recipe(tmp_path, values))
    args = recipe.training_arguments(tmp_path / "out")
    assert args.paths_of_teachers() == {"intent": str(tmp_path / "alone"), "pos": "you/teacher"}
    assert args.r_drop_of(["pos", "intent"]) == {"pos": 0.5} and args.teacher_weight == 0.5
    intent, pos, _ = recipe.build_tasks(recipe.load_data(["train"]))
    assert intent.label_smoothing == 0.1 and set(intent.class_weights.values()) == {1.0}
    assert pos.class_weights == {"NOUN": 2.0}


def test_one_number_is_r_drop_of_all_tasks(values: dict[str, Any], tmp_path: Path) -> None:
    values["training"] |= {"r_drop": 1.5}
    args = Recipe.load(write_recipe(tmp_path, values)).training_arguments(tmp_path / "out")
    assert args.r_drop_of(["pos", "intent"]) == {"pos": 1.5, "intent": 1.5}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("teachers", {"intnet": "alone"}, "training.teachers has no key 'intnet'.*Did you mean 'intent'"),
        ("r_drop", {"intnet": 1.0}, "training.r_drop has no key 'intnet'"),
        ("r_drop", {"intent": "much"}, "training.r_drop.intent must be a number, got 'much'"),
        ("teachers", {"intent": ["a"]}, "training.teachers.intent must be text"),
    ],
)
def test_slips_are_named_by_their_path(
    key: str, value: Any, message: str, values: dict[str, Any], tmp_path: Path
) -> None:
    values["training"] |= {key: value}
    with pytest.raises(ValueError, match=message):
        Recipe.load(write_recipe(tmp_path, values))
