"""Freezing layers of the starting model (`--freeze`) or attaching low-rank updates to it (`--lora`, Hu et al. 2021)."""

from __future__ import annotations

from mapsto.errors import UsageError
from mapsto.fitting.starting_model import StartingModel
from mapsto.model import lora
from mapsto.model.mapping import Mapping
from mapsto.options import OptimizationOptions


def freeze_weights(mapping: Mapping, options: OptimizationOptions, start: StartingModel) -> None:
    """Freeze layers of the mapping (`--freeze`) or attach LoRA adapters to it (`--lora`), if an option asks for it.

    `--freeze 2` freezes the embeddings and the two lowest layers, `--freeze all` everything but heads and poolers.
    Raises UsageError for either option if `start` has no weights, for both options together, for more layers than the
    model has, and for `--lora` in pretraining.
    """
    flags = [f"--{name}" for name in ("lora", "freeze") if getattr(options, name) is not None]
    if not flags:
        return
    # Random weights that stay frozen would learn nothing.
    if start.tensors is None:
        raise UsageError(f"{flags[0]} leaves weights of a start as they are; it needs a --start")
    if len(flags) > 1:
        raise UsageError("give --lora or --freeze, not both: with --lora no weight of the start changes")
    stack, num_layers = mapping.transformer, mapping.config.transformer.layers
    if options.lora is not None:
        if mapping.arrow.corrupted:
            raise UsageError("--lora fits answers to a start; pretraining changes all weights")
        if not num_layers:
            raise UsageError(
                "--lora adds to the maps of a Transformer's layers, and the start has none; --freeze all leaves it"
            )
        lora.attach(mapping, options.lora)
        return
    num_frozen = num_layers if options.freeze == "all" else int(options.freeze or 0)
    if num_frozen > num_layers:
        raise UsageError(
            f"--freeze {num_frozen} is more than the {num_layers} layers of the start; --freeze all leaves all of it"
        )
    positions = [stack.position_table, stack.position_convolution]
    embedding = [mapping.embedders, *positions, stack.type_table, stack.embedding_norm]
    # These norms stand above the blocks, so they are frozen only together with all of them.
    top = [stack.final_norm, mapping.pooled_norm] if options.freeze == "all" else []
    for module in [*embedding, *stack.blocks[:num_frozen], *top]:
        if module is not None:
            module.requires_grad_(False)
