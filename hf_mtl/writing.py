"""What a model does as a language model: it guesses hidden tokens, and it writes."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from .adapters import Route, route_of, use_route
from .config import MultiTaskConfig
from .generation import generate
from .language_model import predictor
from .tasks import Task, TaskOutput

__all__ = ["WritingMixin"]


class WritingMixin(PreTrainedModel):
    """The parts of a `MultiTaskModel` whose backbone is a language model."""

    config: MultiTaskConfig
    tasks: dict[str, Task]
    heads: nn.ModuleDict
    backbone: PreTrainedModel
    tokenizer: Any
    task: Callable[[str], Task]
    encode: Callable[..., tuple[torch.Tensor, ...]]

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        task: str | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """What a task writes for the rows, by transformers' `generate` with all its options.

        Args:
            input_ids: `[batch, seq]`: prompts of a decoder, inputs of an encoder-decoder; padding on either side.
            attention_mask: `[batch, seq]`.
            task: whose adapter and whose `generation` options; None where only one task writes.
            **options: of `generate`; they go before the task's own, and those of a `generation_config` too. The
                tokenizer's end ends a text as the backbone's own ends do. `max_length` counts a row's prompt, and not
                its padding; a decoder writes no further than its positions reach.

        Returns:
            `[batch, sequences, tokens]`, without the prompt and padded by -100.

        Raises:
            ValueError: there is no such task, it does not write, or several could be meant.
        """
        writers = [name for name, found in self.tasks.items() if found.writes]
        if task is None and len(writers) != 1:
            raise ValueError(f"The model has {len(writers)} tasks that write. Say which: task=..., one of {writers}.")
        name = self.task(writers[0] if task is None else task).name
        if name not in writers:
            raise ValueError(f"Task {name!r} ({self.tasks[name].type}) does not write. Those that do: {writers}.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states = None
        if self.tasks[name].language_model == "seq2seq":
            with torch.no_grad():
                states = self.encode([name], attention_mask, input_ids=input_ids)[-1]
        return self._write(name, input_ids, states, attention_mask, options)

    def _write(
        self,
        name: str,
        input_ids: torch.Tensor | None,
        hidden: torch.Tensor | None,
        mask: torch.Tensor,
        options: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        task = self.tasks[name]
        given = task.asked(options or {}).generation_options(self.tokenizer)
        end = None if self.tokenizer is None else self.tokenizer.eos_token_id
        if given.get("stop_strings") is not None:
            given.setdefault("tokenizer", self.tokenizer)
        with use_route(self._route(name)):
            return generate(self.backbone, str(task.language_model), input_ids, hidden, mask, given, end)

    def _samples(self, name: str, options: Mapping[str, Any] | None = None) -> bool:
        """Whether a task may answer the same input otherwise each time."""
        if not self.tasks[name].writes:
            return False
        given = self.tasks[name].asked(options or {}).generation_options(self.tokenizer)
        return bool(given.get("do_sample", self.backbone.generation_config.do_sample))

    def _predicted(
        self,
        name: str,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor | None,
        context: torch.Tensor,
        context_mask: torch.Tensor,
    ) -> TaskOutput:
        """A head that asks the backbone for tokens; `context` is all that was read, `hidden` what the head sees."""
        with use_route(self._route(name)):
            predict = predictor(self.backbone, str(self.tasks[name].language_model), context, context_mask)
            output: TaskOutput = self.heads[name](hidden, mask, labels, predict)
        return output

    def _guess(
        self,
        name: str,
        labels: torch.Tensor,
        places: torch.Tensor | None,
        mask: torch.Tensor,
        inputs: Mapping[str, Any],
    ) -> TaskOutput:
        """A masked language model's loss: in training of words drawn now, else of every word, one share at a time."""
        ids = inputs["input_ids"]
        if ids is None or places is None:
            raise ValueError(f"Task {name!r} hides tokens itself: give input_ids and word_positions with its labels.")
        task: Any = self.tasks[name]
        masking = task.masking(self.config.mask_token_id, self.backbone.config.get_text_config().vocab_size)
        places, labels = places.to(ids.device), labels.to(ids.device)
        readings = [masking.random(ids, places, labels)] if self.training else masking.every(ids, places, labels)
        total: Any = 0.0
        sums = torch.zeros(len(ids), 3, device=ids.device)
        for hidden_ids, gold in readings:
            states = self.encode([name], mask, **dict(inputs) | {"input_ids": hidden_ids})[-1]
            seen = states.gather(1, places.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            output = self._predicted(name, seen, (places >= 0).to(mask.dtype), gold, states, mask)
            total = total + cast(torch.Tensor, output.loss) * output.logits[:, 2].sum()
            sums = sums + output.logits
        return TaskOutput(total / sums[:, 2].sum().clamp(min=1), sums)

    def _route(self, name: str) -> Route | None:
        return route_of(self.config, [name])
