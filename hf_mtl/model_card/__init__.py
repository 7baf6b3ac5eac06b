"""The card of a model: its config, scores and data as the README.md of its repository."""

from .card import render_card, write_card
from .metadata import DataSet

__all__ = ["DataSet", "render_card", "write_card"]
