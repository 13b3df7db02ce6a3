"""The page of explanations: what was read, with its parts in the colour of what they speak for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.errors import places
from mapsto.explain.attribution import Part
from mapsto.explain.faithfulness import Explanations
from mapsto.report.figures import COLOURS
from mapsto.report.page import Page, Section, Table, safe
from mapsto.task.capabilities import Explainable


def marked(ports: Sequence[str], values: Sequence[Any], parts: Sequence[Part]) -> Any:
    """Values of sources of the kinds `ports`, with their parts in the colour of what they speak for."""
    strongest = max((abs(part.weight) for part in parts), default=0.0) or 1.0
    lines = []
    for port, (kind, value) in enumerate(zip(ports, values, strict=True)):
        own = [part for part in parts if part.port == port]
        shades = [part.weight / strongest for part in own]
        source, regions = kinds.source(kind), [part.region for part in own]
        if issubclass(source, Explainable):
            lines.append(source.highlight(value, regions, shades))
        else:
            lines.append(source.show(value))
    return safe("\n".join(lines))


SHOWN_EXPLANATIONS = 500


def explained(found: Explanations, model: str) -> Page:
    """The page of explanations: every text with its parts in the colour of what they speak for."""
    faithful = found.faithfulness
    rows = []
    shown = found.found[:SHOWN_EXPLANATIONS]
    where = places([found.rows.table.origin(row) for row in found.rows.rows[: len(shown)].tolist()])
    for at, explanation in enumerate(shown):
        values = [column[at] for column in found.rows.sources]
        rows.append(
            [
                where[at],
                marked(found.ports, values, explanation.parts),
                explanation.said,
                f"{explanation.told:+.2f}",
            ]
        )
    left_out = len(found) - len(rows)
    text = [
        f"{COLOURS} Strength is the answer's {found[0].strength}, which green raises and red lowers.",
        *([f"{left_out:,} more are not shown; --out with .jsonl has all of them."] if left_out else []),
    ]
    sections = [
        Section(
            "Explanations", text, tables=[Table("Rows", ["where", "what was read", "answer", "strength"], rows, (1,))]
        )
    ]
    if faithful is not None:
        measures = [
            [
                name,
                *(
                    f"{s.value:+.3f}" + ("" if math.isnan(s.low) else f" ({s.low:+.3f} to {s.high:+.3f})")
                    for s in scores
                ),
            ]
            for name, measure in (
                ("comprehensiveness: lost without what weighs most", faithful.comprehensiveness),
                ("sufficiency: lost with that alone", faithful.sufficiency),
                ("deletion: left while parts go one after the other", faithful.deletion),
            )
            for scores in [(measure.value, measure.over_random, measure.over_reversed)]
        ]
        columns = ["measure", "value", "better than random by", "better than reversed by"]
        table = Table(f"{faithful.method}, {faithful.examples:,} examples; mean (95 % interval)", columns, measures)
        sections.append(
            Section(
                "Is it faithful?",
                ["Parts are left out in the order of their weight, and the model is asked again."],
                tables=[table],
            )
        )
    verdict = (
        "Nothing here has two parts, so faithfulness was not measured."
        if faithful is None
        else _sentence(faithful.verdict)
    )
    return Page(
        f"Why {Path(model).name} answers so", f"{len(found):,} rows · {found.found[0].method}", [verdict], sections
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
