"""What every task is: a frozen description that encodes rows, builds a head, decodes logits and scores answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..nearest import nearest
from .fields import TaskFields
from .inputs import Row, RowError, shown
from .plain import PlainHead
from .training_rows import training_rows

if TYPE_CHECKING:
    from .soft_outputs import SoftReader

__all__ = ["Row", "RowError", "Task", "TaskOutput", "shown"]

# Longer than any input.
NO_LIMIT = 1_000_000_000

Features = dict[str, Any]


class TaskOutput(NamedTuple):
    """What a head gives: `loss []` in float32, the mean over the task's own items, and `logits`, a row each."""

    loss: torch.Tensor | None
    logits: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Task(TaskFields):
    """A named task. Subclasses add the columns they read and what their head needs.

    All fields are plain JSON values: they are what a recipe may say, and what config.json keeps.

    Args:
        name: letters, digits, `_` and `-`; begins with a letter.
        weight: factor of the task's loss in the sum.
        layer: which hidden state the head reads: -1 the last, 0 the embeddings.
        max_length: most subwords of an input; None: all that the backbone takes.
        dropout: dropout before the head's last layer.
    """

    main_metric: ClassVar[str] = ""
    # Metrics that are errors: 0 is best, and they may be above 1.
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    # The head gives logits for each subword, `[batch, seq, ...]`.
    per_token: ClassVar[bool] = False
    # The head sees only the subwords at a feature's `positions`, and gives logits for each, `[batch, words, ...]`.
    per_word: ClassVar[bool] = False
    # A feature has several inputs (`input_ids` is a list of lists); the head gets `[batch, inputs, seq, ...]` and gives
    # logits for each, `[batch, inputs, ...]`, which hang on that input alone.
    grouped: ClassVar[bool] = False
    # The loss is a mean over labels of which a feature has many (words, tokens): a training batch counts by how many it
    # has. Batches of one length would else give the words of short texts more weight than those of long ones.
    mean_over_labels: ClassVar[bool] = False
    # The loss compares the examples of a batch with one another: fewer of them in a batch are another loss.
    compares_rows: ClassVar[bool] = False
    # The kind of language model that the backbone must be: `masked`, `causal` or `seq2seq`. The head gets a fourth
    # argument then, by which the backbone predicts tokens (see `hf_mtl.language_model.predictor`).
    language_model: ClassVar[str | None] = None
    # Rows without labels are answered by writing: instead of logits decode gets texts.
    writes: ClassVar[bool] = False
    # Rows with labels are too, to be scored by what is written.
    scored_by_writing: ClassVar[bool] = False
    # `encode` needs to know which characters a subword stands for, which slow tokenizers do not say.
    needs_offsets: ClassVar[bool] = False
    # The gold answers are made of names in `labels`, where the task has such a field.
    answers_are_labels: ClassVar[bool] = True
    # What a model card asks where nobody gave an example: the public name of an input -> a value.
    sample: ClassVar[Mapping[str, Any]] = {}
    # Fields that say how a trained model answers: a recipe may set them anew for an evaluation.
    of_answering: ClassVar[frozenset[str]] = frozenset()
    # Fields that name a column that rows may do without, and are None where it is not read.
    optional_columns: ClassVar[frozenset[str]] = frozenset()
    # ------------------------------------------------------------------ data

    @classmethod
    def from_dataset(cls, name: str, dataset: Any, **fields: Any) -> Self:
        """A task whose labels come from the training data: from its features where they name them, else its rows.

        Args:
            name: the task's name.
            dataset: a `datasets.Dataset`, a list of dicts, or a `DatasetDict` with a `train` split.
            **fields: the other fields, the names of the columns among them.

        Raises:
            ValueError: an unknown field, a column, a label or the split is missing, or there is nothing to learn from.
        """
        cls.check_fields(name, fields)
        return cls(name=name, **fields).learn(training_rows(name, dataset))

    def learn(self, dataset: Any) -> Self:
        """This task with what it must know of its training data (label names). Known values stay as they are."""
        self.require_columns(dataset, self.columns())
        return self

    @property
    def examples_in_memory(self) -> int | None:
        """In training, of how many examples the activations are kept at a time; None: of the whole batch."""
        return None

    @property
    def longest_target(self) -> int | None:
        """Most subwords that are learned of a text to be written; None: the task has no such limit."""
        return None

    def columns(self) -> tuple[str, ...]:
        """The columns that a training row must have."""
        raise NotImplementedError

    def columns_to_encode(self, given: Sequence[str]) -> tuple[str, ...]:
        """The columns that `encode` cannot do without, of data that has the columns `given`."""
        return tuple(self.inputs().values())

    def unread_columns(self, given: Sequence[str]) -> list[str]:
        """Columns of data with the columns `given` that have the name of an optional one, and are not read."""
        read = {*self.columns(), *self.inputs().values()}
        return sorted(c for c in self.optional_columns.intersection(given) - read if getattr(self, c) is None)

    def require_columns(self, dataset: Any, columns: Sequence[str]) -> None:
        """Raises ValueError where the data set is empty or lacks a column."""
        if not len(dataset):
            raise ValueError(f"Task {self.name!r}: the data set has no rows.")
        for column in columns:
            if column not in dataset.column_names:
                raise ValueError(
                    f"Task {self.name!r}: the data has no column {column!r}. "
                    f"{nearest(column, dataset.column_names)} Name the right one in the task's fields."
                )

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        """Rows -> model inputs.

        Each feature holds `input_ids` (and what else the tokenizer gives, but no mask: nothing is padded yet),
        `row` (which of the rows it is of: a long row may become several features), whatever `decode` needs, and
        `labels` where the rows have them.

        Raises:
            RowError: a row that cannot be used, with the field, the value and the way out.
        """
        raise NotImplementedError

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        """The labels of a batch's rows as one tensor: `[batch]`, or `[batch, k]` where each row has k.

        Args:
            labels: what `encode` gave, a row each.
            length: subwords, or where `per_word` positions, of the padded batch, for tasks that label each of them.
        """
        return torch.tensor(labels)

    def references(self, rows: Sequence[Row]) -> list[Any]:
        """The gold answers of the rows, as `score` wants them."""
        raise NotImplementedError

    def limit(self, tokenizer: Any) -> int:
        """Most subwords of one input."""
        longest = tokenizer.model_max_length
        return int(longest if self.max_length is None else min(self.max_length, longest))

    def unlimited(self) -> Self:
        """This task as it would encode if nothing were ever too long."""
        return dataclasses.replace(self, max_length=NO_LIMIT)

    def written_part(self, feature: Features) -> Sequence[int] | None:
        """The subwords that the model learns to write, of a feature with labels; None: it does not learn to write."""
        return None

    # ------------------------------------------------------------------ model

    @property
    def label_weights(self) -> Sequence[float] | None:
        """What each label counts in the mean that the loss of a batch is, by its index; None: each the same."""
        return None

    def number_of_labels(self, tokenizer: Any) -> int:
        """Among how many answers the loss chooses at a time: a guess at random loses the logarithm of it."""
        known = [values for values in self.labels_of_head().values() if values and isinstance(values[0], str)]
        return max([2, *map(len, known)])

    def build_head(self, backbone: Any) -> nn.Module:
        """The head for a backbone with this config: `forward(hidden, mask, labels=None) -> TaskOutput`."""
        raise NotImplementedError

    def soft_outputs(self) -> "SoftReader":
        """How the head's logits are read as distributions over answers, of which two are compared: a teacher's and
        this task's, or those of two passes.

        Raises:
            ValueError: the task's loss is over no such distributions; says why.
        """
        raise self.not_soft("its loss is not over labels, positions or numbers of single items")

    def not_soft(self, reason: str) -> ValueError:
        """The error that says why `soft_outputs` gives nothing."""
        return ValueError(
            f"Task {self.name!r} ({self.type}) can have neither a teacher nor r_drop: {reason}. Leave it out of "
            "teachers and r_drop."
        )

    def in_own_unit(self, logits: torch.Tensor, other: "Task") -> torch.Tensor:
        """Logits of another task of this type as this one's would be, where they hang on more than label names."""
        return logits

    def plain_head(self, head: nn.Module) -> PlainHead:
        """The head in the form of transformers' own class for such tasks; `head` has the weights.

        Raises:
            ValueError: no class there answers as this head does; says why.
        """
        raise self.not_plain("transformers has no class for tasks of this type")

    def not_plain(self, reason: str) -> ValueError:
        """The error that says why `plain_head` gives nothing."""
        return ValueError(
            f"Task {self.name!r} ({self.type}) cannot be exported: {reason}. Share it as a task pack "
            f"(model.save_task({self.name!r}, folder)), or take its backbone alone (model.merge_task({self.name!r}))."
        )

    # ------------------------------------------------------------------ answers

    def decode(self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]) -> list[Any]:
        """Logits -> one JSON-able prediction a row.

        Args:
            logits: for each feature what `cut` and `detokenize` gave: by default an array of float32, cut to its own
                length where `per_token` or `per_word`.
            features: what `encode` gave; `features[i]["row"]` says which row feature i is of.
            rows: the rows that were encoded.
        """
        raise NotImplementedError

    def cut(self, logits: np.ndarray, feature: Features) -> np.ndarray:
        """A feature's logits without those of a batch's padding."""
        if self.per_word:
            return logits[: len(feature["positions"])]
        return logits[: len(feature["input_ids"])] if self.per_token or self.grouped else logits

    def detokenize(self, outputs: Sequence[np.ndarray], tokenizer: Any) -> list[Any]:
        """What `decode` gets of the outputs where it needs the tokenizer for that: texts of tokens, say."""
        return list(outputs)

    def generation_options(self, tokenizer: Any) -> dict[str, Any]:
        """Options of transformers' `generate`, for tasks that write."""
        return {}

    def asked(self, options: Mapping[str, Any]) -> Self:
        """This task with the options of one call before its own, for tasks that write."""
        return self

    def tune(self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]) -> Self:
        """This task with what is best chosen on validation data, such as a threshold. Arguments as for `decode`."""
        return self

    def answer(self, prediction: Any, row: Row) -> Any:
        """A prediction in the fields that transformers' own pipelines give for this kind of task."""
        return prediction

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Predictions against gold answers: metric -> value, `main_metric` among them.

        A value lies between 0 and 1 (a correlation's between -1 and 1) and higher is better, but for the metrics that
        are `lower_is_better`.
        """
        raise NotImplementedError

    def require_scorers(self) -> None:
        """Raises ImportError where `score` needs a package that is not installed: asked before a training."""

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any] | None:
        """What always saying the commonest answer of the training data would predict; None: there is no such answer."""
        raise NotImplementedError
