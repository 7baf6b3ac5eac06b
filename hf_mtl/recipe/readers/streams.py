"""The first rows of a stream, kept in the cache of `datasets` like any other data set."""

from collections.abc import Iterator
from typing import Any

__all__ = ["keep_rows"]


def keep_rows(stream: Any, rows: int) -> Any:
    """A `datasets.Dataset` of the first rows of a `datasets.IterableDataset`; no more than those are read.

    They are held in memory once: a stream often knows the types of its columns only from its rows. The cache goes by
    what they hold.
    """
    import datasets

    taken = datasets.Dataset.from_list(list(stream.take(rows)), features=stream.features)
    if not len(taken):
        return taken
    return datasets.Dataset.from_generator(_again, features=taken.features, gen_kwargs={"rows": taken})


def _again(rows: Any) -> Iterator[dict[str, Any]]:
    yield from rows
