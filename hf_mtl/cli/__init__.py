"""The command line: `hf-mtl train | evaluate | predict | inspect`."""

from .arguments import main

__all__ = ["main"]
