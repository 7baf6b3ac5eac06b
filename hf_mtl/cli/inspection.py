"""What `hf-mtl inspect` found, as lines of text."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .files import to_json

if TYPE_CHECKING:
    from ..recipe.inspection import Example, Lengths, SplitReport, TaskReport

__all__ = ["report_lines"]

_LABELS = 10
_LONGEST = 300  # characters of a value


def report_lines(reports: Mapping[str, "TaskReport"], *, ascii_only: bool = False) -> Iterator[str]:
    """The reports of a recipe's tasks; `ascii_only`: for a screen that knows no other letters."""
    for name, report in reports.items():
        yield f"{name} ({report.type})"
        for split, found in report.splits.items():
            yield from _split(split, found, ascii_only)
            if found.unknown:
                new = _new_labels(report, split, ascii_only)
                yield f"    {_rows(found.unknown)} with a label that no training row has{new}"
        for column in report.unread:
            yield f"  the column {column!r} is not read; {column}: {column} in the task reads it"
        for number, example in enumerate(report.examples, 1):
            yield from _example(number, example, ascii_only)
        yield ""


def _split(split: str, found: "SplitReport", ascii_only: bool) -> Iterator[str]:
    yield f"  {split}: {_rows(found.rows)}"
    yield f"    subwords: {_lengths(found.lengths, found.rows)}, {found.lengths.windowed:.1%} in windows"
    if found.targets is not None:
        yield f"    targets: {_lengths(found.targets, found.rows)}"
    if found.labels:
        shown = [f"{_label(name, ascii_only)} {count}" for name, count in list(found.labels.items())[:_LABELS]]
        more = f", and {len(found.labels) - _LABELS} more" if len(found.labels) > _LABELS else ""
        yield f"    labels ({len(found.labels)}): {', '.join(shown)}{more}"
    if found.unlabelled:
        yield f"    {_rows(found.unlabelled)} without a label"


def _new_labels(report: "TaskReport", split: str, ascii_only: bool) -> str:
    """The labels of a split that the training rows lack."""
    known = report.splits["train"].labels
    new = [_label(name, ascii_only) for name in report.splits[split].labels if name not in known]
    more = f", and {len(new) - _LABELS} more" if len(new) > _LABELS else ""
    return f": {', '.join(new[:_LABELS])}{more}" if new else ""


def _lengths(sizes: "Lengths", rows: int) -> str:
    measured = "" if sizes.rows == rows else f" (of {sizes.rows} rows drawn)"
    return (
        f"median {sizes.median}, 95% up to {sizes.p95}, longest {sizes.longest}{measured}; of at most {sizes.limit}: "
        f"{sizes.cut:.1%} cut"
    )


def _example(number: int, example: "Example", ascii_only: bool) -> Iterator[str]:
    windows = len(example.subwords)
    more = f" (the first of {windows} inputs)" if windows > 1 else ""
    yield f"  example {number}: {_short(to_json(dict(example.row), ascii_only=ascii_only))}"
    yield f"    subwords{more}: {_short(_joined(next(iter(example.subwords), ()), ascii_only))}"
    if example.targets:
        yield f"    target subwords: {_short(_joined(example.targets[0], ascii_only))}"
    yield f"    gold: {_short(to_json(example.gold, ascii_only=ascii_only))}"


def _joined(subwords: Iterable[str], ascii_only: bool) -> str:
    return "|".join(to_json(subword, ascii_only=ascii_only)[1:-1] for subword in subwords)


def _label(name: Any, ascii_only: bool) -> str:
    return to_json(name, ascii_only=ascii_only)[1:-1]


def _rows(number: int) -> str:
    return f"{number} row" + "s" * (number != 1)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
