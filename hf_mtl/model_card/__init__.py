"""The card of a model: its config, scores and data as the README.md of its repository."""

from .card import render_card, write_card

__all__ = ["render_card", "write_card"]
