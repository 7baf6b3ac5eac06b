"""Many tasks' data behind one index, those of the same inputs as one where wanted."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from .encoded import EncodedDataset

__all__ = ["MultiTaskDataset"]


class SharedRows(TorchDataset):
    """The features of tasks that read the same inputs. An item is one input, and `of_tasks` what each needs of it.

    Args:
        parts: the tasks' data, feature for feature of the same subwords.
    """

    def __init__(self, parts: Sequence[EncodedDataset]):
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        items = []
        for of_tasks in zip(*(part.__getitems__(indices) for part in self.parts), strict=True):
            inputs = {key: of_tasks[0][key] for key in ("input_ids", "token_type_ids") if key in of_tasks[0]}
            items.append(inputs | {"of_tasks": of_tasks})
        return items

    def lengths(self) -> np.ndarray:
        """`[features]` subwords of each."""
        return self.parts[0].lengths()


def shared_rows(parts: Mapping[str, EncodedDataset]) -> dict[str, EncodedDataset | SharedRows]:
    """The parts, those of the same inputs as one, whose name is all of theirs."""
    together: list[list[str]] = []
    for name, part in parts.items():
        alike = (names for names in together if _same_inputs(parts[names[0]], part))
        names = next(alike, None)
        if names is None:
            together.append([name])
        else:
            names.append(name)
    return {
        "+".join(names): parts[names[0]] if len(names) == 1 else SharedRows([parts[name] for name in names])
        for names in together
    }


def _same_inputs(a: EncodedDataset, b: EncodedDataset) -> bool:
    keys = [key for key in ("input_ids", "token_type_ids") if key in a.features.column_names]
    if a.task.grouped or b.task.grouped or len(a) != len(b) or not set(keys) <= set(b.features.column_names):
        return False
    first, second = (part.features.select_columns(keys).with_format("arrow") for part in (a, b))
    return all(first[key][:].equals(second[key][:]) for key in keys)


class MultiTaskDataset(TorchDataset):
    """The features of many tasks behind one index: unit after unit, as the batch sampler counts them.

    Args:
        parts: task -> its data.
        share_rows: whether tasks of the same inputs are one unit.
    """

    def __init__(self, parts: Mapping[str, EncodedDataset], share_rows: bool = False):
        self.parts = dict(parts)
        self.units: dict[str, EncodedDataset | SharedRows] = shared_rows(parts) if share_rows else dict(parts)
        self._list = list(self.units.values())
        self._ends = np.cumsum([len(part) for part in self._list])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def locate(self, indices: Sequence[int]) -> Iterator[tuple[str, EncodedDataset, int]]:
        """Whose features these are: of each the task's name, its data, and the feature's number there."""
        for index in indices:
            k = int(np.searchsorted(self._ends, index, side="right"))
            unit = self._list[k]
            for part in unit.parts if isinstance(unit, SharedRows) else [unit]:
                yield part.task.name, part, int(index - self._ends[k] + len(unit))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = np.asarray(indices)
        part = np.searchsorted(self._ends, wanted, side="right")
        items: list[Any] = [None] * len(wanted)
        for k in np.unique(part):
            places = np.flatnonzero(part == k)
            start = self._ends[k] - len(self._list[k])
            found = self._list[k].__getitems__((wanted[places] - start).tolist())
            for place, item in zip(places, found, strict=True):
                items[place] = item
        return items
