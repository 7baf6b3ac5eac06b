"""SQuAD's JSON, versions 1.1 and 2.0: articles of paragraphs of questions (arXiv:1606.05250, arXiv:1806.03822)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .lines import BrokenFileError, open_binary

__all__ = ["is_squad", "read_squad"]

_HEAD = 1 << 16  # bytes; the first paragraph of an article begins well before
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def is_squad(path: Path) -> bool:
    """Whether the file is one object that has a list `data` of articles with `paragraphs`."""
    with open_binary(path) as file:
        head = file.read(_HEAD)
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return begin == b"{" and b'"paragraphs"' in head and re.search(rb'"data"\s*:\s*\[\s*\{', head) is not None


def read_squad(path: Path) -> Iterator[dict[str, Any]]:
    """A row a question: `id`, `title`, `context`, `question`, `answers`; impossible ones have empty lists.

    Articles are decoded one after the other: as Python's objects all of them would take many times the file's size.

    Raises:
        BrokenFileError: no JSON, or something is missing, with its path in the document.
    """
    for a, article in enumerate(_articles(path)):
        where = f"data[{a}]"
        title = article.get("title", "") if isinstance(article, dict) else ""
        for p, paragraph in enumerate(_get(path, where, article, "paragraphs", list)):
            inside = f"{where}.paragraphs[{p}]"
            context = _get(path, inside, paragraph, "context", str)
            for q, question in enumerate(_get(path, inside, paragraph, "qas", list)):
                here = f"{inside}.qas[{q}]"
                asked = _get(path, here, question, "question", str)
                answers = [] if question.get("is_impossible") else _get(path, here, question, "answers", list)
                texts = [_get(path, f"{here}.answers[{k}]", x, "text", str) for k, x in enumerate(answers)]
                starts = [_get(path, f"{here}.answers[{k}]", x, "answer_start", int) for k, x in enumerate(answers)]
                yield {
                    "id": str(question.get("id", "")),
                    "title": str(title),
                    "context": context,
                    "question": asked,
                    "answers": {"text": texts, "answer_start": starts},
                }


_NAMES = {str: "text", int: "a whole number", list: "a list"}


def _get(path: Path, where: str, value: Any, key: str, kind: type) -> Any:
    if not isinstance(value, dict):
        raise BrokenFileError(f"{path}, {where}: expected an object with {key!r}, got {value!r:.80}.")
    if key not in value or not isinstance(value[key], kind) or isinstance(value[key], bool):
        got = f"{value[key]!r:.80}" if key in value else f"an object with {list(value)}"
        raise BrokenFileError(f"{path}, {where}: expected {key!r} with {_NAMES[kind]}, got {got}.")
    return value[key]


def _articles(path: Path) -> Iterator[Any]:
    """The entries of the top object's list `data`."""
    with open_binary(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
        yield from _entries(text)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BrokenFileError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise BrokenFileError(
            f"{path}, line {error.lineno}, column {error.colno}: expected JSON ({error.msg}), "
            f"got {error.doc[error.pos : error.pos + 40]!r}."
        ) from error


def _entries(text: str) -> Iterator[Any]:
    at = _behind(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, _skip(text, at))
        at = _skip(text, _behind(text, at, ":"))
        if key == "data" and text.startswith("[", at):
            at = _skip(text, at + 1)
            while not text.startswith("]", at):
                article, at = _DECODER.raw_decode(text, at)
                yield article
                at = _skip(text, at)
                if not text.startswith("]", at):
                    at = _skip(text, _behind(text, at, ","))
            at += 1
        else:
            _, at = _DECODER.raw_decode(text, at)
        if text.startswith("}", _skip(text, at)):
            return
        at = _behind(text, at, ",")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _behind(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return at + 1
