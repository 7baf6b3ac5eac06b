"""What a request wants, and the words that fill it in: one intent and a tag for each word, from one reading."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from .base import Features, Row, TaskOutput
from .labels import check_labels, label_id, label_index, label_names, learned_names
from .registry import register_task
from .soft_outputs import OneLabel, SoftOutputs, SoftReader
from .softmax import softmax
from .token_classification import TokenClassification

__all__ = ["IntentSlots"]


@register_task("intent-slots")
@dataclass(frozen=True, kw_only=True)
class IntentSlots(TokenClassification):
    """The intent of a request and its slots, read together (Chen, Zhuo and Wang 2019, arXiv:1902.10909).

    Columns: those of `token-classification` (`tokens`, `tags`), and `intent` (a string, or a `ClassLabel`). The intent
    is read off the mean of the words.
    Answer: `{"label", "score", "slots"}`, the slots as `token-classification` answers. Scores: `frame_accuracy` (intent
    and all tags right), `intent_accuracy`, and those of the tags, `slot_f1` among them.

    Args:
        intents: the names of the intents, in the order of their logits; learned by `from_dataset`.
        label_smoothing: of intents and tags.
        class_weights: of tags, as for `WeightedLabels`.
    """

    intent: str = "intent"
    intents: tuple[str, ...] | None = None

    main_metric = "frame_accuracy"
    not_encoded = TokenClassification.not_encoded | {"intent", "intents"}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "main_metric", "frame_accuracy")
        if self.intents is not None:
            check_labels(self.name, self.intents, least=2)

    def columns(self) -> tuple[str, ...]:
        return (*super().columns(), self.intent)

    def learn(self, dataset: Any) -> Self:
        task = super().learn(dataset)
        if task.intents is not None:
            return task
        return replace(task, intents=learned_names(self.name, dataset, self.intent))

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features = super().encode(rows, tokenizer)
        if self.intent not in rows[0]:  # half a label would be taken for another whole one
            for feature in features:
                feature.pop("labels", None)
        elif "labels" in features[0]:
            index = label_index(self.known("intents", self.intents))
            gold = [label_id(self.name, row[self.intent], index, i) for i, row in enumerate(rows)]
            for feature in features:
                feature["labels"] = [gold[feature["row"]], *feature["labels"]]
        return features

    @property
    def label_weights(self) -> None:
        """None: the first label of a row is its intent, and the weights are those of tags."""
        return None

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        return super().stack_labels(labels, length + 1)

    def references(self, rows: Sequence[Row]) -> list[Any]:
        intents = label_names([row[self.intent] for row in rows], self.intents)
        tags = super().references(rows)
        return [{"intent": intent, "tags": own} for intent, own in zip(intents, tags, strict=True)]

    def build_head(self, backbone: Any) -> nn.Module:
        intents = len(self.known("intents", self.intents))
        return IntentSlotClassifier(
            super().build_head(backbone), width_of(backbone), intents, self.dropout, self.label_smoothing
        )

    def soft_outputs(self) -> SoftReader:
        tags, count = super().soft_outputs(), len(self.known("labels", self.labels))

        def read(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> list[SoftOutputs]:
            whole = logits[..., count:].float().sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            return [*tags(logits[..., :count], labels[:, 1:], mask), OneLabel(whole)]

        return read

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        intents, count = self.known("intents", self.intents), len(self.known("labels", self.labels))
        found = super().decode([values[:, :count] for values in logits], features, rows)
        said = np.zeros((len(rows), len(intents)), dtype=np.float32)
        read = np.zeros((len(rows), 1), dtype=np.float32)
        for values, feature in zip(logits, features, strict=True):
            said[feature["row"]] += values[:, count:].sum(0)  # each word says its part; windows add up
            read[feature["row"]] += len(values)  # words that share a subword are read once
        shares = softmax(said / np.maximum(1, read))
        return [
            {"intent": intents[k], "score": float(row[k])} | prediction
            for k, row, prediction in zip(shares.argmax(-1), shares, found, strict=True)
        ]

    def answer(self, prediction: Any, row: Row) -> Any:
        return {"label": prediction["intent"], "score": prediction["score"], "slots": super().answer(prediction, row)}

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        pairs = list(zip(predictions, references, strict=True))
        tags = super().score(predictions, [gold["tags"] for gold in references])
        intents = [found["intent"] == gold["intent"] for found, gold in pairs]
        frames = [right and found["tags"] == gold["tags"] for right, (found, gold) in zip(intents, pairs, strict=True)]
        scores = {"frame_accuracy": sum(frames) / len(pairs), "intent_accuracy": sum(intents) / len(pairs)}
        return scores | {f"slot_{metric}": value for metric, value in tags.items()}

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        intent, count = Counter(gold["intent"] for gold in references).most_common(1)[0]
        found = super().baseline([gold["tags"] for gold in references], rows)
        return [{"intent": intent, "score": count / len(references)} | prediction for prediction in found]


class IntentSlotClassifier(nn.Module):
    """A tagger on the words, and a linear layer on their mean.

    The layer is linear, so the mean of what it says of each word is what it says of their mean: logits hold a part of
    each word, and a row that was read in several windows is the mean over all of its words.
    """

    def __init__(self, tagger: nn.Module, width: int, intents: int, dropout: float, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing
        self.tagger = tagger
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, intents)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None = None) -> TaskOutput:
        """`hidden [batch, words, width]`, `labels [batch, 1 + words]`, the intent and the tags.

        `logits [batch, words, tags + intents]`.
        """
        slots = self.tagger(hidden, mask, None if labels is None else labels[:, 1:])
        real = mask.unsqueeze(-1)
        parts = self.classifier(self.dropout(hidden.to(self.classifier.weight.dtype))) * real
        logits = torch.cat([slots.logits, parts.to(slots.logits.dtype)], dim=-1)
        if labels is None:
            return TaskOutput(None, logits)
        whole = parts.float().sum(1) / real.sum(1).clamp(min=1)
        intent = F.cross_entropy(whole, labels[:, 0], label_smoothing=self.smoothing)
        return TaskOutput(slots.loss + intent, logits)
