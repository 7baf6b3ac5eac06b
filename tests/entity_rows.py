"""Rows with entities anywhere and any relations between them."""

from itertools import pairwise

from hypothesis import strategies as st

TYPES, LABELS = ("firm", "person"), ("near", "owns", "x")


def row(words, entities, relations=()):
    ends = [[start, end] for start, end, _ in entities]
    return {
        "tokens": [f"w{i}" for i in range(words)],
        "entities": [dict(zip(("start", "end", "type"), entity, strict=True)) for entity in entities],
        "relations": [{"head": ends[h], "tail": ends[t], "label": label} for h, t, label in relations],
    }


@st.composite
def graphs(draw, most=14):
    """Rows with entities anywhere and any relations between them."""
    words = draw(st.integers(1, most))
    edges = sorted(draw(st.sets(st.integers(0, words), max_size=8)))
    kept = [pair for pair in pairwise(edges) if draw(st.booleans())]
    entities = [(start, end, draw(st.sampled_from(TYPES))) for start, end in kept]
    pairs = [(h, t, label) for h in range(len(kept)) for t in range(len(kept)) if h != t for label in LABELS]
    relations = sorted(draw(st.sets(st.sampled_from(pairs), max_size=5))) if pairs else []
    return row(words, entities, relations)
