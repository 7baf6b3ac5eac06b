"""What is wrong with a value that should be a finite number."""

import re
import sys
from typing import Any

from .inputs import shown

__all__ = ["is_written_number", "number_fault"]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def number_fault(task: str, column: str, value: Any) -> str | None:
    """What is wrong with what a column of numbers holds, as a message; None where nothing is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return None
    way = "Write it without quotation marks." if is_written_number(value) else "Leave out rows that have none."
    return f"Task {task!r}: column {column!r} must hold a finite number, got {shown(value)}. {way}"


def is_written_number(value: Any) -> bool:
    """Whether this is the text of a number, such as "3.5"."""
    return isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None
