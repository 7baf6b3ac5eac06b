"""What every score shares: an `evaluate` module without files, and checks of what it is given."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets
import evaluate

TEXT = datasets.Value("string")
TEXTS = datasets.List(TEXT)


class LocalMetric(evaluate.Metric):
    """An `evaluate` module that keeps its rows in memory.

    The base class makes a folder in the user's cache for every module, and a locked file in it. That fails
    where the cache is read-only, and processes that score at the same time wait for each other.

    Args:
        keep_in_memory: False brings the files back; `num_process > 1` needs them.
        **options: The other arguments of `evaluate.Metric`.
    """

    columns: ClassVar[dict[str, Any]]
    source: ClassVar[str] = ""

    def __init__(self, *, keep_in_memory: bool = True, **options: Any) -> None:
        super().__init__(keep_in_memory=keep_in_memory, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation=self.source, features=datasets.Features(self.columns)
        )

    def _build_data_dir(self) -> str:
        # The base class creates the folder here even when it will write nothing to it.
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _finalize(self) -> None:
        if self.keep_in_memory and self.writer is None:
            raise ValueError(f"{type(self).__name__} has no rows yet: call add or add_batch before compute.")
        super()._finalize()


def check_rows(
    predictions: Sequence[Any],
    references: Sequence[Any],
    check: Callable[[str, Sequence[Any]], None] | None = None,
) -> None:
    """Raises ValueError unless there are as many predictions as references, and at least one.

    Args:
        predictions: A value for each row.
        references: A value for each row.
        check: Looks at both lists then, each with its name; raises where it holds something else than it should.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions has {len(predictions)} rows and references has {len(references)}: "
            "every prediction needs its reference."
        )
    if len(predictions) == 0:
        raise ValueError("predictions and references are empty: nothing to score. Is the split empty?")
    if check is not None:
        check("predictions", predictions)
        check("references", references)


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raises TypeError unless `texts` is a list of strings; `evaluate` would turn numbers into text."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"{name} is {texts!r}: expected a list of strings.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}] is {text!r} ({type(text).__name__}): expected a string.")


def check_text_lists(name: str, rows: Sequence[Sequence[str]]) -> None:
    """Raises TypeError unless each row is a list of strings."""
    for index, texts in enumerate(rows):
        check_texts(f"{name}[{index}]", texts)
