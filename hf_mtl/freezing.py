"""Which parameters learn: all, with adapters only they and the heads, or all above some frozen layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import Self

from .adapters import adapter_names, learning_names, parameters_by_adapter, stack_of
from .config import MultiTaskConfig
from .frozen_outputs import FrozenOutputs
from .language_model import text_part
from .many_modules import ManyModulesMixin
from .tasks import Task

__all__ = ["FreezingMixin"]


class FreezingMixin(ManyModulesMixin):
    """The part of a `MultiTaskModel` that knows what learns."""

    config: MultiTaskConfig
    tasks: dict[str, Task]
    backbone: PreTrainedModel
    # Parameters and modules below the first layer that learns, by their names in the part that reads texts.
    _below: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    _frozen_count = 0
    _frozen_outputs: FrozenOutputs | None = None

    def freeze_layers(self, count: int) -> None:
        """Keeps the embeddings and the first layers as they are: no gradient goes into them, and they have no dropout.

        What is frozen costs a forward and no backward, a third of its training. Not kept in a checkpoint.
        XLM and Flaubert do the dropout between layers in one place for all of them: they have none of it meanwhile.

        Args:
            count: how many layers of the part that reads texts; 0 lets everything learn again.

        Raises:
            ValueError: there are not so many layers, or the model has adapters, whose backbone is frozen anyway.
        """
        layers = self.config.text_config.num_hidden_layers  # type: ignore[union-attr]
        if not 0 <= count <= layers:
            raise ValueError(f"The backbone has {layers} layers: {count} of them cannot be frozen.")
        if count and self.config.adapters is not None:
            raise ValueError(
                "With adapters the whole backbone is frozen. To leave lower layers without adapters: "
                f"from_backbone(..., first_layer={min(count, layers - 1)})."
            )
        self._frozen_count = count
        self._below_learns(True)
        self._below = self._reads_below(count)
        self._below_learns(False)
        self.train(self.training)

    @contextmanager
    def keeping_frozen_outputs(self, gigabytes: float, count: int | None = None) -> Iterator[None]:
        """Inside, each text goes through the frozen layers once while the model is trained. See `FrozenOutputs`.

        Args:
            gigabytes: how much memory that may take.
            count: how many of the lowest layers stay frozen all the time; None: those that are now.

        Raises:
            ValueError: no layer is frozen.
        """
        count = self._frozen_count if count is None else count
        if not count:
            raise ValueError(
                f"cache_frozen_layers={gigabytes!r} keeps what frozen layers give, and none is frozen all the time: "
                "set freeze_layers, or unfreeze fewer layers."
            )
        self._frozen_outputs = FrozenOutputs([*self._stack()][:count], gigabytes)
        try:
            yield
        finally:
            self._frozen_outputs = None

    def train(self, mode: bool = True) -> Self:
        """Sets the model to training or evaluation; what `freeze_layers` froze is always in evaluation."""
        super().train(mode)
        _, below = self._below
        if not below:
            return self
        for name, module in text_part(self.backbone, self.config.language_model).named_modules():
            if name in below:
                module.training = False  # its own: what it calls after the frozen layers stays in training
        return self

    def _freeze(self) -> None:
        """Says what learns. Loading makes every parameter trainable, so it is said anew."""
        self._forget_modules()
        if self.config.adapters is None:
            self._below_learns(False)
            return
        self.backbone.requires_grad_(self.config.train_backbone)
        learning = learning_names(self.config, self.tasks)
        adapters = parameters_by_adapter(self.backbone, adapter_names(self.config, self.tasks))
        for name, parameters in adapters.items():
            for parameter in parameters:
                parameter.requires_grad = name in learning
        if self.config.language_model == "masked":
            # Many encoders come without a masked language model's head: what is drawn at random must learn. Its
            # largest part is the embeddings, or of their size, and stays.
            own = {id(p) for p in text_part(self.backbone, "masked").parameters()}
            table: Any = self.backbone.get_output_embeddings()
            for parameter in self.backbone.parameters():
                if id(parameter) not in own and parameter is not table.weight:
                    parameter.requires_grad = True

    def _below_learns(self, learns: bool) -> None:
        below, _ = self._below
        for name, parameter in text_part(self.backbone, self.config.language_model).named_parameters():
            if name in below:
                parameter.requires_grad = learns

    def _reads_below(self, count: int) -> tuple[frozenset[str], frozenset[str]]:
        """What a text meets before the first layer that learns: names of parameters, and of modules, of the text part.

        A text is read to see it: what is registered after the layers may run before them or in them (BART's norm of
        embeddings, the relative positions of DeBERTa and MPNet, T5's dropout).
        """
        if not count:
            return frozenset(), frozenset()
        read = text_part(self.backbone, self.config.language_model)
        stack = self._stack()
        learning = {id(m) for m in stack[count:].modules()}
        found = _Reading(read, first=stack[count] if count < len(stack) else None)
        modules = {name for name, m in read.named_modules() if id(m) in found.modules and id(m) not in learning}
        frozen = {id(m) for m in stack[:count].modules()}
        modules |= {name for name, m in read.named_modules() if id(m) in frozen}
        return frozenset(found.parameters), frozenset(modules)

    def _stack(self) -> nn.ModuleList:
        """The layers of the part that reads texts."""
        layers: int = self.config.text_config.num_hidden_layers  # type: ignore[union-attr]
        found = stack_of(text_part(self.backbone, self.config.language_model), layers)
        if found is None:
            raise ValueError(
                f"The backbone ({self.config.text_config.model_type}) has no list of {layers} layers, "  # type: ignore[union-attr]
                "so that none of them can be frozen, or have a learning rate, by itself (ALBERT's layers are one)."
            )
        return found[1]

    def layers_of_parameters(self) -> dict[nn.Parameter, int | None]:
        """Each parameter in or below the layers that read texts -> its layer, from 0; None: what is read before them.

        Adapters are in the layers that have them. What stands above (a last norm, a decoder, the heads) is not there.
        Embeddings are found where they are trained.

        Raises:
            ValueError: the backbone has no list of layers.
        """
        stack = self._stack()
        found: dict[nn.Parameter, int | None] = {p: i for i, layer in enumerate(stack) for p in layer.parameters()}
        read = text_part(self.backbone, self.config.language_model)
        # What the second layer's input hangs on: relative positions may be read in the first one.
        below = _Reading(read, first=stack[min(1, len(stack) - 1)]).parameters
        return found | {p: None for name, p in read.named_parameters() if name in below and p not in found}


class _Reading:
    """A reading of one token, followed as far as a module (None: to the end).

    `modules` are the ids of those that began before it, `parameters` the names of those on which its input hangs.
    """

    def __init__(self, read: Any, first: nn.Module | None):
        self.modules: set[int] = set()
        self.hidden: torch.Tensor | None = None
        training = {module: module.training for module in read.modules()}
        hooks = [module.register_forward_pre_hook(self._began) for module in read.modules() if module is not first]
        if first is not None:
            hooks.append(first.register_forward_pre_hook(self._reached, with_kwargs=True))
        read.eval()
        token = torch.ones(1, 1, dtype=torch.long, device=next(read.parameters()).device)
        try:
            with torch.enable_grad():
                output = read(input_ids=token, attention_mask=token, return_dict=True).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
            for module, before in training.items():
                module.training = before
        reached = output if self.hidden is None else self.hidden
        named = {name: p for name, p in read.named_parameters() if p.requires_grad}
        if not reached.requires_grad:  # all of it was frozen before
            named = {}
        gradients = torch.autograd.grad(reached.sum(), list(named.values()), allow_unused=True) if named else ()
        self.parameters = {name for name, g in zip(named, gradients, strict=True) if g is not None}

    def _began(self, module: nn.Module, args: Any) -> None:
        if self.hidden is None:
            self.modules.add(id(module))

    def _reached(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.hidden = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
