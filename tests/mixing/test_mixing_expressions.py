"""Weights written as expressions are arithmetic on a few names, and nothing else is ever carried out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl.mixing.expressions import evaluate, parse

VALUES = {"progress": 0.25, "step": 30.0, "epoch": 1.5, "size": 900.0}


@pytest.mark.parametrize(
    "text",
    [
        "1 - progress",
        "size ** (1 / (1 + 4 * progress))",
        "-step + +epoch * 2 - 3 / 4",
        "max(0.1, min(1, step / 1000), progress)",
        "exp(-step / 10) * sqrt(size) + log(size)",
        " 2e-3 ",
        "2 ** 3 ** 2",
    ],
)
def test_an_expression_has_the_value_that_python_gives_it(text):
    names = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "max": max, "min": min}
    assert evaluate(text, VALUES, "w") == pytest.approx(eval(text.strip(), {"__builtins__": {}}, names | VALUES))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "w='' is not an expression"),
        ("1 +", "is not an expression"),
        ("progres", "the name 'progres'.*Did you mean 'progress'"),
        ("sqr(2)", "calls 'sqr'.*Did you mean 'sqrt'"),
        ("sqrt(1, 2)", "gives sqrt 2 values: it takes one"),
        ("max(1)", "gives max 1 values: it takes two or more"),
        ("__import__('os')", "calls '__import__'"),
        ("size.real", "'size.real', which is not understood"),
        ("[1][0]", "which is not understood"),
        ("1 if step else 2", "which is not understood"),
        ("step > 3", "which is not understood"),
        ("'a'", "which is not understood"),
        ("True", "which is not understood"),
        ("lambda: 1", "which is not understood"),
        ("max(*[1, 2])", "which is not understood|takes two or more"),
        ("1e400", "a number that is too large"),
        ("9" * 301, "has 301 characters: at most 300"),
        ("(" * 250, "is not an expression"),
    ],
)
def test_what_is_no_arithmetic_is_refused_before_it_is_carried_out(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, "w")


@pytest.mark.parametrize(
    "text", ["1 / (epoch - 1.5)", "log(0)", "(-1) ** 0.5", "exp(size * size)", "9e99 ** 9", "sqrt(-1)", "1e300 * 1e300"]
)
def test_arithmetic_without_a_finite_result_is_refused_with_the_values(text):
    with pytest.raises(ValueError, match=r"(has no value|it must be a finite number|is .* at progress=0.25)"):
        evaluate(text, VALUES, "w")


@given(st.text(alphabet="0123456789.+-*/() progstenizxlqm,", max_size=40))
def test_any_text_gives_a_number_or_a_value_error(text):
    try:
        value = evaluate(text, VALUES, "w")
    except ValueError:
        return
    assert math.isfinite(value)
