"""Edit scripts: they say how a lemma is made of its word, for any strings, and make those of other words."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_mtl.tasks.edit_scripts import IDENTITY, apply_script, edit_script, is_script, letters_needed

DATA = Path(__file__).parent.parent / "data" / "trees.jsonl"
# Case that changes length, has no way back, has a third form, or hangs on the place; and what scripts are spelt with.
ODD = st.text("abAB ßẞİıiIſKkÅåσςΣDžDždžﬁŉʼń̈́1;=~|+->*,UL\ud800", max_size=8)
ANY = st.text(max_size=8) | ODD | st.text("abAB", max_size=8)


@given(ANY, ANY)
@example("STRASSE", "Straße")
@example("İstanbul", "istanbul")
@example("i̇stanbul", "İstanbul")
@example("ΟΔΟΣ", "οδός")
@example("", "A")
@example("A", "")
@settings(max_examples=500)
def test_a_script_makes_its_lemma_of_its_word(word, lemma):
    script = edit_script(word, lemma)
    assert is_script(script)
    assert apply_script(script, word) == lemma
    assert len(word) >= letters_needed(script)


@given(ANY, ANY, ANY)
@settings(max_examples=500)
def test_a_script_makes_something_of_every_word_that_is_long_enough(word, lemma, other):
    script = edit_script(word, lemma)
    made = apply_script(script, other)
    assert (made is None) == (len(other) < letters_needed(script))


def test_every_character_survives_a_change_of_case():
    for character in map(chr, range(sys.maxunicode + 1)):
        other = character.swapcase()
        if other != character:
            assert apply_script(edit_script(character, other), character) == other
            assert apply_script(edit_script(other, character), other) == character


@pytest.mark.parametrize(
    ("word", "lemma", "script"),
    [
        ("the", "the", IDENTITY),
        ("The", "the", IDENTITY),
        ("2004", "2004", IDENTITY),
        ("cats", "cat", ";~|-"),
        ("Running", "run", ";~|----"),
        ("sang", "sing", ";~>-+i|"),
        ("went", "go", ";=go"),
        ("NATO", "NATO", "*;~|"),
        ("McDonalds", "McDonald", "*;~|-"),
        ("LYNX", "Lynx", "U0,L1;~|"),
        ("we", "I", "U0;=i"),
        ("u.s.a.", "U.S.A.", "U0;~|"),
        ("ipads", "iPad", "U1,L-2;~|-"),
        ("a-b", "x+y|", ";=x+y|"),
        ("b", "|b-", ";~+||+-"),
    ],
)
def test_scripts_are_spelt_like_this(word, lemma, script):
    assert edit_script(word, lemma) == script and apply_script(script, word) == lemma


def test_a_script_of_one_word_makes_the_lemmas_of_others():
    assert apply_script(edit_script("sang", "sing"), "rang") == "ring"
    assert apply_script(edit_script("cats", "cat"), "Dogs") == "dog"
    assert apply_script(edit_script("Anns", "Ann"), "McDonalds") == "McDonald"
    assert apply_script(edit_script("PARIS", "Paris"), "MÜNCHEN") == "München"


def test_a_word_that_is_too_short_has_no_lemma_by_the_script():
    script = edit_script("running", "run")
    assert letters_needed(script) == 5
    assert apply_script(script, "king") is None and apply_script(script, "doing") == "d"


@pytest.mark.parametrize("text", ["", "abc", "~|", ";~", ";~a|", "X0;~|", ";~|+", "U;~|", "U0,;~|", "**;~|"])
def test_what_is_no_script_is_known(text):
    assert not is_script(text)


def test_the_commonest_scripts_make_most_lemmas_of_real_sentences():
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    pairs = [pair for row in rows for pair in zip(row["tokens"], row["lemmas"], strict=True)]
    scripts = {edit_script(word, lemma) for word, lemma in pairs}
    assert all(apply_script(edit_script(word, lemma), word) == lemma for word, lemma in pairs)
    assert len(scripts) < len({lemma for _, lemma in pairs}) / 4
