"""The model card of a run, in Markdown with the metadata block of Hugging Face (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mapsto import __version__, kinds
from mapsto.errors import printable
from mapsto.metrics.fold_scores import FoldScores
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Reconstruction

# Characters that begin a mark, a link, HTML, a formula or a column of a table in Markdown. An underscore within a word does not.
MARKDOWN = re.compile(r"([\\`*\[\]<|~$&]|(?<!\w)_|_(?!\w))")

# Names of scores → the hub's names of metrics. Other scores are only in the card's table.
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1"}


def render_model_card(
    mapping: Mapping, provenance: Dict[str, Any], scores: Dict[str, Score], findings: Sequence[str] = ()
) -> str:
    """Return the model card in Markdown: the model's use, its origin, its scores and its known failures.

    provenance: the entry "provenance" of mapsto.json, with starting model, data, seed, steps and so on.
    scores: {name: score} on held-out rows. findings: sentences on rows for which the model fails.
    """
    num_parameters = sum(parameter.numel() for parameter in mapping.parameters())
    steps, seconds = provenance.get("steps", "unknown"), provenance.get("seconds")
    time_spent = "" if seconds is None else f", {seconds:,.0f} s on {provenance.get('device', 'an unknown machine')}"
    temperatures = provenance.get("temperatures")
    unseen = "answers of models fitted to half of the rows" if provenance.get("choice") else "held-out rows"
    lines = [
        *_metadata(mapping, provenance, scores),
        "",
        f"# {plain(mapping.arrow)}",
        "",
        f"A {mapping.config.family} model of {num_parameters:,} parameters, made with mapsto {__version__}.",
        "",
        "## Use",
        "",
        *_use(mapping),
        "",
        "## Where it comes from",
        "",
        f"- Start: {plain(provenance.get('start') or ('none' if mapping.config.is_linear else 'random weights'))}",
        f"- Data: {provenance.get('rows', 'unknown')} rows, fingerprint {str(provenance.get('data', 'unknown'))[:16]}",
        f"- Seed: {provenance.get('seed', 0)}; steps: {steps}; tokens read: {provenance.get('tokens', 'unknown')}{time_spent}",
        *_search(provenance.get("search")),
        *([f"- Confidence set by {unseen}: logits divided by {temperatures[0]:.2f}"] if temperatures else []),
    ]
    if scores:
        mark = " – too good, see below" if provenance.get("overlap") else ""
        lines += ["", "## How good it is", "", "| score | value (95 % interval, items) |", "|---|---|"]
        lines += [f"| {plain(name)} | {value}{mark} |" for name, value in scores.items()]
    lines += _folds(provenance.get("folds"))
    if findings:
        lines += ["", *(f"- {plain(finding)}" for finding in findings)]
    return "\n".join(lines) + "\n"


def plain(text: object) -> str:
    """Return a text, such as the name of a class, as Markdown that shows it as it is: no mark, link, HTML or line break acts."""
    return MARKDOWN.sub(r"\\\1", printable(str(text))).replace("\n", "\\n").replace("\t", " ")


def _metadata(mapping: Mapping, provenance: Dict[str, Any], scores: Dict[str, Score]) -> list[str]:
    """Return the lines of the card's YAML block, with the task and the scores under the hub's names.

    Scores are left out if test rows overlap with training rows (`provenance`), and for tasks without a name on the hub.
    """
    # A task in the metadata lets the hub run the model. It cannot run linear models, nor predictions shifted by one position.
    is_linear = mapping.config.is_linear
    library = "mapsto" if is_linear else "sentence-transformers" if mapping.arrow.symmetric else "transformers"
    task = None if is_linear or _predicts_ahead(mapping) else _hub_task(mapping)
    lines = [
        "---",
        f"library_name: {library}",
        *([f"pipeline_tag: {task}"] if task else []),
        "tags:",
        "- mapsto",
    ]
    hub_scores = {HUB_METRICS[name]: score for name, score in scores.items() if name in HUB_METRICS}
    # The hub would show a score that is too good without its mark.
    if task and hub_scores and not provenance.get("overlap"):
        # JSON is YAML too, and keeps any text whole.
        model_index = {
            "name": str(mapping.arrow),
            "results": [
                {
                    "task": {"type": task},
                    "dataset": {"type": "private", "name": "test rows"},
                    "metrics": [{"type": name, "value": round(score.value, 6)} for name, score in hub_scores.items()],
                }
            ],
        }
        lines.append(f"model-index: {printable(json.dumps([model_index], ensure_ascii=False))}")
    return [*lines, "---"]


def _hub_task(mapping: Mapping) -> str | None:
    """Return the hub's name of the model's task, such as "text-classification"; None if the hub has no name for it.

    The task is determined by the arrow's first source and first target.
    """
    if mapping.arrow.symmetric:
        return "sentence-similarity"
    source = replace(mapping.arrow.sources[0], column=None)
    target: Target | type[Target] | None = mapping.targets[0] if mapping.targets else None
    if target is None and source.kind in kinds.names("target"):
        target = kinds.target(source.kind, restored=True)
    target_class = target if isinstance(target, type) or target is None else type(target)
    if target_class is None or not issubclass(target_class, Classes | Reconstruction):
        return None
    is_causal = mapping.config.transformer.causal
    return target_class.hub_tasks.get(f"{source} (causal)" if is_causal and source.corrupted else str(source))


def _use(mapping: Mapping) -> list[str]:
    """Return sentences for the card: the kinds that the model reads and predicts, and the limits of its use."""
    reads = ", ".join(f"{port.kind} ({plain(port.column or port.kind)})" for port in mapping.arrow.sources)
    lines = [f"It reads {reads}."]
    if mapping.arrow.symmetric:
        lines.append("It gives each value a vector; the cosine of two vectors says how well the values match.")
    for target, port in zip(mapping.targets, mapping.arrow.targets, strict=True):
        if isinstance(target, Classes) and target.exclusive:
            lines.append(
                f"It answers one of {len(target.classes):,} classes: {', '.join(map(plain, target.classes[:20]))}."
            )
        elif port.restores is None and not mapping.arrow.symmetric:
            lines.append(f"It answers {target.kind}.")
    if mapping.arrow.corrupted or not mapping.targets:
        lines.append("It was pretrained: a starting model for other arrows, without answers of its own.")
        if _predicts_ahead(mapping):
            lines.append(
                "It predicts each token one position ahead: `mapsto predict` reads masks there, other libraries do not."
            )
    else:
        lines.append("It was fitted to rows like the training rows; on other rows, score it before you rely on it.")
    return lines


def _predicts_ahead(mapping: Mapping) -> bool:
    """Return whether the model predicts a hidden token from the position before it, as with causal modelling.

    Other libraries cannot use such predictions, because they read them at the hidden token's own position. Of published
    decoder-only models they expect nothing else.
    """
    if mapping.config.transformer.causal:
        return False
    ports = zip(mapping.targets, mapping.arrow.targets, strict=True)
    return any(
        port.restores is not None and isinstance(target, Reconstruction) and target.corruption.ahead
        for target, port in ports
    )


def _folds(record: Dict[str, Any] | None) -> list[str]:
    """Return the lines of the card on a cross-validation before the fit; none if `record`, of the provenance, is None."""
    if record is None:
        return []
    folds = FoldScores.from_json(record)
    lines = ["", "## Cross-validation", "", f"{folds.title}. These are scores of the setting, not of this model.", ""]
    lines += ["| score | value (95 % interval, items) | mean of the folds | standard deviation |", "|---|---|---|---|"]
    return lines + [
        f"| {plain(name)} | {score} | {folds.mean(name):.4f} | {folds.deviation(name):.4f} |"
        for name, score in folds.scores.items()
    ]


def _search(search: Dict[str, Any] | None) -> list[str]:
    """Return a list with one line on the hyperparameter search, for the card; an empty list if `search` is None.

    search: the entry "search" of the provenance, with the trials and the number of the best one (from 1).
    """
    if search is None:
        return []
    default, best, overlap = search["trials"][0], search["trials"][search["chosen"] - 1], search.get("overlap")
    knobs = ", ".join(f"{name} {value}" for name, value in best["knobs"].items())
    errors = [f"{Score.from_json(trial['error'])}" if trial["error"] else trial["failed"] for trial in (best, default)]
    return [
        f"- Search: {len(search['trials'])} trials on held-out training rows; chosen: {knobs}, error {errors[0]}; "
        f"without a search: {errors[1]}. The lowest of many errors is optimistic: test rows say more."
        + (" The starting model was fitted to some of these rows, so all these errors are too low." if overlap else "")
    ]
