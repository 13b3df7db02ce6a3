"""What several pages show: how far confidence can be trusted, what is confused, rows to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mapsto import kinds
from mapsto.errors import places
from mapsto.evaluation.error_analysis import IF_NOT_THE_MODEL, Case, Scrutiny
from mapsto.evaluation.evaluate import Answers
from mapsto.explain.report import marked
from mapsto.report.figures import COLOURS, SHOWN_CONFUSIONS, SHOWN_SLICES, _short
from mapsto.report.page import Section, Table, safe
from mapsto.task.capabilities import Classes, Located, Spatial, require

LEGEND = f"{COLOURS} How far to trust such colours: mapsto explain measures it."


OUTLINES = "In frames: broken and green what is true, red what was answered; a pointer at rest on one names it."


def confusions(answers: Answers, caption: str) -> Table | None:
    """What is answered in place of what, the commonest first."""
    target = answers.target
    counts = target.confusion(answers.outputs, answers.truths) if isinstance(target, Classes) else {}
    pairs = sorted(
        ((n, truth, said) for truth, row in counts.items() for said, n in row.items() if n and said != truth),
        reverse=True,
    )
    rows = [
        [f"{truth} → {said}", n, f"{100 * n / sum(counts[truth].values()):.0f} %"]
        for n, truth, said in pairs[:SHOWN_CONFUSIONS]
    ]
    return Table(caption, ["truth → answer", "rows", "of the rows of that truth"], rows) if rows else None


def cases(answers: Answers, listed: Sequence[Case], caption: str) -> Table | None:
    """Rows to look at, with the parts that decided in colour where they are known."""
    ports = [port.kind for port in answers.arrow.sources]
    rows = []
    for where, case in zip(places([(case.file, case.row) for case in listed]), listed, strict=True):
        values = [column[case.at] for column in answers.rows.sources]
        plain = not case.parts and all(isinstance(value, str) for value in values)
        if isinstance(answers.target, Located):
            shown = _outlined(answers, case)
        else:
            shown = _short(case.read) if plain else marked(ports, values, case.parts)
        said = f"{case.answer} ({case.percent})"
        rows.append([where, shown, case.truth, said])
    return Table(caption, ["where", "what was read", "truth", "answer"], rows, texts=(1,)) if rows else None


def _outlined(answers: Answers, case: Case) -> Any:
    """The value that the answer lies in, with what was said and what is true in it."""
    target = answers.target
    assert isinstance(target, Located)
    (port,) = (at for at, port in enumerate(answers.arrow.sources) if port.kind == target.lies_in)
    said = target.decode(answers.outputs[case.at : case.at + 1])[0][target.kind]
    marks = [*target.regions(answers.truths[case.at], true=True), *target.regions(said)]
    kind = require(kinds.source(target.lies_in), Spatial, "outlined")
    return safe(kind.outline(answers.rows.sources[port][case.at], marks))


def slices(look: Scrutiny, where: str = "") -> list[Section]:
    """Where it is better or worse than elsewhere; `where` says of what, if that is not plain."""
    rows = [
        [
            part.name,
            part.score.percent,
            f"{100 * part.others:.1f} %",
            ("below 0.001" if part.chance < 0.001 else f"{part.chance:.3f}") + (" ←" if part.stands_out else ""),
        ]
        for part in look.slices[:SHOWN_SLICES]
    ]
    if not rows:
        return []
    text = [
        "By luck: how likely a difference so large would be if the slice were like all other rows (Fisher's exact test; Welch's "
        "where a row can be partly right), corrected for all slices looked at (Holm). ← stands out."
    ]
    columns = ["rows where", look.gain, "all others", "by luck"]
    return [Section("Slices", text, tables=[Table(f"{len(look.slices)} slices looked at{_of(where)}", columns, rows)])]


def failures(answers: Answers, look: Scrutiny, where: str = "") -> list[Section]:
    """What is confused, surest mistakes, labels that may be wrong; `where` says of what, if that is not plain."""
    by, suspects = _of(where), look.suspects or []
    doubted = {case.at for case in suspects}
    mistakes = [
        replace(case, truth=f"{case.truth} – may be wrong") if case.at in doubted else case for case in look.mistakes
    ]
    others = [case for case in suspects if case.at not in {case.at for case in look.mistakes}]
    doubts = [f"Labels may be wrong, {IF_NOT_THE_MODEL} (confident learning)."]
    legend = _legend(answers, mistakes) + (doubts if any(case.at in doubted for case in mistakes) else [])
    found = [
        ("Confused most often", [], confusions(answers, f"By how often{by}")),
        ("Surest mistakes", legend, cases(answers, mistakes, f"The surest first{by}")),
        ("Other labels that may be wrong", doubts, cases(answers, others, f"By confident learning{by}")),
    ]
    return [Section(title, text, tables=[table]) for title, text, table in found if table is not None]


def reasons(answers: Answers, look: Scrutiny, where: str = "") -> list[Section]:
    """A few rows with the parts that decided, where they are known, or with the answers that lie in them."""
    table = cases(answers, look.examples, f"Rows drawn at random{_of(where)}")
    legend = _legend(answers, look.examples)
    if table is None or not legend:
        return []
    return [
        Section("What it finds" if isinstance(answers.target, Located) else "What it looks at", legend, tables=[table])
    ]


def _legend(answers: Answers, listed: Sequence[Case]) -> list[str]:
    if isinstance(answers.target, Located):
        return [OUTLINES]
    return [LEGEND] if any(case.parts for case in listed) else []


def _of(where: str) -> str:
    return f" · {where}" if where else ""
