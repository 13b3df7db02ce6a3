"""What is said where a table is probably misread: other marks in numbers, a matrix of classes, formats that are not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mapsto.data.checks import check_rows
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table
from mapsto.errors import BadCell, MapstoError
from mapsto.kinds.boxes import Boxes
from mapsto.kinds.number import Number
from mapsto.task.arrow import parse

TEXTS = [f"text {i}" for i in range(8)]


def warnings_of(arrow: str, table: dict[str, list[object]]) -> list[str]:
    rows = read_table(table)
    return [str(finding) for finding in check_rows(load_rows(bind_to(parse(arrow), rows), rows)).warnings]


@pytest.mark.parametrize(
    ("arrow", "column", "advice"),
    [
        (
            "text -> number",
            {"price": ["0,5", "1.234,5"] * 4},
            "'price' holds numbers with commas, such as '0,5'.* as 0.5",
        ),
        (
            "text -> labels",
            {"toxic": [0, 1] * 4, "rude": [1, 0] * 4},
            "'toxic', 'rude' hold 0 and 1.*toxic:label, rude:label",
        ),
        ("text -> number", {"date": ["1.2.2024", "3.4.2024"] * 4}, "Name one, as in"),
        ("text -> labels", {"toxic": [0, 1] * 4}, "Name one, as in"),
    ],
)
def test_where_no_column_fits_the_probable_one_is_named(
    arrow: str, column: dict[str, list[object]], advice: str
) -> None:
    table = read_table({"text": TEXTS, **column})
    with pytest.raises(MapstoError, match=advice):
        bind_to(parse(arrow), table)


@pytest.mark.parametrize("place", ["", "images"])
@pytest.mark.parametrize(
    ("name", "content", "format_name"),
    [
        ("annotations.xml", '<?xml version="1.0"?><annotations><image id="0" name="p.png"/></annotations>', "CVAT"),
        ("p.json", json.dumps({"shapes": [{"points": [[1, 2], [3, 4]]}], "imagePath": "p.png"}), "labelme"),
        ("table.csv", "image,xmin,ymin,xmax,ymax,label\np.png,1,2,3,4,a\n", "VoTT"),
    ],
)
def test_a_format_of_boxes_that_is_not_read_is_named(
    name: str, content: str, format_name: str, place: str, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / place).mkdir(exist_ok=True)
    image.new("RGB", (8, 8)).save(tmp_path / place / "p.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(MapstoError, match=f"{name} is {format_name}"):
        bind_to(parse("image -> boxes"), read_table(tmp_path / place))


@pytest.mark.parametrize(
    ("box", "format_name"),
    [
        ({"shape_attributes": {"x": 1}, "region_attributes": {}}, "VIA"),
        ({"label": "a", "coordinates": {"x": 1}}, "CreateML"),
    ],
)
def test_a_box_of_another_format_is_named(box: dict[str, object], format_name: str) -> None:
    with pytest.raises(BadCell, match=f"this is {format_name}'s JSON, which is not read"):
        Boxes.read([box])


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels"])
def test_missing_cells_written_as_text_are_named(arrow: str) -> None:
    column = arrow.split()[-1]
    (warning,) = [
        text
        for text in warnings_of(arrow, {"text": TEXTS, column: ["a|b", "nan", "c|d", "None"] * 2})
        if "missing" in text
    ]
    assert "'nan' (2), 'None' (2)" in warning
    assert not [text for text in warnings_of(arrow, {"text": TEXTS, column: ["a|b", "none"] * 4}) if "missing" in text]


def test_zeros_and_ones_beside_pairs_are_named() -> None:
    table: dict[str, list[object]] = {"q": TEXTS, "p": [f"{text} more" for text in TEXTS], "right": ["0", "1"] * 4}
    assert any("`, right:number`" in text for text in warnings_of("q:text <-> p:text", table))
    assert not any("right" in text for text in warnings_of("q:text <-> p:text, right:number", table))
    assert not any("0 and 1" in text for text in warnings_of("q:text <-> p:text", {**table, "right": list(range(8))}))


def test_underscores_make_no_number() -> None:
    assert Number.read("1000") == 1000
    with pytest.raises(BadCell, match="no number"):
        Number.read("1_000")


@pytest.mark.parametrize(("sign", "ascii_sign"), [("→", "->"), ("⟶", "->"), ("↔", "<->"), ("⟷", "<->")])
def test_arrows_of_unicode(sign: str, ascii_sign: str) -> None:
    assert parse(f"a:text{sign}b:text") == parse(f"a:text {ascii_sign} b:text")
    quoted = parse(f'"a{sign}b":text -> label')
    assert quoted.sources[0].column == f"a{sign}b" and parse(str(quoted)) == quoted
