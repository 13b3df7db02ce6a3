"""Pages that decide: the verdict agrees with planted figures, the first screen answers, and filters work in a real browser."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import ask_browser

from mapsto import kinds
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.evaluation.linear_baseline import BaselineComparison
from mapsto.evaluation.report import Provenance, evaluation_page
from mapsto.metrics.intervals import Score, with_intervals
from mapsto.report.bars import Bar, interval_bars
from mapsto.report.page import Page
from mapsto.task.arrow import parse

HTML = "<script>alert(1)</script> & 'b'"


def page_of(labels: list[str], answers: list[str], linear: tuple[float, float] | None = None) -> Page:
    """Return the page of a model with these answers. linear: difference to a linear model, and half its interval."""
    target = kinds.target("label")(sorted({*labels, *answers, "zz"}))
    table = read_table([{"text": f"row {i} {HTML}", "label": label} for i, label in enumerate(labels)])
    rows = load_rows(parse("text -> label"), table)
    outputs = torch.zeros(len(labels), len(target.classes))
    outputs[torch.arange(len(labels)), torch.tensor([target.classes.index(answer) for answer in answers])] = 4.0
    predictions = Predictions(rows.arrow, target, rows, rows.targets[0], outputs)
    analysis = analyse_errors(predictions)
    assert analysis is not None
    comparison = None
    if linear is not None:
        value = float(np.mean([label == answer for label, answer in zip(labels, answers, strict=True)]))
        name = "a linear model of TF-IDF"
        comparison = BaselineComparison(name, "accuracy", value, value - linear[0], True, *linear)
    evaluation = Evaluation(
        len(labels),
        with_intervals(target.metrics(outputs, rows.targets[0])),
        with_intervals(target.baseline(rows.targets[0])),
        predictions=[predictions],
        linear=comparison,
    )
    return evaluation_page(evaluation, [(predictions, analysis)], Provenance("How good?"))


def replies(page: Page) -> dict[str, str]:
    """Return the answers of the first screen as text, by question."""
    return {question: html.unescape(re.sub("<.*?>", "", str(answer))) for question, answer in page.answers}


TWO = ["good", "bad"] * 50
OTHER = {"good": "bad", "bad": "good"}


@pytest.mark.parametrize(
    ("num_wrong", "linear", "words"),
    [
        (10, None, "It is right on 90.0 % of the rows, significantly better than the baseline (always the majority"),
        (48, None, "It is not shown to be better than the baseline (always the majority class: 50.0 %): it is right on 52.0 %"),
        (80, None, "It is significantly worse than the baseline (always the majority class: 50.0 %): it is right on 20.0 %"),
        (10, (0.2, 0.1), "and significantly better than a linear model of TF-IDF (70.0 %)."),
        (10, (0.05, 0.1), "but not significantly better than a linear model of TF-IDF (85.0 %)."),
        (10, (-0.05, 0.02), "but significantly worse than a linear model of TF-IDF (95.0 %)."),
    ],
)  # fmt: skip
def test_the_verdict_agrees_with_the_figures(num_wrong: int, linear: tuple[float, float] | None, words: str) -> None:
    page = page_of(TWO, [OTHER[name] if i < num_wrong else name for i, name in enumerate(TWO)], linear)
    (verdict,) = page.verdicts
    assert words in verdict
    assert page.figures[0].value == f"{100 - num_wrong:.1f} %" and "n = 100" in page.figures[0].label
    assert page.picture is not None and page.picture.content.count('class="dot"') == 2 + (linear is not None)
    is_simple_as_good = num_wrong > 40 or (linear is not None and linear[0] < linear[1])
    assert ("starting model" in replies(page)["What would make it better?"]) == is_simple_as_good


def test_one_class_and_no_mistake_are_said() -> None:
    one = page_of(["good"] * 30, ["good"] * 29 + ["bad"])
    assert (
        "cannot show how good it is, since all have the label good" in one.verdicts[0] and "96.7 %" in one.verdicts[0]
    )
    perfect = page_of(TWO, TWO)
    assert replies(perfect)["Where does it fail?"] == "Nowhere on these 100 rows: it made no mistake."
    titles = [section.title for section in perfect.sections]
    assert "Each class" in titles and "All mistakes" not in titles and "What it confuses" not in titles


def test_each_class_has_its_precision_and_recall() -> None:
    page = page_of(["a"] * 10 + ["b"] * 30, ["a"] * 8 + ["b"] * 2 + ["a"] * 2 + ["b"] * 28)
    (table,) = next(section for section in page.sections if section.title == "Each class").tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert [cell.split(" (")[0] for cell in rows["a"]] == ["10", "80.0 %", "80.0 %", "80.0 %"]
    assert [cell.split(" (")[0] for cell in rows["b"]] == ["30", "93.3 %", "93.3 %", "93.3 %"]


def test_tags_and_boxes_are_counted_by_item() -> None:
    target = kinds.target("labels")(["a", "b"])
    counts = target.item_counts(torch.tensor([[5.0, -5.0], [5.0, 5.0], [-5.0, -5.0]]), [("a",), ("b",), ("a", "new")])
    assert counts.by_class == {"a": (1, 2, 2), "b": (1, 1, 1), "new": (0, 0, 1)}
    assert counts.by_row.tolist() == [[1, 1, 1], [1, 2, 1], [0, 0, 2]]


@pytest.mark.parametrize("names", [["好评", "差评"], [HTML, '"quoted"'], [f"class {i}" for i in range(100)]])
def test_names_of_any_kind_are_shown(names: list[str]) -> None:
    labels = names * (200 // len(names))
    page = page_of(labels, [names[1] if i % 10 == 0 else name for i, name in enumerate(labels)])
    source = page.html()
    assert html.escape(names[0]) in source or html.escape(names[0], quote=False) in source or "&#39;" in source
    assert "<script>alert" not in source
    confusion = next(section for section in page.sections if section.title == "What it confuses")
    assert confusion.figure is not None and ("<svg" in confusion.figure) == (len(names) > 12)
    scripts = re.findall(r"<script[^>]*>", source)
    assert scripts == ["<script>"] and not re.search(r"<link|@import|src=|https?://(?!www\.w3\.org)", source)


def test_bars_have_an_axis_with_round_ends() -> None:
    score = Score(0.831, 0.80, 0.86, 100)
    content = interval_bars(
        [Bar.of_score("<b>", score, True), Bar.of_score("other", Score(0.77, 0.7, 0.8, 9))], "scores"
    )
    assert "&lt;b&gt;" in content and "<span>65 %</span><span>90 %</span>" in content
    places = [float(place) for place in re.findall(r"left:([\d.]+)%", content)]
    assert all(0 <= place <= 100 for place in places)
    equal = interval_bars([Bar.of_score("one", Score(1.0, float("nan"), float("nan"), 1))], "scores")
    assert "100 %" in equal and "nan" not in equal


CLICK = """
const link = document.querySelector('dl.answers a[data-set]');
const closed = !document.getElementById('mistakes').closest('details').open;
link.click();
await new Promise(done => setTimeout(done, 300));
const table = document.querySelector('table[data-filter]');
const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden).length;
const linked = shown();
const search = document.querySelector('.filters input');
search.value = 'ROW 12 '; search.dispatchEvent(new Event('input', {bubbles: true}));
const found = shown();
table.setFilters({});
return [closed, document.getElementById('mistakes').closest('details').open, linked, found, shown(), innerWidth,
  document.documentElement.scrollWidth, document.querySelectorAll('details[open]').length];
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_link_opens_the_mistakes_and_filters_them(tmp_path: Path, width: int) -> None:
    names = ["好评", HTML, "x" * 60]
    labels = names * 20
    answers = [names[1] if i in (0, 3, 6, 12) else names[0] if i == 7 else name for i, name in enumerate(labels)]
    found: list[Any] = ask_browser(tmp_path, page_of(labels, answers).html(), width, CLICK)
    closed, is_open, linked, searched, all_rows, inner, scrolled, num_open = found
    assert closed and is_open and num_open == 1
    assert (linked, searched, all_rows) == (4, 1, 5)
    assert inner == width >= scrolled
