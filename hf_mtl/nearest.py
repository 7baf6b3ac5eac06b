"""Which of the known values was probably meant by one that is not known."""

import difflib
from collections.abc import Iterable

__all__ = ["closest", "nearest"]


def closest(value: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known value that is most like this one; None where none is.

    Args:
        value: what was given.
        known: what could have been meant.
        cutoff: how like it must be, from 0 to 1 (as for `difflib.get_close_matches`, whose own default this is).
    """
    return next(iter(difflib.get_close_matches(value, known, n=1, cutoff=cutoff)), None)


def nearest(value: str, known: Iterable[str]) -> str:
    """The end of an error message: the known values (of many the first), and the one that was probably meant."""
    known = list(known)
    close = closest(value, known) or _begun(value, known) or _continued(value, known)
    hint = "" if close is None else f" Did you mean {close!r}?"
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"Known: {known[:12]}{more}.{hint}"


def _begun(value: str, known: list[str]) -> str | None:
    """The only known value that begins like this one, whatever its hyphens: `multilabel`, `temp`."""
    begun = [name for name in known if len(value) > 2 and _letters(name).startswith(_letters(value))]
    return begun[0] if len(begun) == 1 else None


def _continued(value: str, known: list[str]) -> str | None:
    """The longest known value that this one begins with, as a whole word: `text_column` for `text`."""
    return max((name for name in known if value.startswith((f"{name}_", f"{name}-"))), key=len, default=None)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
