"""The page of an evaluation: scores, where it fails, what silence would gain, rows to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.errors import Finding, places
from mapsto.evaluation.error_analysis import Scrutiny
from mapsto.evaluation.evaluate import Answers, Evaluation
from mapsto.evaluation.report_sections import failures, reasons, slices
from mapsto.files import write_atomic
from mapsto.metrics.intervals import to_json
from mapsto.progress import duration
from mapsto.report.figures import data_findings, reliability
from mapsto.report.page import SERIES, Page, Section, Table, drawing, safe

MOST_POINTS = 500


INTERVALS = "95 % intervals over the rows: Wilson's for a share of right ones, by bootstrap for other figures"


Looks = Sequence[tuple[Answers, Scrutiny]]


FILES, RESULTS = "_files", "results.json"  # beside page.html stands the folder page_files


def evaluated(
    found: Evaluation,
    looks: Looks,
    title: str,
    command: str | None,
    findings: Sequence[Finding] = (),
    steps: Sequence[Dict[str, Any]] = (),
) -> Page:
    """The page of an evaluation and of a close look at it. command: what makes it again. findings: what looks wrong in the
    data. steps: the lines of metrics.jsonl, where it is of a model just fitted."""
    sections = [_scores(found)]
    for at, (answers, look) in enumerate(looks):
        own = [
            *_kept(look),
            *_calibration(answers),
            *slices(look),
            *failures(answers, look),
            *reasons(answers, look),
        ]
        sections += [_named(section, answers.name, at) for section in own]
    sections += [*_made(found), *data_findings(findings), *_learnt(steps), _how(found, steps, command)]
    files = dict.fromkeys(answers.rows.table.name for answers in found.answers)
    about = f"{found.rows:,} rows of {', '.join(files)}" if files else f"{found.rows:,} rows"
    return Page(title, about, headline(found, looks), sections)


def _named(section: Section, name: str, at: int) -> Section:
    """The section of the answer at `at`."""
    return replace(section, title=f"{name}{section.title}", file=f"{at + 1}-{section.file}" if at else section.file)


def write_page(path: Path, page: Page, found: Evaluation, looks: Looks) -> None:
    """The page; in a folder beside it the figures as SVG and the numbers as JSON. Raises RunError."""
    page.write(path)
    beside = path.with_name(f"{path.stem}{FILES}")
    beside.mkdir(exist_ok=True)
    page.write_figures(beside)
    told = json.dumps(record(found, looks), ensure_ascii=False, indent=1, allow_nan=False)
    write_atomic(beside / RESULTS, f"{told}\n".encode("utf-8", "replace"))


def record(found: Evaluation, looks: Looks) -> dict[str, Any]:
    """An evaluation and a close look at it as JSON."""
    told: dict[str, Any] = to_json({**found.record(), "looks": [look for _, look in looks]})
    return told


def headline(found: Evaluation, looks: Looks) -> list[str]:
    """How good it is, where it is weakest, and what silence would gain, in words."""
    lines = []
    for answers, look in looks:
        name = f"{answers.name}{look.gain}"
        base = found.baseline.get(name)
        beside = "" if base is None else f"; a model that reads nothing reaches {base.percent}"
        lines.append(f"{name}: {found.scores[name].percent}{beside}.")
        if worst := [part for part in look.slices if part.stands_out and part.score.value < part.others]:
            part = worst[0]
            lines.append(
                f"{answers.name}It is weakest where {part.name}: {part.score.percent}, others {100 * part.others:.1f} %."
            )
        if len(look.kept) > 1:
            at = min(look.kept, key=lambda kept: abs(kept.coverage - 0.8))
            lines.append(f"{answers.name}It could answer {100 * at.coverage:.0f} % of the rows at {at.score.percent}.")
    if not looks:  # scores of tokens or of pictures that are made, of which none is the one
        named = (
            f"{name.replace('_', ' ')} {s.value:.4g} ({s.low:.4g}–{s.high:.4g})" for name, s in found.scores.items()
        )
        lines.append(f"{'; '.join(named)}.")
    return [*lines, *found.notes]


def _scores(found: Evaluation) -> Section:
    rows = [
        [name.replace("_", " "), f"{s.value:.4f} ({s.low:.4f}–{s.high:.4f})", f"{s.n:,}",
         f"{found.baseline[name].value:.4f}" if name in found.baseline else ""]
        for name, s in found.scores.items()
    ]  # fmt: skip
    columns = ["figure", "value (95 % interval)", "rows", "reading nothing"]
    return Section("Scores", tables=[Table(INTERVALS, columns, rows)])


def _made(found: Evaluation) -> list[Section]:
    """What was read, made and true, side by side."""
    rows = [
        [
            where,
            safe(kinds.source(one.target.lies_in).show(one.read)),
            safe(one.target.show(one.answer)),
            safe(one.target.show(one.truth)),
        ]
        for where, one in zip(places([(one.file, one.row) for one in found.made]), found.made, strict=True)
    ]
    columns = ["where", "what was read", "answer", "truth"]
    table = Table("Rows drawn at random", columns, rows, texts=(1, 2, 3))
    return [Section("What it makes", tables=[table])] if rows else []


def _learnt(steps: Sequence[Dict[str, Any]]) -> list[Section]:
    if len(steps) < 2:
        return []
    with drawing("The loss by step of training; the last and the lowest are in the table") as drawn:
        x, losses = ([step[name] for step in steps] for name in ("step", "loss"))
        bins = np.array_split(np.array([x, losses], np.float64), min(len(x), MOST_POINTS), axis=1)
        drawn.axes.plot(
            *np.stack([part.mean(1) for part in bins], 1), color=SERIES[0], alpha=0.5, linewidth=1, label="batches"
        )
        watched = [step for step in steps if "held_out_loss" in step]
        if watched:
            of = [[step[name] for step in watched] for name in ("step", "held_out_loss")]
            drawn.axes.plot(*of, color=SERIES[2], marker="o", label="held-out rows")
        drawn.axes.set(xlabel="step", ylabel="loss")
        drawn.legend()
    named = [("batches", x, losses), *([("held-out rows", *of)] if watched else [])]
    rows = [
        [name, f"{values[-1]:.3f}", f"{min(values):.3f}", f"{at[values.index(min(values))]:,}"]
        for name, at, values in named
    ]
    table = Table("Loss", ["of", "at the end", "lowest", "at step"], rows)
    return [Section("While it learnt", (), drawn.svg, "The loss that training makes small.", "loss.svg", [table])]


def _how(found: Evaluation, steps: Sequence[Dict[str, Any]], command: str | None) -> Section:
    text = [
        f"Scored on {found.rows:,} rows{' that training did not see' if steps else ''}; {INTERVALS}.",
        *found.notes,
    ]
    if steps:
        seconds, tokens = steps[-1]["seconds"], steps[-1]["tokens"]
        text.append(f"Training took {len(steps):,} steps, {tokens:,} tokens and {duration(seconds)}.")
    return Section("How it was measured", text, code=command)


def _kept(look: Scrutiny) -> list[Section]:
    if not look.kept:
        return []
    with drawing(
        f"{look.gain} of the rows answered, by the share of rows answered; the same figures are in the table"
    ) as drawn:
        x = [100 * kept.coverage for kept in look.kept]
        drawn.axes.plot(x, [100 * kept.score.value for kept in look.kept], color=SERIES[2], marker="o")
        low, high = ([100 * getattr(kept.score, end) for kept in look.kept] for end in ("low", "high"))
        drawn.axes.fill_between(x, low, high, color=SERIES[2], alpha=0.15, linewidth=0)
        drawn.axes.set(xlabel="rows answered, %", ylabel=f"{look.gain} of those, %")
    rows = [[kept.shown, f"{100 * kept.coverage:.1f} %", kept.score.percent] for kept in look.kept]
    columns = ["at least this sure", "rows answered", look.gain]
    text = ["Rows whose answer is less sure can be left to a person: mapsto predict --min-confidence."]
    table = Table("Thresholds and scores are of the same rows", columns, rows)
    return [Section("Answering only when sure", text, drawn.svg, "The band is the 95 % interval.", "kept.svg", [table])]


def _calibration(answers: Answers) -> list[Section]:
    told = answers.calibration()
    if told is None:
        return []
    figure = reliability([("this model", *told)])
    return [Section("Can its confidence be trusted?", (), figure, "On the diagonal it can.", "calibration.svg")]
