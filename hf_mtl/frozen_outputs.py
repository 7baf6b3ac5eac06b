"""What frozen layers give for a text: computed in the first epoch, and kept for the others."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["FrozenOutputs"]

logger = logging.getLogger(__name__)


class FrozenOutputs:
    """The outputs of the last of some frozen layers, by text, on the CPU.

    A text is known by its tokens, whichever row, task or data set it is of. Frozen layers have no dropout, so that what
    they give for a text is always the same, up to the rounding that comes with other padding.

    Args:
        layers: the frozen layers, lowest first.
        gigabytes: how much memory the outputs may take; texts beyond it are computed each time.
    """

    def __init__(self, layers: Sequence[nn.Module], gigabytes: float):
        self.layers = list(layers)
        self._left = int(gigabytes * 1024**3)
        self._kept: dict[bytes, torch.Tensor] = {}
        self._more: tuple[None, ...] | None = None  # what stands behind the hidden states, of layers that give a tuple

    @contextmanager
    def used_for(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> Iterator[None]:
        """Inside, a forward of these texts takes what is known of them, and what is computed becomes known.

        Args:
            input_ids: `[batch, seq]`.
            mask: `[batch, seq]`.
            types: `[batch, seq]` token types, where the backbone takes them.
        """
        keys = _keys(input_ids, mask, types)
        if all(key in self._kept for key in keys):
            hidden = torch.cat([self._kept[key] for key in keys])
            changed = [self._passing_on] * (len(self.layers) - 1) + [self._giving(hidden.to(mask.device), mask)]
        else:
            changed = [None] * (len(self.layers) - 1) + [self._keeping(keys, mask)]
        before = [vars(layer).get("forward") for layer in self.layers]  # accelerate's hooks put theirs there
        for layer, change in zip(self.layers, changed, strict=True):
            if change is not None:
                vars(layer)["forward"] = change(layer.forward)
        try:
            yield
        finally:
            for layer, change, forward in zip(self.layers, changed, before, strict=True):
                if change is not None:
                    del vars(layer)["forward"]
                    if forward is not None:
                        vars(layer)["forward"] = forward

    def _keeping(self, keys: list[bytes], mask: torch.Tensor) -> Callable[..., Any]:
        def change(forward: Callable[..., Any]) -> Callable[..., Any]:
            def computed(*args: Any, **kwargs: Any) -> Any:
                output = forward(*args, **kwargs)
                self._keep(keys, mask, self._hidden_of(output, mask))
                return output

            return computed

        return change

    def _keep(self, keys: list[bytes], mask: torch.Tensor, hidden: torch.Tensor) -> None:
        # One copy off the device, not one a text.
        rows = hidden.detach()[mask.bool()].cpu().split(mask.sum(1).tolist())
        for key, row in zip(keys, rows, strict=True):
            if key in self._kept:
                continue
            if row.nbytes > self._left:
                if self._left >= 0:
                    logger.warning("The memory for frozen layers is full: the other texts are computed each time.")
                self._left = -1
                return
            self._left -= row.nbytes
            self._kept[key] = row.clone()

    def _hidden_of(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        hidden, *more = output if isinstance(output, tuple) else (output,)
        if any(value is not None for value in more) or hidden.shape[:2] != mask.shape:
            raise ValueError(
                "cache_frozen_layers: this backbone's layers pass on more than the hidden states of each token, so "
                "that these alone cannot be kept. Leave cache_frozen_layers out."
            )
        self._more = tuple(more) if isinstance(output, tuple) else None
        kept: torch.Tensor = hidden
        return kept

    def _as_output(self, hidden: torch.Tensor) -> Any:
        return hidden if self._more is None else (hidden, *self._more)

    def _passing_on(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A layer that gives what it is given."""

        def passed(*args: Any, **kwargs: Any) -> Any:
            given = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            return self._as_output(next(given))

        return passed

    def _giving(self, hidden: torch.Tensor, mask: torch.Tensor) -> Callable[..., Any]:
        """A layer that gives `hidden [tokens, width]`, at the places of the tokens that are no padding."""

        def change(forward: Callable[..., Any]) -> Callable[..., Any]:
            def given(*args: Any, **kwargs: Any) -> Any:
                whole = hidden.new_zeros(*mask.shape, hidden.shape[-1])
                whole[mask.bool()] = hidden
                return self._as_output(whole)

            return given

        return change


def _keys(input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> list[bytes]:
    ids = input_ids if types is None else torch.stack([input_ids, types], dim=-1)
    seen, counts = ids[mask.bool()].cpu().numpy(), mask.sum(1).tolist()
    keys, start = [], 0
    for count in counts:
        keys.append(seen[start : start + count].tobytes())
        start += count
    return keys
