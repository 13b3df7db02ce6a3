"""Input values as HTML with their parts coloured by attribution weight, for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mapsto import kinds
from mapsto.explain.attribution import Attribution
from mapsto.report.page import trusted_html
from mapsto.task.source_capabilities import Explainable


def highlight_parts(source_kinds: Sequence[str], values: Sequence[Any], parts: Sequence[Attribution]) -> Any:
    """Return the source values of one row as HTML, with each part coloured by its attribution weight.

    Weights are divided by the largest absolute weight in the row, so that this part gets the strongest shade. The source kind
    chooses the colours by the sign of the weights; values of a kind that is not `Explainable` are shown uncoloured.
    source_kinds, values: the kind and the value of each source. parts: the attributed parts of all values.
    """
    # 1 where all weights are 0, since it is a divisor.
    largest = max((abs(part.weight) for part in parts), default=0.0) or 1.0
    lines = []
    for port, (kind, value) in enumerate(zip(source_kinds, values, strict=True)):
        in_value = [part for part in parts if part.port == port]
        source, regions = kinds.source(kind), [part.region for part in in_value]
        if issubclass(source, Explainable):
            lines.append(source.highlight(value, regions, [part.weight / largest for part in in_value]))
        else:
            lines.append(source.show(value))
    return trusted_html("\n".join(lines))
