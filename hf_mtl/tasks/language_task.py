"""What tasks share that the backbone answers as a language model."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn
from typing_extensions import Self

from ..nearest import nearest
from .base import Features, Row, Task
from .plain import PlainHead

__all__ = ["LanguageTask", "WritingTask", "by_row", "check_generation"]

_MODELS: Mapping[str | None, str] = {
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


@dataclass(frozen=True, kw_only=True)
class LanguageTask(Task):
    """A task whose head is the backbone's own language model, so that its head has no weights and `layer` is the last.

    Args:
        text: the column of the text.
    """

    text: str = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("layer", self.layer, self.layer == -1, "-1: a language model reads its last layer")

    def number_of_labels(self, tokenizer: Any) -> int:
        return len(tokenizer)

    def sums(self, outputs: Sequence[np.ndarray], features: Sequence[Features], rows: int) -> list[dict[str, Any]]:
        """What `token_loss` gave, added up for each row: `{"log_likelihood", "hits", "tokens"}`."""
        total = np.zeros((rows, 3))
        for output, feature in zip(outputs, features, strict=True):
            total[feature["row"]] += output
        return [{"log_likelihood": float(a), "hits": int(b), "tokens": int(c)} for a, b, c in total]

    def token_scores(self, predictions: Sequence[Any], perplexity: str) -> dict[str, float]:
        """`token_accuracy` and the perplexity under its name."""
        from ..scoring import token_scores

        found = token_scores(predictions)
        return {"token_accuracy": found["token_accuracy"], perplexity: found["perplexity"]}

    def plain_head(self, head: nn.Module) -> PlainHead:
        return PlainHead(model=_MODELS[self.language_model], reads="language")

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> None:
        """None: there is no commonest answer to a text."""
        return


@dataclass(frozen=True, kw_only=True)
class WritingTask(LanguageTask):
    """A task that answers by writing.

    Args:
        generation: options of transformers' `generate`: `max_new_tokens`, `num_beams`, `do_sample`, ...
    """

    generation: Mapping[str, Any] | None = None

    writes: ClassVar[bool] = True
    answer_field: ClassVar[str] = "generated_text"
    of_answering = frozenset({"generation"})
    not_in_features = LanguageTask.not_in_features | {"generation"}
    not_encoded = Task.not_encoded | not_in_features

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generation is not None:
            self._check("generation", self.generation, isinstance(self.generation, Mapping), "a dict of options")
            object.__setattr__(self, "generation", _unfolded(self.generation))
            check_generation(f"Task {self.name!r}: generation", self.generation)

    def asked(self, options: Mapping[str, Any]) -> Self:
        own, given = dict(self.generation or {}), _unfolded(options)
        if not given.keys().isdisjoint(_LENGTHS):  # said again, in whichever of the two words
            own = {name: value for name, value in own.items() if name not in _LENGTHS}
        if not given:
            return self
        task = copy.copy(
            self
        )  # not `replace`: a call may give what no config holds, a streamer or a stopping criterion
        object.__setattr__(task, "generation", own | given)
        return task

    def options_with_length(self, usual: int) -> dict[str, Any]:
        """The options of `generate`, with a `max_new_tokens` where they name no length; of two it goes first."""
        options = dict(self.generation or {})
        if options.get("max_new_tokens") is not None:
            options.pop("max_length", None)
        elif options.get("max_length") is None:
            options["max_new_tokens"] = usual
        return options

    def detokenize(self, outputs: Sequence[np.ndarray], tokenizer: Any) -> list[Any]:
        """Written tokens `[sequences, tokens]`, -100 after their end -> a list of texts; sums of scores stay."""
        if not len(outputs) or outputs[0].dtype.kind == "f":
            return list(outputs)
        flat = [[int(k) for k in sequence if k >= 0] for output in outputs for sequence in output]
        texts = iter(tokenizer.batch_decode(flat, skip_special_tokens=True))
        return [[next(texts).strip() for _ in output] for output in outputs]

    def written(self, outputs: Sequence[list[str]]) -> list[Any]:
        """Texts of each row -> its answer: a dict, or a list of them where several sequences were asked."""
        answers = [[{self.answer_field: text} for text in texts] for texts in outputs]
        return [answer[0] if len(answer) == 1 else answer for answer in answers]


def check_generation(where: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that transformers' `generate` does not have, or a value that it cannot take.

    Args:
        where: begins the message.
        options: name -> value.
    """
    from transformers import GenerationConfig

    known = [name for name in vars(GenerationConfig()) if not name.startswith(_NOT_OF_WRITING)]
    for name in options:
        if name not in known:
            raise ValueError(f"{where} has an option {name!r} that `generate` does not know. {nearest(name, known)}")
    for name in _COUNTS & options.keys():
        value = options[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{where}.{name} must be a whole number of 1 or more, got {value!r}.")
    several, beams = options.get("num_return_sequences") or 1, options.get("num_beams") or 1
    if several > beams and not options.get("do_sample"):
        raise ValueError(
            f"{where}.num_return_sequences={several} needs num_beams={several} or more, or do_sample: true: without "
            "either there is one likeliest text."
        )


# What is private, and what would make `generate` give something else than tokens.
_NOT_OF_WRITING = ("_", "output_", "return_dict", "transformers_version")
_COUNTS = {"max_new_tokens", "max_length", "num_beams", "num_return_sequences"}
_LENGTHS = ("max_new_tokens", "max_length")


def _unfolded(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, those of a `generation_config` among them by their own names; what stands beside it goes first."""
    options = dict(options)
    config = options.pop("generation_config", None)
    if config is None:
        return options
    values = config if isinstance(config, Mapping) else config.to_diff_dict()
    return {name: v for name, v in values.items() if name != "transformers_version" and name[0] != "_"} | options


def by_row(values: Sequence[Any], features: Sequence[Features], rows: int) -> list[list[Any]]:
    """The values of the features, those of a row together."""
    found: list[list[Any]] = [[] for _ in range(rows)]
    for value, feature in zip(values, features, strict=True):
        found[feature["row"]].append(value)
    return found
