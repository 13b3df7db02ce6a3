"""The model card of a run, in Markdown with the metadata block of Hugging Face (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mapsto import __version__, kinds
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping
from mapsto.task.capabilities import Classes, Reconstruction
from mapsto.task.target import Target

# What the metadata calls our figures; those without a name there are in the table alone.
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1"}


def render_model_card(
    mapping: Mapping, provenance: Dict[str, Any], scores: Dict[str, Score], findings: Sequence[str] = ()
) -> str:
    """What it is for, where it comes from, how good it is and where it fails; `findings` say the last in words."""
    parameters = sum(parameter.numel() for parameter in mapping.parameters())
    steps, seconds = provenance.get("steps", "unknown"), provenance.get("seconds")
    spent = "" if seconds is None else f", {seconds:,.0f} s on {provenance.get('device', 'an unknown machine')}"
    temperatures = provenance.get("temperatures")
    lines = [
        *_metadata(mapping, provenance, scores),
        "",
        f"# {mapping.arrow}",
        "",
        f"A {mapping.config.family} model of {parameters:,} parameters, made with mapsto {__version__}.",
        "",
        "## Use",
        "",
        *_use(mapping),
        "",
        "## Where it comes from",
        "",
        f"- Start: {provenance.get('start') or 'random weights'}",
        f"- Data: {provenance.get('rows', 'unknown')} rows, fingerprint {str(provenance.get('data', 'unknown'))[:16]}",
        f"- Seed: {provenance.get('seed', 0)}; steps: {steps}; tokens read: {provenance.get('tokens', 'unknown')}{spent}",
        *_search(provenance.get("search")),
        *([f"- Confidence set by held-out rows: logits divided by {temperatures[0]:.2f}"] if temperatures else []),
    ]
    if scores:
        lines += ["", "## How good it is", "", "| score | value (95 % interval, items) |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in scores.items()]
    if findings:
        lines += ["", *(f"- {finding}" for finding in findings)]
    return "\n".join(lines) + "\n"


def _metadata(mapping: Mapping, provenance: Dict[str, Any], scores: Dict[str, Score]) -> list[str]:
    task = None if _told_ahead(mapping) else _hub_task(mapping)
    lines = ["---", "library_name: transformers", *([f"pipeline_tag: {task}"] if task else []), "tags:", "- mapsto"]
    named = {HUB_METRICS[name]: score for name, score in scores.items() if name in HUB_METRICS}
    if task and named:
        # JSON is YAML too, and keeps any text whole.
        found = {
            "name": str(mapping.arrow),
            "results": [
                {
                    "task": {"type": task},
                    "dataset": {"type": "private", "name": "test rows"},
                    "metrics": [{"type": name, "value": round(score.value, 6)} for name, score in named.items()],
                }
            ],
        }
        lines.append(f"model-index: {json.dumps([found], ensure_ascii=False)}")
    return [*lines, "---"]


def _hub_task(mapping: Mapping) -> str | None:
    """Return what the hub calls the task of a mapping, from the first source and the first answer; None for no known task."""
    source = replace(mapping.arrow.sources[0], column=None)
    target: Target | type[Target] | None = mapping.targets[0] if mapping.targets else None
    if target is None and source.kind in kinds.names("target"):
        target = kinds.target(source.kind, restored=True)
    capable = target if isinstance(target, type) or target is None else type(target)
    if capable is None or not issubclass(capable, Classes | Reconstruction):
        return None
    return capable.hub_tasks.get(str(source))


def _use(mapping: Mapping) -> list[str]:
    """What goes in and what comes out, and what it was not made for."""
    reads = ", ".join(f"{port.kind} ({port.column or port.kind})" for port in mapping.arrow.sources)
    lines = [f"It reads {reads}."]
    for target, port in zip(mapping.targets, mapping.arrow.targets, strict=True):
        if isinstance(target, Classes) and target.exclusive:
            lines.append(f"It answers one of {len(target.classes):,} classes: {', '.join(target.classes[:20])}.")
        elif port.restores is None:
            lines.append(f"It answers {target.kind}.")
    if mapping.arrow.corrupted or not mapping.targets:
        lines.append("It was pretrained: a start for other arrows, not an answer in itself.")
        if _told_ahead(mapping):
            lines.append(
                "It tells each token one place before its own: `mapsto predict` reads masks there, other libraries do not."
            )
    else:
        lines.append("It knows rows like those it was fitted to; on others, score it before you rely on it.")
    return lines


def _told_ahead(mapping: Mapping) -> bool:
    """Whether hidden tokens are told at the place before their own, where nobody else looks for them."""
    ports = zip(mapping.targets, mapping.arrow.targets, strict=True)
    return any(
        port.restores is not None and isinstance(target, Reconstruction) and target.corruption.ahead
        for target, port in ports
    )


def _search(search: Dict[str, Any] | None) -> list[str]:
    """What a search tried and chose."""
    if search is None:
        return []
    usual, best = search["trials"][0], search["trials"][search["chosen"] - 1]
    knobs = ", ".join(f"{name} {value}" for name, value in best["knobs"].items())
    errors = [f"{Score(**trial['error'])}" if trial["error"] else trial["failed"] for trial in (best, usual)]
    return [
        f"- Search: {len(search['trials'])} trials on held-out training rows; chosen: {knobs}, error {errors[0]}; "
        f"without a search: {errors[1]}. The lowest error of many is a little too low: rows of a test say more."
    ]
