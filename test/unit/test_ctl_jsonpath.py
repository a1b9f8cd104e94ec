"""JSONPath templates and plain tables."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.ctl import jsonpath, table
from cloudless.errors import InvalidArgument

VALUE = {
    "items": [
        {"id": "a", "ready": True, "n": 1, "labels": {"app.kubernetes.io/name": "x", "a-b": "y"}},
        {"id": "b", "ready": False, "n": 2.5, "tags": ["p", "q", "r"]},
    ],
    "text": "z",
    "none": None,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{.text}", "z"),
        (".text", "z"),
        ("text", "z"),
        ("{$.text}", "z"),
        ("{@.text}", "z"),
        ("{.items[*].id}", "a b"),
        ("{.items[0].id}", "a"),
        ("{.items[-1].id}", "b"),
        ("{.items[7].id}", ""),
        ("{.items[0:1].id}", "a"),
        ("{.items[1].tags[1:]}", "q r"),
        ("{.items[0].labels['app.kubernetes.io/name']}", "x"),
        ('{.items[0].labels["a-b"]}', "y"),
        (r"{.items[0].labels.app\.kubernetes\.io/name}", "x"),
        ("{.items[*]['id']}", "a b"),
        ("{..id}", "a b"),
        ("{.items[?(@.ready==true)].id}", "a"),
        ("{.items[?(@.ready!=true)].id}", "b"),
        ("{.items[?(@.n>1)].id}", "b"),
        ('{.items[?(@.id=="b")].n}', "2.5"),
        ("{.items[?(@.tags)].id}", "b"),
        ("{.missing}", ""),
        ("{.text.deeper}", ""),
        ("{.none}", "null"),
        ("{.items[0].ready} and {.text}!", "true and z!"),
        ('{range .items[*]}{.id}{"\\t"}{.n}{"\\n"}{end}', "a\t1\nb\t2.5\n"),
        ("{range .items[*]}{.id}{range .tags[*]}<{}>{end};{end}", "a;b<p><q><r>;"),
        ("{range .items[*]}{.id}{','}{end}", "a,b,"),
        ("{.items[1].tags}", '["p", "q", "r"]'),
        ("{.items[0].labels.*}", "x y"),
    ],
)
def test_render(template: str, expected: str) -> None:
    assert jsonpath.render(template, VALUE) == expected


@pytest.mark.parametrize(
    "template", ["", "{.a", "{.items[}", "{.items[?(]}", "{range .a}", "{end}", "{.a b}", "}", "{'}"]
)
def test_refuses(template: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        jsonpath.parse(template)
    assert refused.value.exit_code == 2


@given(st.text(alphabet="{}[].*?@'\"abc01:!=<>()$ \\", max_size=30))
def test_any_template_renders_or_is_refused(template: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert isinstance(jsonpath.render(template, VALUE), str)


def test_columns_line_up_whatever_the_script() -> None:
    lines = table.layout(["NAME", "X"], [["web", "1"], ["日本", "2"], ["e\u0301te", "3"]])
    assert lines == ["NAME   X", "web    1", "日本   2", "e\u0301te    3"]
    assert table.layout(["NAME"], [["a"]], show_header=False) == ["a"]


@given(st.text())
def test_cells_are_one_printable_line(text: str) -> None:
    assert table.safe(text).isprintable()
