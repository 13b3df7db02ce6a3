"""What the commands print of models and tables: scores, findings, explanations, what a folder holds."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.active_learning import require_new
from mapsto.api import compare as compare_starts
from mapsto.api import load
from mapsto.cli.answering import read_noted
from mapsto.data.checks import doctor
from mapsto.data.encoding import encode, unknown_in
from mapsto.data.rows import bind_to, read_cells, read_rows
from mapsto.data.table import Table, read_table, write_rows
from mapsto.errors import SHOWN_FINDINGS, DataError, Finding, UsageError, places, shorten
from mapsto.evaluation.error_analysis import analyse_evaluation
from mapsto.evaluation.evaluate import evaluate as evaluate_mapping
from mapsto.evaluation.report import Provenance, evaluation_page, evaluation_record, write_page
from mapsto.explain.report import explanation_page
from mapsto.fitting.build import make_config, make_sources
from mapsto.fitting.start import begin
from mapsto.inference.predictor import Predictor
from mapsto.metrics.intervals import to_json
from mapsto.options import Options
from mapsto.pretrained import model_folder
from mapsto.progress import Progress, choose_progress
from mapsto.task.arrow import Arrow, parse
from mapsto.task.capabilities import Classes


def evaluate(
    model: str,
    data: Path,
    out: Path | None,
    device: str,
    precision: str,
    encoding: str | None,
    as_json: bool,
    bad_rows: str,
) -> None:
    """A table of scores beside what a model that reads nothing reaches, and where it fails; as a page too."""
    if out is not None and (out.suffix != ".html" or not out.parent.is_dir()):
        raise UsageError(f"--out {out}: the report is an .html in a folder that is there")
    mapping = model_folder.load_mapping(model)
    predictor = Predictor(mapping, device, precision)
    table = read_noted(data, encoding, answers=True)
    found = evaluate_mapping(
        predictor.mapping, table, predictor.device, bad_rows, progress=choose_progress(as_json=as_json)
    )
    shown = out is not None or as_json  # the screen has no room for what decided
    looks = analyse_evaluation(found, mapping if shown else None, predictor.device)
    if out is not None:
        flags = {"device": (device, "auto"), "precision": (precision, "auto"), "bad-rows": (bad_rows, "stop")}
        given = [f"--{name}={value}" for name, (value, usual) in flags.items() if value != usual]
        given += [] if encoding is None else [f"--encoding={encoding}"]
        command = shlex.join(["mapsto", "evaluate", model, str(data), *given, "--out", str(out)])
        findings = doctor(looks[0][0].arrow, looks[0][0].rows).warnings if looks else []
        provenance = Provenance(f"How good is {Path(model).name}?", command, findings)
        write_page(out, evaluation_page(found, looks, provenance), found, looks)
        print(f"wrote {out}", file=sys.stderr)
    if as_json:
        print(json.dumps(evaluation_record(found, looks), ensure_ascii=False))
        return
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{found.num_rows:,} rows")
    for name, value in found.scores.items():
        baseline = f"   (reading nothing: {found.baseline[name]})" if name in found.baseline else ""
        print(f"{name:<20} {value}{baseline}")
    for answers in found.predictions:
        if answers.prefix:
            print(f"\n{answers.prefix}")
        target = answers.target
        if isinstance(target, Classes) and (confusion := target.confusion(answers.outputs, answers.labels)):
            _print_confusion(confusion)
        for look in (look for of, look in looks if of is answers):
            print("\n".join(look.lines()))
    if any(look.label_issues is None for _, look in looks):
        print("\nlabels that may be wrong: pip install 'mapsto[report]' to look for them", file=sys.stderr)


def _print_confusion(confusion: dict[str, dict[str, int]]) -> None:
    """All counts where they fit on a screen, else the pairs confused most often."""
    answers = list(next(iter(confusion.values())))
    if len(answers) <= 12:
        width = max(8, *(len(name) + 1 for name in (*answers, *confusion)))
        print("\n" + "truth \\ answer".ljust(width + 6) + "".join(name.rjust(width) for name in answers))
        for truth, counts in confusion.items():
            print(truth.ljust(width + 6) + "".join(str(counts[name]).rjust(width) for name in answers))
        return
    pairs = [
        (n, truth, name) for truth, counts in confusion.items() for name, n in counts.items() if n and name != truth
    ]
    print("\nconfused most often:")
    for count, truth, name in sorted(pairs, reverse=True)[:10]:
        print(f"{count:>6} × {truth} answered as {name}")


def explain(
    model: str,
    what: str,
    out: Path | None,
    method: str,
    sample: Path | None,
    steps: int,
    device: str,
    encoding: str | None,
    as_json: bool,
    progress: Progress,
) -> None:
    """Why, on the screen or as a page or rows; and how faithful that is."""
    if out is not None and out.suffix not in (".html", ".jsonl"):
        raise UsageError(f"{out.name}: explanations are written as .html or .jsonl")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}")
    held = load(model, device)
    given: Any = read_noted(what, encoding) if held.is_table_name(what) else [what]
    measured = None if sample is None else read_noted(sample, encoding)
    found = held.explain(given, method, measured, steps, progress)
    verdict = "no row has two parts" if found.faithfulness is None else found.faithfulness.verdict
    if found.faults:
        left = f"{len(found.faults):,} rows cannot be read and have no explanation"
        print(f"note: {left}; the first: {found.faults[0]}", file=sys.stderr)
    if found.num_cut:
        print(
            f"note: of {found.num_cut:,} rows only the start was read: they are longer than the model takes",
            file=sys.stderr,
        )
    if out is not None:
        if out.suffix == ".html":
            explanation_page(found, model).write(out)
        else:
            columns = ["file", "row", "answer", "parts", "method", "told", "blank", "gap", "error"]
            write_rows(out, columns, found.records())
        print(f"wrote {len(found)} explanations to {out}; {verdict}", file=sys.stderr)
        return
    if as_json:
        measures = None if found.faithfulness is None else found.faithfulness
        record = {"faithfulness": measures, "explanations": list(found.records())}
        print(json.dumps(to_json(record), ensure_ascii=False))
        return
    for explanation in found.explanations:
        print("\n".join(explanation.lines()), end="\n\n")
    print(f"faithful? {verdict}")


def suggest(
    model: str,
    pool: Path,
    n: int,
    out: Path | None,
    labelled: Path | None,
    device: str,
    encoding: str | None,
    seed: int,
) -> None:
    """Rows worth a label: to a table to fill in, to tasks, or on the screen."""
    if out is not None:
        require_new(out)
    manifest = Path(model) / model_folder.MANIFEST_FILE
    known = json.loads(manifest.read_text("utf-8"))["provenance"].get("rows", 0) if manifest.exists() else 0
    held = load(model, device)
    given = None if labelled is None else read_noted(labelled, encoding)
    found = held.suggest(read_noted(pool, encoding), n, given, known, seed)
    print(f"note: chosen from {found.looked_at:,} different rows without a label", file=sys.stderr)
    if found.unreadable:
        print(f"note: {found.unreadable:,} rows cannot be read and were left out", file=sys.stderr)
    if out is not None:
        count = found.write(out)
        reason = found.found[0].why
        print(f"wrote {count} {reason} rows to {out}; fill in the column {found.column!r}", file=sys.stderr)
        return
    where = places([found.pool.origin(suggestion.row) for suggestion in found.found])
    for at, suggestion in zip(where, found.found, strict=True):
        guess = (
            "" if suggestion.confidence is None else f", {suggestion.answer!r} ({100 * suggestion.confidence:.0f} %)"
        )
        values = [found.pool.column(name)[suggestion.row] for name in found.pool.columns]
        print(f"{at}, {suggestion.why}{guess}: {shorten(' · '.join(map(str, values)), 90)}")


def compare(arrow: str, data: Path, out: Path, as_json: bool, **given: Any) -> None:
    """The table of a comparison and what it means; the rest is in its folder."""
    found = compare_starts(arrow, data, out, **given)
    if as_json:
        print(json.dumps(found.record(), ensure_ascii=False))
        return
    print("\n".join(["", *found.lines(), "", f"in {out}: report.html, results.json"]))


def check(arrow: str, data: Path, test: Path | None, start: str | None, encoding: str | None, as_json: bool) -> None:
    """Every fault of a table in one pass. Raises DataError when something must be mended."""
    table = read_table(data, encoding=encoding)
    tested = None if test is None else read_table(test, encoding=encoding)
    bound = bind_to(parse(arrow), table)
    readers = {port.kind: kinds.source(port.kind) for port in bound.sources}
    targets = [kinds.target(port.kind) for port in bound.targets]
    rows = read_cells(bound, table, readers, targets)
    test_rows = None if tested is None else read_cells(bind_to(bound, tested), tested, readers, targets)
    report = doctor(bound, rows, test_rows)
    errors = [*table.rejected, *rows.faults]
    if tested is not None and test_rows is not None:
        errors += [*tested.rejected, *test_rows.faults]
    errors += report.errors
    notes = _lengths(bound, table, start) if len(rows.whole()) else []
    if as_json:
        found = {"errors": list(map(asdict, errors)), "warnings": list(map(asdict, report.warnings)), "notes": notes}
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(f"{bound}: {len(table):,} rows" + (f", {len(tested):,} test rows" if tested is not None else ""))
        for kind, listed in (("note", notes), ("warning", report.warnings), ("error", errors)):
            for line in _listed(listed):
                print(f"{kind}: {line}")
        print(f"{_counted(len(errors), 'error')}, {_counted(len(report.warnings), 'warning')}")
    if errors:
        raise DataError(f"{_counted(len(errors), 'fault')} must be mended")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _listed(found: Iterable[Finding | str]) -> Iterator[str]:
    """One line each; of what is said of many rows of a column, such as files that are all elsewhere, the first ones."""
    counts = Counter[tuple[str | None, str]]()
    for finding in found:
        if isinstance(finding, Finding):
            said = finding.column, finding.reason
            counts[said] += 1
            if counts[said] > SHOWN_FINDINGS:
                continue
        yield str(finding)
    for (column, reason), count in counts.items():
        if count > SHOWN_FINDINGS:
            where = "" if column is None else f" of column {column!r}"
            yield f"… and {count - SHOWN_FINDINGS:,} more rows{where} (--json lists them all): {reason}"


def _lengths(bound: Arrow, table: Table, start: str | None) -> list[str]:
    """How much text is unknown to the start, or longer than it, or a new model of the usual size, takes."""
    beginning = begin(start, None)
    rows = read_rows(replace(bound, targets=()), table, kinds.reading(bound), [])
    sources = make_sources(beginning, bound, rows, Options(), lambda text: None)
    longest = make_config(beginning, Options(), bound.corrupted, sources).transformer.max_tokens
    encoded = encode(bound, rows, sources, longest, "cut")
    what = f"the {longest} tokens that {start or 'a new model'} takes"
    unknown = list(filter(None, [unknown_in(encoded, sources)]))
    if not len(encoded.long):
        return [*unknown, f"no row is longer than {what}"]
    share = 100 * encoded.lost / encoded.total
    return [
        *unknown,
        f"{len(encoded.long):,} rows are longer than {what}; "
        f"{encoded.lost:,} of {encoded.total:,} tokens ({share:.1f} %) would be cut off (see --long)",
    ]


def info(model: str, as_json: bool) -> None:
    """What a folder holds."""
    held = load(model, device="cpu", precision="fp32").mapping
    path = Path(model)
    manifest = (
        json.loads((path / model_folder.MANIFEST_FILE).read_text("utf-8"))
        if (path / model_folder.MANIFEST_FILE).exists()
        else None
    )
    facts: dict[str, Any] = {
        "arrow": str(held.arrow),
        "family": held.config.family,
        "parameters": sum(parameter.numel() for parameter in held.parameters()),
        "layers": held.config.transformer.layers,
        "width": held.config.transformer.width,
        "heads": held.config.transformer.heads,
        "longest example": f"{held.config.max_tokens} tokens",
        "pooling": held.config.pooling,
    }
    if held.config.backbone is not None:
        facts["in front"] = str(held.config.backbone)
    if held.config.sentence is not None:
        facts["vectors"] = str(held.config.sentence)
    facts |= {target.kind: target.state().get("classes", target.kind) for target in held.targets}
    if manifest is not None:
        kept = (
            "start",
            "data",
            "rows",
            "held_out",
            "steps",
            "tokens",
            "seconds",
            "optimizer",
            "objective",
            "method",
            "seed",
            "versions",
        )
        facts |= {name: manifest["provenance"][name] for name in kept if name in manifest["provenance"]}
        facts |= {"scores": manifest["scores"]}
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        for line in _lines(name, value):
            print(line)


def _lines(name: str, value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        yield f"{name}:"
        for key, inner in value.items():
            shown = (
                f"{inner['value']:.4f} ({inner['low']:.4f}–{inner['high']:.4f}, n = {inner['n']})"
                if isinstance(inner, dict)
                else inner
            )
            yield f"  {key:<22} {shown}"
    else:
        shown = (
            f"{value:,}" if isinstance(value, int) else ", ".join(map(str, value)) if isinstance(value, list) else value
        )
        yield f"{name:<24} {shown}"
