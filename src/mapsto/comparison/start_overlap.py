"""Overlap of the rows of a comparison with the rows that its starting models were fitted to.

A start that has seen the test rows, or the rows from which labels are drawn, with their labels gains points that
pretraining did not give it. Such a comparison is refused; with `--allow-overlap` it goes on, and the start's name is
marked wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass

from mapsto.data.duplicates.overlap import Overlap, find_overlap
from mapsto.data.rows import Rows
from mapsto.errors import UsageError
from mapsto.fitting.starting_model import StartingModel

# Words behind the name of a model whose start was fitted to rows of the comparison.
OVERLAP_MARK = "(overlap)"


@dataclass(frozen=True)
class StartOverlap:
    """The overlap of a comparison's rows with the rows that one starting model was fitted to; false if there is none.

    pool: of the rows from which training rows are drawn. test_sets: of the test rows and of the rows of --shift, by
        name.
    """

    pool: Overlap
    test_sets: dict[str, Overlap]

    def __bool__(self) -> bool:
        return bool(self.pool) or any(self.test_sets.values())

    def __str__(self) -> str:
        by_table = {"rows with labels": self.pool, **{f"{name} rows": o for name, o in self.test_sets.items()}}
        counts = [
            f"{overlap.num_overlapping:,} of {overlap.num_rows:,} {name}"
            for name, overlap in by_table.items()
            if overlap
        ]
        data = dict.fromkeys(name for overlap in by_table.values() if overlap for name in overlap.data)
        return f"{' and '.join(counts)} ({', '.join(data)})"


def find_start_overlaps(
    starts: Dict[str, StartingModel],
    pool: Rows,
    test_sets: Dict[str, Rows],
    is_allowed: bool,
    say: Callable[[str], None],
) -> dict[str, StartOverlap]:
    """Return by name of a starting model its overlap with the rows of the comparison; models without overlap are left out.

    pool: the rows from which training rows are drawn. test_sets: the rows to score on, by name.
    is_allowed: whether `--allow-overlap` is set. say: prints a note about rows that may overlap, although it is not
        certain.
    Raises UsageError if there is an overlap and it is not allowed.
    """
    overlaps = {}
    for name, start in starts.items():
        in_tests = {test_set: find_overlap(start.row_filters, rows) for test_set, rows in test_sets.items()}
        if overlap := StartOverlap(find_overlap(start.row_filters, pool), in_tests):
            overlaps[name] = overlap
        for test_set, in_test in in_tests.items():
            if in_test.num_possible:
                say(f"note: start {name}, {test_set} rows: {in_test.warning}")
    if overlaps and not is_allowed:
        sentences = [f"start {name} was fitted to {overlap}" for name, overlap in overlaps.items()]
        raise UsageError(
            f"{'; '.join(sentences)}; its scores would be too good. Compare other rows or another start, or add "
            f"--allow-overlap to compare it all the same, marked {OVERLAP_MARK}"
        )
    return overlaps


def describe_overlaps(overlaps: Dict[str, StartOverlap], names: Sequence[str]) -> list[str]:
    """Return a sentence for each starting model with overlap, and one that lists the affected models; empty without overlaps.

    names: the names of all compared models; those that end in OVERLAP_MARK are the affected ones.
    """
    if not overlaps:
        return []
    model_names = ", ".join(name for name in names if name.endswith(OVERLAP_MARK))
    sentences = [f"Start {start} was fitted to {overlap}." for start, overlap in overlaps.items()]
    return [*sentences, f"So every figure of these models is too good: {model_names}."]
