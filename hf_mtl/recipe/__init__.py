"""A recipe: a YAML file that says all of a training, from the backbone to the seed."""

from .data import SPLITS, TaskData
from .document import parse_value
from .recipe import SECTIONS, Recipe
from .runs import Report, Trained

__all__ = ["SECTIONS", "SPLITS", "Recipe", "Report", "TaskData", "Trained", "parse_value"]
