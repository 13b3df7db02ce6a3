"""Freeze."""

from __future__ import annotations

from mapsto.errors import UsageError
from mapsto.fitting.start import Beginning
from mapsto.model import lora
from mapsto.model.mapping import Mapping
from mapsto.options import Options


def restrict(mapping: Mapping, options: Options, beginning: Beginning) -> None:
    """Leave those weights of the start as they are that the options name. Raises UsageError where they cannot be."""
    given = [f"--{name}" for name in ("lora", "freeze") if getattr(options, name) is not None]
    if not given:
        return
    if beginning.tensors is None:
        raise UsageError(f"{given[0]} leaves weights of a start as they are; it needs a --start")
    if len(given) > 1:
        raise UsageError("give --lora or --freeze, not both: with --lora no weight of the start changes")
    stack, layers = mapping.transformer, mapping.config.transformer.layers
    if options.lora is not None:
        if mapping.arrow.corrupted:
            raise UsageError("--lora fits answers to a start; pretraining changes all weights")
        if not layers:
            raise UsageError(
                "--lora adds to the maps of a Transformer's layers, and the start has none; --freeze all leaves it"
            )
        lora.attach(mapping, options.lora)
        return
    frozen = layers if options.freeze == "all" else int(options.freeze or 0)
    if frozen > layers:
        raise UsageError(
            f"--freeze {frozen} is more than the {layers} layers of the start; --freeze all leaves all of it"
        )
    lowest = [mapping.embedders, stack.position_table, stack.type_table, stack.embedding_norm, *stack.blocks[:frozen]]
    for part in [*lowest, stack.final_norm, mapping.pooled_norm] if options.freeze == "all" else lowest:
        if part is not None:
            part.requires_grad_(False)
