"""F1 of relations whose two entities are to be found too, and of these entities."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import datasets

from .base import TEXT, LocalMetric, check_rows

__all__ = ["JointRelationScore", "joint_relation_scores"]

_NUMBER = datasets.Value("int64")
_GRAPH = {
    "entities": datasets.List({"start": _NUMBER, "end": _NUMBER, "type": TEXT}),
    "relations": datasets.List({"head": _NUMBER, "tail": _NUMBER, "label": TEXT}),
}


def joint_relation_scores(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """F1 of the relations and of the entities of rows.

    Args:
        predictions: A mapping for each row: `entities`, a list of `{"start", "end", "type"}`, and `relations`, a list
            of `{"head", "tail", "label"}`, head and tail being numbers of entities in that list, from 0. Other keys
            are not looked at.
        references: The gold ones.

    Returns:
        `strict_f1`: micro F1 of the relations, right where the label is and both entities are, with their type;
        `strict_f1_macro`: the mean of the F1 of the labels that occur in either list; `boundary_f1`: as `strict_f1`,
        whatever type the entities are of; `entity_f1`: micro F1 of the entities, start, end and type (seqeval's on
        tags). What is said twice counts once. 0 where there is nothing to find or nothing was found. The names are
        those of Taillé et al. (2020).

    Raises:
        ValueError: No rows, lists of different length, or a relation of an entity that is not there.
        TypeError: A number that is not whole, or a name that is not a string.
    """
    check_rows(predictions, references)
    graphs = [
        [_checked(f"{name}[{index}]", graph) for index, graph in enumerate(rows)]
        for name, rows in (("predictions", predictions), ("references", references))
    ]
    return JointRelationScore().compute(predictions=graphs[0], references=graphs[1])


class JointRelationScore(LocalMetric):
    """F1 of entities, and of relations between entities that are to be found too."""

    columns: ClassVar = {"predictions": _GRAPH, "references": _GRAPH}
    source = (
        "Taillé et al. (2020). Let's Stop Incorrect Comparisons in End-to-end Relation Extraction! "
        "https://aclanthology.org/2020.emnlp-main.301"
    )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        check_rows(predictions, references)
        said, gold = _all(predictions), _all(references)
        labels = {label for *_, label in said["strict"] | gold["strict"]}
        per_label = [_f1(*({r for r in part["strict"] if r[-1] == label} for part in (said, gold))) for label in labels]
        return {
            "strict_f1": _f1(said["strict"], gold["strict"]),
            "strict_f1_macro": sum(per_label) / len(per_label) if per_label else 0.0,
            "boundary_f1": _f1(said["boundary"], gold["boundary"]),
            "entity_f1": _f1(said["entity"], gold["entity"]),
        }


def _all(graphs: Iterable[Mapping[str, Any]]) -> dict[str, set[tuple[Any, ...]]]:
    """What is said in all rows, in the form in which it is compared."""
    found: dict[str, set[tuple[Any, ...]]] = {"entity": set(), "strict": set(), "boundary": set()}
    for row, graph in enumerate(graphs):
        entities = [(entity["start"], entity["end"], entity["type"]) for entity in graph["entities"]]
        found["entity"].update((row, *entity) for entity in entities)
        for relation in graph["relations"]:
            head, tail, label = entities[relation["head"]], entities[relation["tail"]], relation["label"]
            found["strict"].add((row, head, tail, label))
            found["boundary"].add((row, head[:2], tail[:2], label))
    return found


def _f1(said: set[tuple[Any, ...]], gold: set[tuple[Any, ...]]) -> float:
    return 2 * len(said & gold) / (len(said) + len(gold)) if said or gold else 0.0


def _checked(name: str, graph: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that is scored; `evaluate` would turn 1.5 and "1" into 1."""
    checked: dict[str, Any] = {}
    for part, (number, other, text) in (
        ("entities", ("start", "end", "type")),
        ("relations", ("head", "tail", "label")),
    ):
        checked[part] = [{key: value[key] for key in (number, other, text)} for value in graph[part]]
        for value in checked[part]:
            for key in (number, other):
                if not isinstance(value[key], int) or isinstance(value[key], bool):
                    raise TypeError(f"{name}[{part!r}] has {key} {value[key]!r}: expected a whole number.")
            if not isinstance(value[text], str):
                raise TypeError(f"{name}[{part!r}] has {text} {value[text]!r}: expected a string.")
    count = len(checked["entities"])
    for value in checked["relations"]:
        if not (0 <= value["head"] < count and 0 <= value["tail"] < count):
            raise ValueError(f"{name} has a relation {value!r:.80}, and {count} entities: their numbers are from 0.")
    return checked
