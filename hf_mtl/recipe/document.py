"""YAML text -> plain values, with the line of what is wrong, and values set from outside."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..nearest import nearest

__all__ = ["dump_document", "parse_value", "read_document", "set_value"]


class _Loader(yaml.SafeLoader):
    """Reads numbers and booleans as YAML 1.2 does, and takes a key once.

    YAML 1.1, PyYAML's own, has `2e-3` for text, `save_strategy: no` for false, and `010` for eight. And of a
    key that stands twice it would silently take the last: a task would be lost.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the key {key.value!r} stands here again; keys, and so task names, must differ"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what any of the two versions would read as something else."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def read_document(path: Path) -> tuple[dict[str, Any], str]:
    """A YAML file's mapping, and its text.

    Raises:
        ValueError: no such file, not UTF-8, no YAML (with the line), or YAML that is no mapping.
    """
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ValueError(f"Recipe {str(path)!r}: no such file. In its folder: {nearest(path.name, there)}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"Recipe {str(path)!r}, line {line}: not UTF-8. Save the file as UTF-8.") from error
    values = _load(text, f"Recipe {str(path)!r}")
    if not isinstance(values, dict):
        raise ValueError(
            f"Recipe {str(path)!r} must hold keys and values (backbone: ..., tasks: ...), got {values!r:.60}."
        )
    return values, text


def parse_value(text: str, name: str) -> Any:
    """A value from the command line, as the recipe would read it.

    Raises:
        ValueError: it is no YAML.
    """
    return _load(text, name)


def dump_document(values: Mapping[str, Any], comment: str) -> str:
    """The values as YAML under a line of comment."""
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return f"# {comment}\n{text}"


def set_value(values: dict[str, Any], path: str, value: Any) -> None:
    """Sets `values[a][b][c]` for the path `a.b.c`, in place. The second key of a longer path must be there.

    Raises:
        ValueError: the path goes through something that is not there, or holds no keys.
    """
    *way, last = path.split(".")
    at = values
    for depth, key in enumerate(way):
        if at.get(key) is None and depth != 1:  # tasks are named in the file; what they have may be said here first
            at[key] = {}
        if key not in at:
            raise ValueError(f"{path}: {'.'.join(way[:depth])} has no {key!r}. {nearest(key, map(str, at))}")
        if not isinstance(at[key], dict):
            raise ValueError(f"{path}: {'.'.join(way[: depth + 1])} is {at[key]!r:.60}, which has no keys.")
        at = at[key]
    at[last] = value


def _load(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ValueError(f"{name}{where}: {error.problem or error.context}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{name}, line {line}: the character {error.character!r:.20} cannot stand in YAML.") from error
