"""The command line: `hf-mtl train | evaluate | predict`."""

from .arguments import main

__all__ = ["main"]
