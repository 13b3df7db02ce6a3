"""The notation: what parses, what it prints as, which columns it takes, and what its errors say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.task.arrow import MATCH, Arrow, ArrowError, Port, bind, parse, parse_ports, require_kinds

DESIGNED = [
    "text -> label", "review:text -> stars:label", "text -> labels", "text -> number", "text -> tags",
    "question:text, passage:text -> answer:span", "text -> text", "text <-> text", "image -> label, boxes",
    "image -> image", "video -> label", "sound -> text", "sound -> label", "text -> sound", "sound -> sound",
    "image <-> text", "image -> text", "image, text -> label", "sound, text -> text", "~text -> text",
    "~text, text -> text, text", "~image -> image",
]  # fmt: skip
names = st.text(min_size=1, max_size=12).filter(lambda text: '"' not in text)
ports = st.builds(Port, st.sampled_from(["text", "label", "image"]), st.none() | names, st.booleans())
sides = st.lists(ports, min_size=1, max_size=3).map(tuple)


@pytest.mark.parametrize("text", DESIGNED)
def test_the_whole_notation_parses_and_prints(text: str) -> None:
    assert str(parse(text)) == text and parse(str(parse(text))) == parse(text)


@given(sides, sides.map(lambda side: tuple(Port(p.kind, p.column) for p in side)))
def test_printing_and_parsing_are_inverse(sources: tuple[Port, ...], targets: tuple[Port, ...]) -> None:
    arrow = Arrow(sources, targets)
    assert parse(str(arrow)) == arrow
    assert parse_ports(str(Arrow(sources, ()))) == sources


@given(st.none() | names, st.lists(st.none() | names, min_size=1, max_size=3), st.booleans(), st.none() | names)
def test_printing_and_parsing_of_matches_are_inverse(
    query: str | None, others: list[str | None], scored: bool, score: str | None
) -> None:
    sources = (Port("image", query), *(Port("text", column) for column in others))
    target = Port("number", score) if scored and len(others) == 1 else Port(MATCH)
    arrow = Arrow(sources, (target,), symmetric=True)
    assert parse(str(arrow)) == arrow and arrow.pair.sources == sources[:2]


def test_spaces_do_not_matter() -> None:
    assert parse(" ~ a b : text->c:label ") == Arrow((Port("text", "a b", True),), (Port("label", "c"),))
    assert parse('"a -> b":text -> label').sources[0].column == "a -> b"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("text label", "has no arrow"),
        ("", "has no arrow"),
        ("text -> label -> tags", "has 2 arrows"),
        ("text ->", "port 1 behind the arrow"),
        ("-> label", "port 1 before the arrow"),
        ("text,, text -> label", "port 2 before the arrow"),
        ("a:b:text -> label", "a port is [~][column:]kind"),
        ("text -> ~label", "only what is read can be hidden"),
        ("te xt -> label", "is no kind"),
        ('"text -> label', "cannot read"),
        ("a:text, b:text <-> c:text", "has 2 ports before '<->'"),
        ("~text <-> text", "hides a part of what it matches"),
        ("a:text <-> b:text, c:text, s:number", "either values of its kind that do not match, or one score"),
    ],
)
def test_what_does_not_parse_is_said(text: str, says: str) -> None:
    with pytest.raises(ArrowError) as error:
        parse(text)
    assert says in str(error.value)


def test_kinds_that_are_not_here_are_named() -> None:
    with pytest.raises(ArrowError, match="no kind 'boxes' here; there are: label, text"):
        require_kinds(parse("text -> boxes"), ["text"], ["label", "text"])
    with pytest.raises(ArrowError, match="did you mean 'label'"):
        require_kinds(parse("text -> lable"), ["text"], ["label", "text"])
    with pytest.raises(ArrowError, match="'label' cannot be read; what can be: text"):
        require_kinds(parse("label -> text"), ["text"], ["label", "text"])
    require_kinds(parse("~text -> text, label"), ["text"], ["label", "text"])


FITS = {"text": {"text", "body", "title"}, "label": {"label", "stars", "topic", "title"}}


def bound(arrow: str, *columns: str) -> str:
    return str(bind(parse(arrow), columns, lambda kind, column, role: column in FITS[kind]))


@pytest.mark.parametrize(
    ("arrow", "columns", "expected"),
    [
        ("text -> label", ["text", "label"], "text:text -> label:label"),
        ("text -> label", ["id", "text", "stars"], "text:text -> stars:label"),
        ("text -> label", ["body", "stars", "id"], "body:text -> stars:label"),
        ("body:text -> label", ["body", "stars"], "body:text -> stars:label"),
        ("text -> topic:label", ["body", "stars", "topic"], "body:text -> topic:label"),
        ("~text -> text", ["id", "body"], "~body:text -> body:text"),
        ("~text:text, ~body:text -> text, text", ["text", "body"], "~text:text, ~body:text -> text:text, body:text"),
        ("text:text <-> body:text", ["text", "body"], "text:text <-> body:text"),
        ("text <-> body:text, stars:number", ["text", "body", "stars"], "text:text <-> body:text, stars:number"),
        ("text -> label", ["title", "stars", "body"], None),
        ("text -> label", ["id", "stars"], None),
        ("nope:text -> label", ["body", "stars"], None),
    ],
)
def test_ports_find_their_columns(arrow: str, columns: list[str], expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ArrowError) as error:
            bound(arrow, *columns)
        assert all(repr(column) in str(error.value) for column in columns), "an error lists the columns"
    else:
        assert bound(arrow, *columns) == expected


def test_a_table_parted_by_something_else_is_suspected() -> None:
    with pytest.raises(ArrowError, match=r"'text;label' \(its cells seem to be separated by ';'; .csv has commas"):
        bind(parse("text -> label"), ["text;label"], lambda kind, column, role: role == "source")


def test_rows_in_place_of_the_task_are_refused() -> None:
    """As in scikit-learn's fit(X, y)."""
    with pytest.raises(ArrowError, match="the task comes first, as text such as 'text -> label', and not list"):
        parse(["a", "b"])  # type: ignore[arg-type]
