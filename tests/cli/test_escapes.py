"""Names of classes, columns and files of others: they act on no terminal, card, page or spreadsheet."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from mappings import small_mapping
from typer.testing import CliRunner

from mapsto.cli.app import app
from mapsto.data.writers import defuse, write_file
from mapsto.errors import printable
from mapsto.metrics.intervals import Score
from mapsto.pretrained import model_folder
from mapsto.pretrained.model_card import plain
from mapsto.report.chart import draw_chart, standalone_svg

NAMES = [
    "\x1b[31mred\x1b[2K", "a\rb", "\x9b2J", "\x07bell\x08", "\u202etxt.exe", "\u2066x\u2069", "line\u2028end", "half \ud800",
    "<script>alert(1)</script>", "[a](javascript:b)", "![x](http://y)", "`code`", "| a | b |", "# head\n- list", "**b** _i_",
    "$\\frac{x}$", "=1+1", "_hidden", "&lt;", "\\", "名字",
]  # fmt: skip
ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("name", NAMES)
def test_printed_text_has_no_control_characters_and_says_the_rest(name: str) -> None:
    text = printable(name)
    assert not ACTIVE.search(text)
    assert json.loads(f'"{printable(json.dumps(name, ensure_ascii=False)[1:-1])}"') == name
    assert ACTIVE.search(name) or text == name


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose two classes and whose column are named to do harm."""
    folder = tmp_path_factory.mktemp("hostile")
    mapping = small_mapping("text -> label")[0]
    mapping.targets[0].classes[:] = ["\x1b[31m<b>=1+1\n# x", "=HYPERLINK(\u202e)"]  # type: ignore[attr-defined]
    provenance = {"start": "<img src=x>\x1b[2J", "data": "x", "rows": 2}
    model_folder.save_mapping(
        mapping, folder, provenance, {"accuracy": Score(0.5, 0.4, 0.6, 10)}, ["<i>found</i> | x\n"]
    )
    return folder


def test_a_card_shows_names_as_they_are(hostile: Path) -> None:
    card = (hostile / "README.md").read_text(encoding="utf-8")
    assert not ACTIVE.search(card)
    assert not re.search(r"(?<!\\)<(b|img|i)\b", card) and "\n# x" not in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["model-index"][0]["results"]


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    text = plain(name)
    assert "\n" not in text and not ACTIVE.search(text)
    assert not re.search(r"(?<!\\)(\\\\)*[`*\[<|$]", text)
    unescaped = re.sub(r"\\([`*\[\]<|~$&_\\])", r"\1", text)
    assert unescaped == printable(name).replace("\n", "\\n")


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["info", "--json"], ["predict", "--text", "a \x1b[2J b"], ["predict", "--json", "--text", "a"]],
)
def test_commands_print_no_control_characters(arguments: list[str], hostile: Path) -> None:
    command, *rest = arguments
    outcome = CliRunner().invoke(app, [command, str(hostile), *rest])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout and not ACTIVE.search(outcome.output.replace("\r\n", "\n"))


def test_answers_in_csv_are_escaped_and_input_columns_are_unchanged(hostile: Path, tmp_path: Path) -> None:
    cells = ["=1+1 \x1b[2J", "plain", "-5", "@x"]
    write_file(tmp_path / "in.csv", ["text"], [{"text": cell} for cell in cells])
    for options, column in (([], cells), (["--csv-safe"], ["'=1+1 \\u001b[2J", "plain", "-5", "'@x"])):
        command = ["predict", str(hostile), str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv"), *options]
        outcome = CliRunner().invoke(app, command)
        assert outcome.exit_code == 0, outcome.output
        rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8", newline="")))
        assert [row["text"] for row in rows] == column
        assert all(not ACTIVE.search(row["label"]) for row in rows)
        assert all(row["label"].startswith("'") or not row["label"].startswith("=") for row in rows) or not options


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "＝1+1", "=", "-", "+cmd|' /C calc'!A0", "-2+3", "=\x1b"]
HARMLESS = [
    "",
    "text",
    "a=b",
    "-5",
    "+5",
    "-1.5e-3",
    "1,234.5",
    "-12 %".replace(" ", ""),
    "'=1",
    "文=字",
    5,
    -2.5,
    None,
    True,
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_cell_like_a_formula_gets_a_quote(cell: str) -> None:
    assert defuse(cell) == "'" + printable(cell)


@pytest.mark.parametrize("cell", HARMLESS)
def test_other_cells_stay_as_they_are(cell: Any) -> None:
    assert defuse(cell) == cell


def draw(names: list[str]) -> str:
    with draw_chart("a chart") as chart:
        for number, name in enumerate(names):
            chart.axes.plot([0, 1], [number, 1], label=name)
        chart.axes.plot([0, 1], [0, 0])
        chart.add_legend()
    return chart.svg


@pytest.mark.parametrize("name", [name for name in NAMES if "\n" not in name])
def test_a_chart_shows_each_name_as_it_is(name: str) -> None:
    pytest.importorskip("matplotlib")
    root = ElementTree.fromstring(standalone_svg(draw([name, "other"])))
    assert printable(name) in {
        "".join(text.itertext()).replace("\u2060", "") for text in root.iter() if text.tag.endswith("text")
    }


@pytest.mark.parametrize(
    "settings",
    ["font.size: 40", "text.usetex: True", "axes.facecolor: red", "svg.fonttype: path", "text.parse_math: True"],
)
def test_a_page_does_not_depend_on_the_folder_it_is_made_in(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    expected = draw(["a", "$b$"])
    (tmp_path / "matplotlibrc").write_text(settings + "\n")
    monkeypatch.chdir(tmp_path)
    # What importing matplotlib in this folder would have set.
    with matplotlib.rc_context(matplotlib.rc_params_from_file(str(tmp_path / "matplotlibrc"))):
        assert draw(["a", "$b$"]) == expected
