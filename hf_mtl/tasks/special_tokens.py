"""What a tokenizer puts around a text."""

from itertools import dropwhile
from typing import Any

__all__ = ["added_around"]


def added_around(tokenizer: Any, target: bool = False) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer adds before and after a text, or a target text.

    Read off a text of its own: in a user's text the same tokens may stand because somebody wrote them.
    """
    asked = {"return_special_tokens_mask": True, "return_attention_mask": False, "verbose": False}
    found = tokenizer(text_target=["a"], **asked) if target else tokenizer(["a"], **asked)
    tokens = list(zip(found["input_ids"][0], found["special_tokens_mask"][0], strict=True))
    if all(special for _, special in tokens):
        return [], []
    kept = list(dropwhile(lambda token: token[1], tokens))
    back = list(dropwhile(lambda token: token[1], reversed(tokens)))
    return [k for k, _ in tokens[: len(tokens) - len(kept)]], [k for k, _ in tokens[len(back) :]]
