"""The entities of a text and the relations between them, found together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from ..backbone import width_of
from ..nearest import nearest
from .base import Features, Row, RowError
from .bio import legal_moves
from .entity_graphs import Entity, Relation, read_entities, read_relations, spans_of_tags
from .entity_relations import entities_and_relations
from .labels import check_labels, declared_names, label_id, label_index, label_names, sorted_names
from .registry import register_task
from .relation_table import EntityRelationHead
from .starting_bias import common
from .thresholds import best_f1_threshold
from .token_classification import CrfTokenClassifier
from .window_values import IGNORED, read_once
from .word_tasks import WordTask

__all__ = ["JointRelationExtraction"]


@register_task("joint-relation-extraction")
@dataclass(frozen=True, kw_only=True)
class JointRelationExtraction(WordTask):
    """Entities, which do not overlap, and the relations between them, of which two may have any number.

    Columns: `tokens` (a list of words; to predict, a text as well), `tags` (BIO tags of the words) or, where
        `entities` names it, a column of lists of `{"start", "end", "type"}`, and `relations` (a list of
        `{"head": [start, end], "tail": [start, end], "label"}`, of entities of the row). Spans count words from 0, and
        their ends are exclusive.
    Answer: `{"entities": [{"entity_group", "score", "word", "start", "end"}], "relations": [{"head", "tail", "label",
    "score"}]}`. Head and tail are numbers in the list of entities, from 0: two entities may have the same words, and
    what is known of an entity is said once, however many relations it has. Scores (see `joint_relation_scores`):
    `strict_f1`, `strict_f1_macro`, `boundary_f1`, `entity_f1`.

    Words are tagged under a linear-chain CRF, and the relations of each pair of entities are decided by themselves
    (see `EntityRelationHead`); of one entity as the head 16 are answered at most. A row too long for the backbone is
    read in windows, and relations are found within a window alone.

    Args:
        entities: the column of the entities, where it is they that are given; None: BIO tags are.
        types: the names of the entity types; learned by `from_dataset`.
        labels: the names of the relations, in the order of their scores; learned by `from_dataset`.
        threshold: relations whose score is above it are answered; `tune` chooses it.
        pair_width: of the vectors that relations are scored from.
    """

    tags: str = "tags"
    entities: str | None = None
    relations: str = "relations"
    types: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    threshold: float = 0.5  # what a sigmoid is trained for, before anything is tuned
    pair_width: int = 256

    main_metric = "strict_f1"
    not_in_features = WordTask.not_in_features | {"threshold", "pair_width"}
    not_encoded = WordTask.not_encoded | not_in_features | {"tags", "entities", "relations", "types", "labels"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("threshold", lambda v: 0 <= v < 1, "a number from 0 up to 1")
        self._check_number("pair_width", lambda v: v >= 1, "a whole number of 1 or more", whole=True)
        for names in (self.types, self.labels):
            if names is not None:
                check_labels(self.name, names, least=1)

    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.entities or self.tags, self.relations

    def learn(self, dataset: Any) -> Self:
        self.require_columns(dataset, self.columns())
        types: set[str] = set()
        labels: set[Any] = set()
        column = self.entities or self.tags
        declared = None if self.entities else declared_names(dataset, column)
        for i, row in enumerate(dataset.select_columns(list(self.columns()))):
            if declared:
                row[column] = [declared[k] if isinstance(k, int) else k for k in row[column]]
            entities, relations = self._graph(row, len(self.word_forms(row, i)), i)
            types.update(entity.type for entity in entities)
            labels.update(label for _, _, label in relations)
        for what, found in (("entities", types), ("relations", labels)):
            if not found:
                raise ValueError(f"Task {self.name!r}: the data has no {what} in any row: there is nothing to learn.")
        return replace(
            self,
            types=self.types or sorted_names(types),
            labels=self.labels or sorted_names(labels),
            split=self.learned_split(dataset),
        )

    # ------------------------------------------------------------------ rows

    def _graph(self, row: Row, words: int, index: int) -> tuple[list[Entity], list[tuple[int, int, Any]]]:
        """The row's entities in the order of the text, and its relations."""
        if self.entities:
            entities = read_entities(self.name, self.entities, row[self.entities], words, index)
        else:
            tags = self.gold_list(row, self.tags, words, index)
            entities = spans_of_tags(self.name, self.tags, tags, index)
        return entities, read_relations(self.name, self.relations, row[self.relations], entities, words, index)

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> list[Features]:
        features, words = self.encode_rows(rows, tokenizer)
        read_once(features)
        if all(column in rows[0] for column in self.columns()):
            gold = [self._gold(row, len(words[i]), i) for i, row in enumerate(rows)]
            for feature in features:
                feature["labels"] = _within(feature, *gold[feature["row"]])
        return features

    def _gold(self, row: Row, words: int, index: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int]]]:
        """`[words]` tags, `[words]` which entity a word is of (-1: none), and the relations."""
        entities, relations = self._graph(row, words, index)
        types, ids = self.known("types", self.types), label_index(self.known("labels", self.labels))
        tags, owner = np.zeros(words, dtype=np.int64), np.full(words, -1)
        for number, (start, end, kind) in enumerate(entities):
            if kind not in types:
                raise RowError(
                    f"Task {self.name!r}: column {self.entities or self.tags!r} has an entity of type {kind!r}, which "
                    f"is none of its {len(types)} types. {nearest(kind, types)} Types are learned from the training "
                    "data: add rows with it there, or give the task types=[...].",
                    index,
                )
            tags[start:end] = 2 + 2 * types.index(kind)
            tags[start] -= 1
            owner[start:end] = number
        return tags, owner, [(head, tail, label_id(self.name, label, ids, index)) for head, tail, label in relations]

    def stack_labels(self, labels: Sequence[Any], length: int) -> torch.Tensor:
        """`[batch, length + most relations, 3]`, see `EntityRelationHead`."""
        rows = [np.reshape(np.asarray(values, dtype=np.int64), (-1, 3)) for values in labels]
        parts = [(values[values[:, 2] < 0], values[values[:, 2] >= 0]) for values in rows]
        stacked = np.full((len(rows), length + max(len(relations) for _, relations in parts), 3), IGNORED)
        for row, (words, relations) in zip(stacked, parts, strict=True):
            row[: len(words)] = words
            row[length : length + len(relations)] = relations
        return torch.from_numpy(stacked)

    def references(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        found = []
        for i, row in enumerate(rows):
            entities, relations = self._graph(row, len(self.word_forms(row, i)), i)
            names = label_names([label for _, _, label in relations], self.labels)
            graph = [Relation(head, tail, name) for (head, tail, _), name in zip(relations, names, strict=True)]
            found.append(
                {"entities": [e._asdict() for e in entities], "relations": [relation._asdict() for relation in graph]}
            )
        return found

    # ------------------------------------------------------------------ model

    def bio_tags(self) -> tuple[str, ...]:
        """The tags in the order of their logits: what is outside, then how each type begins and goes on."""
        types = self.known("types", self.types)
        return ("O", *(f"{mark}-{kind}" for kind in types for mark in "BI"))

    def build_head(self, backbone: Any) -> nn.Module:
        width, tags, labels = width_of(backbone), self.bio_tags(), self.known("labels", self.labels)
        allowed = legal_moves(tags).copy()
        allowed[-1] = True  # a window may begin inside an entity; that a row does not is seen to in decoding
        tagger = CrfTokenClassifier(width, common(tags, "O"), self.dropout, allowed)
        return EntityRelationHead(tagger, width, len(tags) // 2, len(labels), self.pair_width, self.dropout)

    # ------------------------------------------------------------------ answers

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        counts = [len(self.words(row, i)) for i, row in enumerate(rows)]
        labels = self.known("labels", self.labels)
        return entities_and_relations(logits, features, counts, self.bio_tags(), labels, self.threshold)

    def tune(self, logits: Sequence[np.ndarray], features: Sequence[Features], rows: Sequence[Row]) -> Self:
        """This task with the threshold of the best `strict_f1`; as it is where no relation is found at any."""
        found, gold = replace(self, threshold=0.0).decode(logits, features, rows), self.references(rows)
        right, scores = [], []
        for said, wanted in zip(map(_strict, found), map(_strict, gold), strict=True):
            right += [relation in wanted for relation in said]
            scores += list(said.values())
        if not scores:
            return self
        best = best_f1_threshold(np.array(scores), np.array(right), sum(len(_strict(graph)) for graph in gold))
        return self if best is None else replace(self, threshold=best)

    def answer(self, prediction: Any, row: Row) -> dict[str, Any]:
        words, text = self.given_words(row), self.text_of(row)
        entities = []
        for entity in prediction["entities"]:
            start, end = words[entity["start"]][1], words[entity["end"] - 1][2]
            place = {"word": text[start:end], "start": start, "end": end}
            entities.append({"entity_group": entity["type"], "score": entity["score"]} | place)
        return {"entities": entities, "relations": [dict(relation) for relation in prediction["relations"]]}

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        from ..scoring.joint_relations import joint_relation_scores

        return joint_relation_scores(predictions, references)

    def baseline(self, references: Sequence[Any], rows: Sequence[Row]) -> list[Any]:
        """Nothing: most words are in no entity, and most pairs of entities in no relation."""
        return [{"entities": [], "relations": []} for _ in rows]


def _within(
    feature: Features, tags: np.ndarray, owner: np.ndarray, relations: Sequence[tuple[int, int, int]]
) -> list[list[int]]:
    """The tags of the window's words, and the relations of which it has a part of both entities."""
    tags, owner = tags[feature["words"]], owner[feature["words"]]
    labels = np.full((len(tags), 3), -1, dtype=np.int64)
    labels[:, 0] = labels[:, 1] = tags
    last = {number: place for place, number in enumerate(owner.tolist())} if relations else {}
    said = [[last[head], last[tail], label] for head, tail, label in relations if head in last and tail in last]
    words: list[list[int]] = labels.tolist()
    return words + said


def _strict(graph: Mapping[str, Any]) -> dict[tuple[Any, ...], float]:
    """The relations with all that is compared of them -> their scores, where they have any."""
    ends = [(entity["start"], entity["end"], entity["type"]) for entity in graph["entities"]]
    return {(ends[r["head"]], ends[r["tail"]], r["label"]): r.get("score", 1.0) for r in graph["relations"]}
