"""Label selectors: what they select, how they are written back, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.core import selectors
from cloudless.errors import InvalidArgument

LABELS = {"app": "web", "zone": "a", "gpu": "", "cloudless.dev/tier": "front"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        (" app = web , zone=a", True),
        ("app=api", False),
        ("app!=api", True),
        ("missing!=x", True),
        ("missing=x", False),
        ("missing=", False),
        ("gpu=", True),
        ("zone in (a,b)", True),
        ("zone in (b, c)", False),
        ("zone notin (b,c)", True),
        ("zone notin (a)", False),
        ("missing notin (a)", True),
        ("gpu", True),
        ("!gpu", False),
        ("! missing", True),
        ("cloudless.dev/tier=front,app", True),
        ("app=web,zone in (a,b),gpu,!battery", True),
        ("in in (in)", False),
    ],
)
def test_matches(text: str, expected: bool) -> None:
    assert selectors.parse(text).matches(LABELS) is expected


@pytest.mark.parametrize(
    "text",
    ["=", "a=b,", ",a", "a=b c", "a in b", "a in (b", "a in", "(a)", "a=b=c", "!", "-a=b", "a=-b", "a/=b", "a" * 5000],
)
def test_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        selectors.parse(text)
    assert refused.value.reason == "BadSelector"
    assert refused.value.remedy


@pytest.mark.parametrize("text", ["app=web", "zone in (a,b),!gpu,disk,tier!=x", "zone notin (a,b)", "gpu="])
def test_written_back_it_reads_the_same(text: str) -> None:
    selector = selectors.parse(text)
    assert str(selector) == text
    assert selectors.parse(str(selector)) == selector


@pytest.mark.parametrize(
    "text",
    [
        ",".join(f"!k{number}" for number in range(65)),
        f"a in ({','.join(f'v{number}' for number in range(257))})",
        "a" * 5000,
        " " * 4000 + ")",
        "a " * 2000,
    ],
    ids=["terms", "values", "text", "spaces", "words"],
)
def test_what_would_cost_too_much_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidArgument):
        selectors.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        selector = selectors.parse(text)
    except InvalidArgument:
        return
    assert selectors.parse(str(selector)) == selector
