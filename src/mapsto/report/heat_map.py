"""A confusion matrix as a heat map: a table with numbers for few classes, a picture of cells for many.

A cell is as strong as its share of the rows with its true class; mistakes have another colour than right answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from mapsto.report.page import link

# With more classes, numbers cannot be read on a phone.
MAX_TABLE_CLASSES = 12
CELL = 10  # the side of a cell of the picture, in its own units


def confusion_map(
    confusion: Mapping[str, Mapping[str, int]], names: Mapping[str, str], anchor: str, columns: tuple[str, str]
) -> str:
    """Return the heat map of a confusion matrix as HTML. Its cells of mistakes lead to the rows in the table of mistakes.

    confusion: confusion[true class][predicted class] is the number of rows. names: the spelling of each class on the page.
    anchor: that of the section with the table of mistakes. columns: its columns of the true and of the predicted class.
    """
    true_names = [name for name, counts in confusion.items() if any(counts.values())]
    answers = [name for name in next(iter(confusion.values())) if any(confusion[true][name] for true in true_names)]
    classes = [name for name in confusion if name in {*true_names, *answers}]
    draw = _table if len(classes) <= MAX_TABLE_CLASSES else _picture
    return draw(confusion, classes, names, anchor, columns)


def _table(
    confusion: Mapping[str, Mapping[str, int]],
    classes: list[str],
    names: Mapping[str, str],
    anchor: str,
    columns: tuple[str, str],
) -> str:
    """Return the confusion matrix as a table with coloured cells. Parameters as for `confusion_map`; classes: those shown."""
    answers = [name for name in next(iter(confusion.values())) if name in classes]
    head = "".join(f'<th scope="col">{escape(names[name])}</th>' for name in answers)
    rows = []
    for true in classes:
        total = sum(confusion[true].values())
        cells = []
        for answer in answers:
            count = confusion[true][answer]
            share = count / total if total else 0.0
            if answer == true or not count:
                content: str = f"{count:,}" if count or answer == true else ""
            else:
                content = link(anchor, f"{count:,}", list(zip(columns, (names[true], names[answer]), strict=True)))
            kind = "" if answer == true else ' class="wrong"'
            title = f"{names[true]} answered as {names[answer]}: {count:,} of {total:,} rows, {100 * share:.0f} %"
            cells.append(f'<td{kind} style="--share:{share:.3f}" title="{escape(title)}">{content}</td>')
        rows.append(f'<tr><th scope="row">{escape(names[true])}</th>{"".join(cells)}</tr>')
    return (
        '<div class="wide" role="region" tabindex="0" aria-label="confusion matrix"><table class="heat">'
        f'<thead><tr><th class="corner">label ↓ answer →</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _picture(
    confusion: Mapping[str, Mapping[str, int]],
    classes: list[str],
    names: Mapping[str, str],
    anchor: str,
    columns: tuple[str, str],
) -> str:
    """Return the confusion matrix as SVG: a row for each true class, a column for each answer. As for `_table`."""
    place = {name: CELL * index for index, name in enumerate(classes)}
    side = CELL * len(classes)
    cells = []
    for true in classes:
        total = sum(confusion[true].values())
        for answer, count in confusion[true].items():
            if not count:
                continue
            share = count / total
            # The faintest cell is still seen.
            colour = f"rgba(var(--{'heat' if answer == true else 'raises'}), {0.15 + 0.85 * share:.2f})"
            title = f"{names[true]} answered as {names[answer]}: {count:,} of {total:,} rows, {100 * share:.0f} %"
            cells.append(
                f'<rect x="{place[answer]}" y="{place[true]}" width="{CELL}" height="{CELL}" fill="{colour}">'
                f"<title>{escape(title)}</title></rect>"
            )
    frame = f'<rect width="{side}" height="{side}" fill="none" stroke="var(--line)" stroke-width="{side / 300:.1f}"/>'
    label = f"confusion matrix of {len(classes)} classes; the most frequent confusions are in the table"
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {side} {side}">{frame}{"".join(cells)}</svg>'
