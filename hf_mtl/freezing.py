"""Which parameters learn: all, with adapters only they and the heads, or all above some frozen layers."""

from itertools import takewhile
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from typing_extensions import Self

from .adapters import adapter_parameters
from .config import MultiTaskConfig
from .language_model import text_part
from .tasks import Task

__all__ = ["FreezingMixin"]


class FreezingMixin(PreTrainedModel):
    """The part of a `MultiTaskModel` that knows what learns."""

    config: MultiTaskConfig
    tasks: dict[str, Task]
    backbone: PreTrainedModel
    _frozen_layers = 0

    def freeze_layers(self, count: int) -> None:
        """Keeps the embeddings and the first layers as they are: no gradient goes into them, and they have no dropout.

        What is frozen costs a forward and no backward, a third of its training. Not kept in a checkpoint.

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
                "With adapters the whole backbone is frozen. To leave lower layers without adapters, name the others: "
                f"LoraConfig(layers_to_transform={list(range(count, layers))})."
            )
        self._below_learns(True)
        self._frozen_layers = count
        self._below_learns(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets the model to training or evaluation; frozen layers are always in evaluation."""
        super().train(mode)
        if self._frozen_layers:
            for module in self._below():
                module.eval()
        return self

    def _freeze(self) -> None:
        """Says what learns. Loading makes every parameter trainable, so it is said anew."""
        if self.config.adapters is None:
            self._below_learns(False)
            return
        self.backbone.requires_grad_(False)
        for name in self.tasks:
            for parameter in adapter_parameters(self.backbone, name):
                parameter.requires_grad = True
        if self.config.language_model == "masked":
            # Many encoders come without a masked language model's head: what is drawn at random must learn. Its
            # largest part is the embeddings, or of their size, and stays.
            own = {id(p) for p in text_part(self.backbone, "masked").parameters()}
            table: Any = self.backbone.get_output_embeddings()
            for parameter in self.backbone.parameters():
                if id(parameter) not in own and parameter is not table.weight:
                    parameter.requires_grad = True

    def _below_learns(self, learns: bool) -> None:
        for module in self._below():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = learns

    def _below(self) -> list[nn.Module]:
        """The modules that a text meets before the first layer that learns: all that are registered before it."""
        if not self._frozen_layers:
            return []
        read = text_part(self.backbone, self.config.language_model)
        count: int = self.config.text_config.num_hidden_layers  # type: ignore[union-attr]
        stacks = [m for m in read.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
        if not stacks:
            raise ValueError(
                f"The backbone ({self.config.text_config.model_type}) has no list of {count} layers, "  # type: ignore[union-attr]
                "so that none of them can be frozen by itself (ALBERT's layers are one)."
            )
        first = stacks[0][self._frozen_layers] if self._frozen_layers < count else None
        modules = list(takewhile(lambda m: m is not first, read.modules()))
        # BART's embeddings have their norm behind the layers.
        modules += [m for name, m in read.named_children() if "embed" in name and m not in modules]
        whole = {id(read), *(id(m) for m in read.modules() if first is not None and first in m.modules())}
        return [m for m in modules if id(m) not in whole]
