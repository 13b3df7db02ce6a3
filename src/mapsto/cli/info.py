"""`mapsto trace` and `mapsto info`."""

from __future__ import annotations

from collections.abc import Iterator
from json import dumps, loads
from pathlib import Path
from typing import Annotated, Any

import typer

from mapsto.cli.app import Arrow, AsJson, Data, Encoding, ModelName, app

# Facts of a run that `mapsto info` repeats from mapsto.json, in this order.
PROVENANCE = (
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


@app.command(epilog="Example: mapsto trace 'text -> label' train.csv --row 3")
def trace(
    arrow: Arrow,
    data: Data,
    start: Annotated[str | None, typer.Option(help="The model to trace with; by default a small new one.")] = None,
    row: Annotated[int, typer.Option(help="Which row, from 1.")] = 1,
    encoding: Encoding = None,
) -> None:
    """Show one example after every stage, from the cell to the loss."""
    from mapsto.fitting.trace import trace as trace_stages

    for line in trace_stages(arrow, data, start, row, encoding):
        print(line)


@app.command(epilog="Example: mapsto info runs/clf")
def info(model: ModelName, json: AsJson = False) -> None:
    """Show what a model folder holds: arrow, shape, answers, scores, and how it was trained."""
    facts = _facts(model)
    if json:
        print(dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        for line in _lines(name, value):
            print(line)


def _facts(model: str) -> dict[str, Any]:
    """Return the facts of a model folder by name."""
    from mapsto.api import load
    from mapsto.pretrained.model_folder import MANIFEST_FILE

    mapping = load(model, device="cpu", precision="fp32").mapping
    config = mapping.config
    facts: dict[str, Any] = {
        "arrow": str(mapping.arrow),
        "family": config.family,
        "parameters": sum(parameter.numel() for parameter in mapping.parameters()),
        "layers": config.transformer.layers,
        "width": config.transformer.width,
        "heads": config.transformer.heads,
        "longest example": f"{config.max_tokens} tokens",
        "pooling": config.pooling,
    }
    if config.backbone is not None:
        facts["in front"] = str(config.backbone)
    if config.sentence is not None:
        facts["vectors"] = str(config.sentence)
    facts |= {target.kind: target.state().get("classes", target.kind) for target in mapping.targets}
    path = Path(model) / MANIFEST_FILE
    if path.exists():
        manifest = loads(path.read_text("utf-8"))
        provenance = manifest["provenance"]
        facts |= {name: provenance[name] for name in PROVENANCE if name in provenance}
        facts |= {"scores": manifest["scores"]}
    return facts


def _lines(name: str, value: Any) -> Iterator[str]:
    """Yield a fact as lines of text; those of a dict below its name."""
    if not isinstance(value, dict):
        text = value
        if isinstance(value, int):
            text = f"{value:,}"
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        yield f"{name:<24} {text}"
        return
    yield f"{name}:"
    for key, entry in value.items():
        text = entry
        if isinstance(entry, dict):
            text = f"{entry['value']:.4f} ({entry['low']:.4f}–{entry['high']:.4f}, n = {entry['n']})"
        yield f"  {key:<22} {text}"
