"""`mapsto trace` and `mapsto info`: show how a task is computed, and what a model folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mapsto.cli.app import Arrow, Data, Delimiter, Encoding, Json, Model, app
from mapsto.options import TextFormat

if TYPE_CHECKING:
    from mapsto.model.mapping import Mapping
    from mapsto.task.target import Target

# Facts of a run that `info` shows, where they are recorded.
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
    "overlap",
)


@app.command(epilog="Example: mapsto trace 'text -> label' train.csv --row 3")
def trace(
    arrow: Arrow,
    data: Data,
    start: Annotated[str | None, typer.Option(help="The model to trace; by default a small new one.")] = None,
    row: Annotated[int, typer.Option(help="The number of the row, from 1.")] = 1,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
) -> None:
    """Show one example after every stage, from the cell of the table to the loss."""
    from mapsto.cli.output import print_text
    from mapsto.data.files import join_paths
    from mapsto.fitting.trace import trace as trace_stages

    for line in trace_stages(arrow, join_paths(data), start, row, TextFormat(encoding, delimiter)):
        print_text(line)


@app.command(epilog="Example: mapsto info runs/clf")
def info(model: Model, json: Json = False) -> None:
    """Show what a model folder holds: its arrow, shape, classes and scores, and how it was trained."""
    from mapsto.api import load
    from mapsto.cli.output import print_json, print_text, read_manifest

    # Nothing is computed, so no accelerator is needed.
    facts = _describe(load(model, device="cpu", precision="fp32").mapping)
    if manifest := read_manifest(model):
        filters = [
            f"{entry['data']} ({entry['arrow']}), {entry['rows']:,} rows" for entry in manifest.get("row_filters", ())
        ]
        facts |= {"fitted to": filters} if filters else {}
        provenance = manifest["provenance"]
        facts |= {name: provenance[name] for name in PROVENANCE if name in provenance}
        facts |= {"scores": manifest["scores"]}
        if "exported" in manifest:
            facts |= {f"exported: {name}": value for name, value in manifest["exported"].items() if value}
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        for line in _format_fact(name, value):
            print_text(line)


def _describe(mapping: Mapping) -> dict[str, Any]:
    """Return what `mapsto info` prints about a model, by name: its arrow, its sizes, and the classes of each target."""
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
    facts |= _describe_search(mapping)
    facts |= {target.kind: target.state().get("classes", target.kind) for target in mapping.targets}
    for target in mapping.targets:
        facts |= _describe_generation(mapping, target)
    return facts


def _describe_search(mapping: Mapping) -> dict[str, Any]:
    """Return what `mapsto info` prints about `find`: the size of an index; nothing for a model that does not match values."""
    from mapsto.inference.index.vector_graph import graph_bytes
    from mapsto.inference.index.vector_index import index_bytes

    if not mapping.arrow.symmetric:
        return {}
    width = mapping.config.transformer.width
    sizes = [num_bytes / 1e6 for num_bytes in (index_bytes(1_000_000, width), graph_bytes(1_000_000, width))]
    text = "{:,.0f} MB a million texts; above that {:,.0f} MB more a million for an approximate one"
    return {"index of find": text.format(*sizes)}


def _describe_generation(mapping: Mapping, target: Target) -> dict[str, Any]:
    """Return what `mapsto info` prints about generated answers: the decoder, the longest answer, and the memory of decoding.

    Nothing for a target whose answers are not generated.
    """
    from mapsto.inference.generation import ANSWERS_AT_ONCE
    from mapsto.model.kv_cache import cache_bytes
    from mapsto.task.generation import Generated

    if not isinstance(target, Generated):
        return {}
    stack = mapping.config.answer_stack
    token_bytes = cache_bytes(stack)
    longest = min(target.longest, stack.max_tokens)
    # Source tokens take as much in the cache of cross-attention, or of the stack that reads both.
    num_bytes = ANSWERS_AT_ONCE * (longest + mapping.config.max_tokens) * token_bytes
    decoder = (
        {} if mapping.config.answer_decoder is None else {"decoder": f"{stack.layers} layers with cross-attention"}
    )
    return decoder | {
        "longest answer": f"{longest} tokens",
        "memory of decoding": f"{token_bytes / 1024:,.1f} KB a token, at most {num_bytes / 2**20:,.0f} MB",
    }


def _format_fact(name: str, value: Any) -> Iterator[str]:
    """Yield the lines that print one fact. A dict has a line for its name and one for each entry.

    name: name of the fact.
    """
    if isinstance(value, dict):
        yield f"{name}:"
        for key, entry in value.items():
            yield f"  {key:<22} {_format_entry(entry)}"
    elif isinstance(value, int):
        yield f"{name:<24} {value:,}"
    else:
        yield f"{name:<24} {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _format_entry(entry: Any) -> Any:
    """Return a score, a dict with `value`, `low`, `high` and `n`, as text; return any other entry unchanged."""
    from mapsto.metrics.intervals import Score

    return str(Score.from_json(entry)) if isinstance(entry, dict) else entry
