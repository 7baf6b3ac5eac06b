"""The low-rank layer that sends each row through its own task's weights: y = W x + s B(t) A(t) x."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import nn

from .base_products import base_product, has_common, is_plain
from .composing import ALL, Composition
from .folding import folds, linear_with_folded
from .low_rank import LinearWithLowRank, add_low_rank
from .native import instructions, linear_with_low_rank
from .routed import RoutedLayer, redraw_lora
from .routing import Route, current_route
from .stacking import lie_apart, lie_together, places_of
from .together import Together

__all__ = ["MORE", "RoutedLinear"]

# Parameters that compositions have beside peft's: how a task mixes, what it puts between, and more shared weights.
MORE = ("lora_gate", "lora_core", "lora_up")

# Of how many sets of tasks a layer remembers whether they can be stacked.
_MOST_KNOWN = 1024


class RoutedLinear(Linear, RoutedLayer):
    """peft's LoRA layer with another forward: parameters, initialisation and state-dict keys are peft's own.

    Outside a route it is the bare base layer. Rows of several tasks cost two batched products, whatever the number of
    tasks. Each task keeps parameters of its own: one stacked parameter would let AdamW move tasks that have no rows.
    Without gradients the tasks' values are laid side by side in memory, so that nothing is copied to stack them.

    With a composition a task's weights are made of shared ones and its own; see there.
    """

    # By these peft finds what is an adapter's: its own kinds, and what compositions add.
    adapter_layer_names: Any = (*Linear.adapter_layer_names, *MORE)
    lora_gate: nn.ParameterDict
    lora_core: nn.ParameterDict
    lora_up: nn.ParameterDict

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`x [batch, ..., in]` -> `[batch, ..., out]`."""
        route = current_route()
        if route is None or self.disable_adapters:
            return cast(torch.Tensor, self.base_layer(x, *args, **kwargs))
        alike = self._alike(route.names)
        if alike is not None:
            route.check(x)
            done = None if args or kwargs else self._at_once(alike, route, x)
            if done is not None:
                return done
        result = self.base_layer(x, *args, **kwargs) if args or kwargs else base_product(self.base_layer, x)
        if alike is not None and route.index is not None:
            return self._gathered(alike, route, x, result).to(result.dtype)
        if route.index is None:
            return self._through(route.names[0], x, result).to(result.dtype)
        return self._row_by_row(route, x, result).to(result.dtype)

    def _through(self, name: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """All rows through one adapter; `result` is what the base layer gave for them."""
        if not self.has(name):
            return result
        held = self._held(name)
        x = self._cast_input_dtype(x, self._dtype(held))
        if held in self.lora_variant:
            return self.lora_variant[held].forward(self, active_adapter=held, x=x, result=result)
        x = self.lora_dropout[held](x)
        down, up = (weights[0] for weights in self.weights((name,)))
        scale = self.scaling[held]
        if self.lora_bias[held]:
            return result + F.linear(F.linear(x, down), up, cast(nn.Linear, self.lora_B[held]).bias) * scale
        return add_low_rank(result, x, Route((name,)), [down], [up], scale)

    def has(self, name: str) -> bool:
        """Whether rows of this task go through an adapter here."""
        by_gates = self.composed(name) and self.composition is not None and not self.composition.private()
        return name in (self.lora_gate if by_gates else self.lora_A)

    def redraw(self, name: str) -> None:
        redraw_lora(self, name)
        if self.composition is not None and self.composed(name) and name not in self.composition.shared():
            self.composition.reset(self, name)

    def keep(self, name: str) -> None:
        """Keeps transformers from drawing an adapter that has its values.

        It would initialise the two like any linear layer, and an adapter whose B is not zero changes the backbone's
        answers before it has learned anything.
        """
        for held in (self.lora_A, self.lora_B):
            if name in held:
                held[name].__dict__["_is_hf_initialized"] = True

    def fill_missing(self) -> None:
        self._fill_composed()
        for name in self.lora_A:
            down, up = self.lora_A[name], self.lora_B[name]
            loaded = all(getattr(p, "_is_hf_initialized", False) for p in (down.weight, up.weight))
            if not loaded and not getattr(down, "_is_hf_initialized", False):
                with torch.no_grad():
                    self.redraw(name)
            self.keep(name)

    def _fill_composed(self) -> None:
        if self.composition is None:
            return
        # In order: a set has another one in each process, and a seed would draw other values.
        for name in dict.fromkeys(name for kind in MORE for name in getattr(self, kind)):
            own = [getattr(self, kind)[name] for kind in MORE if name in getattr(self, kind)]
            if not all(getattr(parameter, "_is_hf_initialized", False) for parameter in own):
                with torch.no_grad():
                    self.composition.reset(self, None if name == ALL else name)

    def scale_of(self, name: str) -> float:
        """What a task's low-rank products are multiplied by."""
        return float(self.scaling[self._held(name)])

    def _held(self, name: str) -> str:
        """Under which of peft's names the adapter's rank, scale and dropout are."""
        return self.composition.shared()[0] if self.composition is not None and self.composed(name) else name

    def _dtype(self, held: str) -> torch.dtype:
        return cast(torch.Tensor, self.lora_A[held].weight).dtype

    def effective(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """`A [r, in]` and `B [out, r]` of a task as they act in evaluation, the scale in B."""
        training = self.training
        self.training = False
        with torch.no_grad():
            down, up = (weights[0] for weights in self.weights((name,)))
        self.training = training
        return down, up * self.scale_of(name)

    def weights(self, names: Sequence[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A and B of each of these tasks; where some are composed and some not, filled up with zeros to one rank."""
        if self.composition is None:
            return self._plain(names)
        composed, apart = (list(filter(kind, names)) for kind in (self.composed, self.composition.apart.__contains__))
        if not apart:
            return self.composition.weights(self, names)
        found = dict(zip(apart, zip(*self._plain(apart), strict=True), strict=True))
        if composed:
            made = self.composition.weights(self, composed)
            found |= zip(composed, zip(*made, strict=True), strict=True)
        rank = max(len(down) for down, _ in found.values())
        downs = [_filled_up(found[name][0], rank, 0) for name in names]
        return downs, [_filled_up(found[name][1], rank, 1) for name in names]

    def _plain(self, names: Sequence[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        known: Together | None = self._caches.get("alike", {}).get(tuple(names))
        if known is not None:
            return known.weights(self.lora_A, self.lora_B)
        down, up = ([held[name].weight for name in names] for held in (self.lora_A, self.lora_B))
        return cast(list[torch.Tensor], down), cast(list[torch.Tensor], up)

    def _alike(self, names: tuple[str, ...]) -> Together | None:
        """What is known of adapters that can be stacked: all here, of one shape and dropout, plain LoRA, no bias."""
        found: dict[tuple[str, ...], Together | None] = self._caches.setdefault("alike", {})
        if names not in found:
            if len(found) == _MOST_KNOWN:  # of many tasks each batch may have others
                found.clear()
            held = [*dict.fromkeys(map(self._held, names))] if all(map(self.has, names)) else []
            found[names] = Together(names, [*map(self._held, names)]) if held and self._compare(held) else None
        return found[names]

    def _compare(self, held: Sequence[str]) -> bool:
        variants, biases, ranks, drops = self.lora_variant, self.lora_bias, self.r, self.lora_dropout._modules
        if any(name in variants or biases[name] for name in held):
            return False
        if self.composition is None and len({ranks[name] for name in held}) > 1:
            return False  # with a composition they are filled up
        return len({getattr(drops[name], "p", 0.0) for name in held}) == 1

    def compose(self, composition: Composition, tasks: Sequence[str]) -> None:
        """Begins a composition, or goes on with it: the parameters that peft has not, for all tasks and for these."""
        new = [task for task in tasks if task not in self.lora_gate and task not in composition.apart]
        if composition.shared()[0] in self.lora_A:  # else it is a layer of tasks apart alone
            for task in (None, *new) if self.composition is None else new:
                composition.begin(self, task)
                composition.reset(self, task)
        self.composition = composition
        self.forget_alike()

    def compose_again(self, tasks: Iterable[str]) -> None:
        """Gives what these tasks have beside peft's own the values that training starts from, by what is shared now."""
        for task in tasks:
            if self.composition is not None and self.composed(task) and self.has(task):
                self.composition.reset(self, task)

    def update_layer(self, *args: Any, **kwargs: Any) -> None:
        for kind in MORE:
            if kind not in self._modules:  # peft makes its own before it calls this, and looks through all after
                setattr(self, kind, nn.ParameterDict())
        super().update_layer(*args, **kwargs)
        self.forget_alike()

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.forget_alike()
        if not _in_a_group():
            self.lay_apart()  # the memory of all would keep the one that is gone

    def forget_alike(self) -> None:
        """To be called where a name stands for another adapter than before."""
        self._caches.pop("alike", None)

    def _scale(self, alike: Together, x: torch.Tensor) -> float | torch.Tensor:
        """One number for all tasks, else one for each of them: `[tasks, 1, 1]`."""
        values = alike.of(self.scaling)
        if len(set(values)) == 1:
            return float(values[0])
        return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1)

    def _at_once(self, alike: Together, route: Route, x: torch.Tensor) -> torch.Tensor | None:
        """Base and adapters as one step; None: steps of their own are needed, or better."""
        base: Any = self._modules["base_layer"]
        if type(base) is not nn.Linear or not is_plain(base, x) or alike.drops(self.lora_dropout):
            return None
        learns, one = torch.is_grad_enabled(), route.index is None
        if not learns and (has_common(x) or (instructions() is None and not (one and folds(x, base)))):
            return None
        down, up = self.weights(route.names)
        weight, bias, scale = base.weight, base.bias, self._scale(alike, x)
        if down[0].dtype != x.dtype:
            return None
        if learns:
            tokens = x.reshape(-1, x.shape[-1])
            result = LinearWithLowRank.apply(tokens, weight, bias, route, scale, *down, *up)[0]
            return cast(torch.Tensor, result.view(*x.shape[:-1], result.shape[-1]))
        if one and folds(x, base):
            return linear_with_folded(x, weight, bias, down[0], up[0], cast(float, scale))
        done = linear_with_low_rank(x, weight, bias, route, down, up, scale)
        return None if done is None else done[0]

    def _gathered(self, alike: Together, route: Route, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        held = self._held(route.names[0])
        x = self.lora_dropout[held](self._cast_input_dtype(x, self._dtype(held)))
        down, up = self.weights(route.names)
        # Once after loading or changing tasks; never while training, where others may hold on to the memory: an
        # optimizer, or FSDP, which takes a layer's memory away after each forward.
        alone = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or self.training or _in_a_group())
        compiled = instructions() is not None and x.is_cpu and x.dtype == torch.float32  # needs no stacking
        if alone and self.composition is None and not compiled and places_of(up) is None:
            self.lay_together()
            down, up = self.weights(route.names)
        return add_low_rank(result, x, route, down, up, self._scale(alike, x))

    def lay_together(self) -> None:
        """Puts the adapters of one rank side by side, so that those of a batch are found stacked."""
        if self.composition is not None or any(p.is_meta for p in self.lora_A.parameters()):
            return
        for rank in set(self.r.values()):
            names = tuple(name for name in self.lora_A if self.r[name] == rank)
            for parameters in self.weights(names):
                lie_together(cast(list[nn.Parameter], parameters))

    def lay_apart(self) -> None:
        """Gives each adapter memory of its own."""
        lie_apart([*self.lora_A.parameters(), *self.lora_B.parameters()])

    def _save_to_state_dict(self, *args: Any) -> None:
        # Whoever writes a state takes values in one memory for one value (accelerate leaves out all but the first,
        # safetensors refuses them), or writes the memory of all for one of them (torch).
        if not _in_a_group():
            self.lay_apart()
        super()._save_to_state_dict(*args)

    def _row_by_row(self, route: Route, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """One sub-batch an adapter, for adapters that cannot be stacked (DoRA, ranks that differ)."""
        whole = Route(route.names, route.index_of(x))
        parts = [whole.rows(i) for i in range(len(route.names))]
        done = [self._through(name, x[rows], result[rows]) for name, rows in zip(route.names, parts, strict=True)]
        return torch.cat(done)[torch.argsort(torch.cat(parts))]


def _filled_up(weight: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """The weight itself, or with zeros behind it: rows (`dim` 0) or columns (1)."""
    more = size - weight.shape[dim]
    return F.pad(weight, (0, more) if dim else (0, 0, 0, more)) if more else weight


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
