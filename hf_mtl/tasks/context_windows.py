"""Questions with their contexts -> model inputs, long contexts in overlapping windows."""

from collections.abc import Sequence
from typing import Any

from .base import Features
from .texts import separates_pairs

__all__ = ["encode_contexts", "shorten"]


def encode_contexts(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: Any,
    *,
    limit: int,
    stride: int,
    longest_question: int,
) -> list[Features]:
    """A feature for each window of each context; every one has all that is kept of the question.

    Beside the model's inputs a feature has `row`, `first` (the position of its first subword of the context)
    and `offsets` (the characters, start and end, of each of these subwords).

    Args:
        questions: a question for each context.
        contexts: texts of any length, empty ones too.
        tokenizer: a fast tokenizer.
        limit: most subwords of an input, special ones included; 4 more than these at least.
        stride: subwords that neighbouring windows share; at most half of a window is.
        longest_question: most subwords of a question; at most half of an input is.
    """
    room = limit - tokenizer.num_special_tokens_to_add(pair=True)
    longest_question = min(longest_question, room // 2)
    end = "" if separates_pairs(tokenizer) else "\n"
    encoded = tokenizer(
        shorten(questions, tokenizer, longest_question, end),
        list(contexts),
        truncation="only_second",
        max_length=limit,
        # The same for any question, so that what a row becomes does not hang on the rows beside it.
        stride=min(stride, (room - longest_question) // 2),
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    features: list[Features] = []
    for i, window in enumerate(encoded.encodings):
        part = window.sequence_ids
        count = part.count(1)
        first = part.index(1) if count else len(part)
        ids = window.ids or [tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id]
        feature: Features = {
            "input_ids": ids,
            "row": encoded["overflow_to_sample_mapping"][i],
            "first": first,
            # As the tokenizer gives them: a list for each of them would cost as much as the tokenizer.
            "offsets": window.offsets[first : first + count],
        }
        if "token_type_ids" in encoded:
            feature["token_type_ids"] = window.type_ids or [0]
        features.append(feature)
    return features


def shorten(texts: Sequence[str], tokenizer: Any, limit: int, end: str = "") -> list[str]:
    """Texts cut to at most `limit` subwords, `end` after each counted in.

    Cut between subwords the rest may become more of them than it was (a word's beginning is another word), so
    what was cut is counted again.
    """
    done = [text + end for text in texts]
    # A subword has a character of its own, and one more may stand for the text's beginning. Characters beyond
    # ASCII may be several bytes, each a subword, or be normalised to several characters.
    doubtful = [i for i, text in enumerate(done) if len(text) >= limit or not text.isascii()]
    keep = {i: texts[i] for i in doubtful}
    while keep:
        rows = list(keep)
        encoded = tokenizer(
            [keep[i] + end for i in rows],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for i, window in zip(rows, encoded.encodings, strict=True):
            text = keep.pop(i)
            done[i] = text + end
            if len(window.ids) > limit and text:
                keep[i] = text[: min(window.offsets[limit][0], len(text) - 1)]
    return done
