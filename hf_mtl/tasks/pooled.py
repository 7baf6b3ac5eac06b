"""What tasks share that answer from one vector of a text or a pair: columns, pooling, label names, the head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ..backbone import is_causal, width_of
from .base import Features, Row, Task, TaskOutput
from .labels import check_labels
from .plain import PlainHead
from .pooling import POOLINGS, pool, resolve_pooling
from .starting_bias import StartingBias
from .texts import encode_texts

__all__ = ["PooledClassifier", "PooledLabelTask", "PooledTask"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class PooledTask(Task):
    """A task on whole texts or pairs. Subclasses say what a label is, and have a head made by `pooled_head`.

    Args:
        text: the column of the text.
        text_pair: the column of the second text, for pairs.
        label: the column of what is to be answered.
        pooling: `mean`, `first`, `last`, or `auto`: the last token on a causal backbone, the mean elsewhere.
        bias: whether the head's linear layer has a bias. transformers' own classes on decoders have none, so that
            a task that is to be exported from a decoder must have none.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    pooling: str = "auto"
    bias: bool = True

    optional_columns = frozenset({"text_pair"})
    not_in_features = Task.not_in_features | {"pooling", "bias"}
    not_encoded = Task.not_encoded | {"label", *not_in_features}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("pooling", self.pooling, self.pooling in POOLINGS, f"one of {POOLINGS}")
        self._check("bias", self.bias, self.bias in (True, False), "true or false")

    def inputs(self) -> dict[str, str]:
        return {"text": self.text} | ({"text_pair": self.text_pair} if self.text_pair else {})

    def columns(self) -> tuple[str, ...]:
        return (*self.inputs().values(), self.label)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features = encode_texts(self, rows, tokenizer, self.text, self.text_pair)
        if self.label in rows[0]:
            for i, (feature, row) in enumerate(zip(features, rows, strict=True)):
                feature["labels"] = self.encode_label(row[self.label], i)
        return features

    def encode_label(self, value: Any, index: int) -> Any:
        """What a row's label column holds -> the feature's `labels`; `index` is the row's number, for messages.

        Raises:
            RowError: the value is no label of this task.
        """
        raise NotImplementedError

    def pooled_head(self, backbone: Any, start: Sequence[float], loss: Loss) -> nn.Module:
        """A head for a backbone with this config, with a logit for each value where its bias is to begin."""
        how = resolve_pooling(self.pooling, is_causal(backbone))
        return PooledClassifier(width_of(backbone), start, how, self.dropout, loss, bias=self.bias)

    # `problem_type` of transformers' configs for such tasks.
    plain_problem: ClassVar[str] = "single_label_classification"

    def plain_head(self, head: nn.Module) -> PlainHead:
        pooled: Any = head
        if pooled.pooling == "mean":
            raise self.not_plain(
                "it reads the mean of a text's vectors, and transformers' classes read one token's; a task made with "
                "pooling='first' (on a decoder 'last') can be exported"
            )
        return PlainHead(
            model="AutoModelForSequenceClassification",
            reads=pooled.pooling,
            weight=pooled.classifier.weight,
            bias=pooled.classifier.bias,
            labels=self.labels_of_head().get("labels"),
            problem=self.plain_problem,
        )


@dataclass(frozen=True, kw_only=True)
class PooledLabelTask(PooledTask):
    """A task on whole texts or pairs whose answer is made of label names.

    Args:
        labels: the label names, in the order of the logits; learned by `from_dataset`.
    """

    labels: tuple[str, ...] | None = None

    not_encoded = PooledTask.not_encoded | {"labels"}
    least_labels: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None:
            check_labels(self.name, self.labels, least=self.least_labels)

    def known_labels(self) -> tuple[str, ...]:
        """The label names; raises ValueError where they are not known yet."""
        return self.known("labels", self.labels)


class PooledClassifier(nn.Module):
    """Pooled hidden states -> dropout -> linear, in the dtype of its own weights.

    Args:
        width: of the hidden states.
        start: for each logit where its bias begins.
        pooling: `mean`, `first` or `last`.
        dropout: before the linear layer.
        loss: `(logits [batch, labels] in float32, labels)` -> the mean over the batch.
        bias: whether the linear layer has one.
    """

    def __init__(
        self,
        width: int,
        start: Sequence[float],
        pooling: str,
        dropout: float,
        loss: Loss = F.cross_entropy,
        *,
        bias: bool = True,
    ):
        super().__init__()
        self.pooling = pooling
        self.loss = loss
        self.dropout = nn.Dropout(dropout)
        self.classifier = StartingBias(width, start, bias=bias)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, seq, width]`, `mask [batch, seq]`, `labels` as the loss wants -> `logits [batch, labels]`."""
        vector = pool(hidden.to(self.classifier.weight.dtype), mask, self.pooling)
        logits = self.classifier(self.dropout(vector))
        return TaskOutput(None if labels is None else self.loss(logits.float(), labels), logits)
