"""What a task is asked of: a pipeline input, or a row of data, with its texts checked and made safe."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["InputReader", "Row", "RowError", "shown"]

Row = Mapping[str, Any]

_SURROGATES = re.compile("[\ud800-\udfff]")


class RowError(ValueError):
    """A row that a task cannot use. `row` is its number among the rows that were given."""

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


class InputReader:
    """The part of a task that reads its inputs."""

    name: str

    def inputs(self) -> dict[str, str]:
        """What an answer needs: the public name of an input (as transformers' pipelines say it) -> its column."""
        raise NotImplementedError

    def read(self, example: Any) -> dict[str, Any]:
        """A pipeline input -> a row. A string stands for the one input of tasks that have only one.

        Raises:
            ValueError: an input is missing, or is not text.
        """
        inputs = self.inputs()
        if isinstance(example, str) and len(inputs) == 1:  # the usual case, and the only one that comes by thousands
            ((name, column),) = inputs.items()
            return {column: self.read_value(name, example)}
        if isinstance(example, Mapping):
            row = {column: example[name] for name, column in inputs.items() if name in example}
            row |= {column: example[column] for column in inputs.values() if column in example}
        else:
            row = {next(iter(inputs.values())): example}
        for name, column in inputs.items():
            if column not in row:
                raise ValueError(
                    f"Task {self.name!r} needs {list(inputs)}, and the input has no {name!r}: {shown(example)}."
                )
            row[column] = self.read_value(name, row[column])
        return row

    def read_value(self, name: str, value: Any) -> Any:
        """One input of a pipeline, checked and made safe. Text by default."""
        if not isinstance(value, str):
            raise ValueError(f"Task {self.name!r}: {name!r} must be a string, got {shown(value)}.")
        return value

    def accepts(self, example: Any) -> bool:
        """Whether the input names everything that this task needs (what it holds is checked by `read`)."""
        inputs = self.inputs()
        if isinstance(example, Mapping):
            return all(name in example or column in example for name, column in inputs.items())
        return len(inputs) == 1

    def read_text(self, row: Row, column: str, index: int) -> str:
        """The text in a column, safe for any tokenizer: half surrogates, which no encoding knows, become U+FFFD."""
        value = row[column]
        if not isinstance(value, str):
            raise RowError(f"Task {self.name!r}: column {column!r} must hold text, got {shown(value)}.", index)
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)

    def read_texts(self, values: Sequence[Any], column: str, index: int) -> Sequence[str]:
        """As `read_text` for a column that holds several: those of most rows need no look at each by itself."""
        if {*map(type, values)} <= {str}:
            together = "".join(values)
            if together.isascii() or not _SURROGATES.search(together):
                return values
        return [self.read_text({column: value}, column, index) for value in values]


def shown(value: Any) -> str:
    """A value for an error message: its type and, cut short, what it is."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
