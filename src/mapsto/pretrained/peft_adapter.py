"""The adapter that a run with `--lora` saves: low-rank updates and new heads, which peft applies to the starting model."""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from pathlib import Path

import safetensors.torch
from torch import Tensor

from mapsto import files, zoo
from mapsto.model.lora import ALPHA_PER_RANK, LowRankUpdate
from mapsto.model.mapping import Mapping
from mapsto.pretrained import weight_names

ADAPTER_FOLDER = "adapter"
# The prefix of peft's names.
STEM = "base_model.model."
HEAD = "classifier"  # peft saves this module as a whole, whatever its layers


def save_adapter(mapping: Mapping, run: Path, updates: Dict[str, LowRankUpdate], start: str | None) -> None:
    """Write adapter_config.json and adapter_model.safetensors to the subfolder "adapter" of a run's folder.

    mapping: the trained model, with the updates already merged into its weights. run: folder of the run.
    updates: the low-rank updates B·A, by name of the module. start: name of the starting model; None if it has none.

    A module of mapsto may be several in the published model (query, key and value). Each of these gets the same matrix A, and
    its own rows of B. Modules that the starting model does not have, such as a new head, are saved whole.
    """
    # peft takes one rank for all modules.
    rank = max(len(update.a) for update in updates.values())
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        matrix = {f"{name}.weight": update.b.cpu()}
        for published, b in weight_names.to_published_names(mapping, matrix, transposes=False).items():
            stem = f"{STEM}{published.removesuffix('.weight')}"
            tensors |= {f"{stem}.lora_A.weight": update.a.cpu().clone(), f"{stem}.lora_B.weight": b}
    targets = sorted({name.removeprefix(STEM).rsplit(".", 2)[0] for name in tensors})
    # The last prefix is that of the layer that computes the mean (weight_names.all_weights), if there is one.
    new = ("pooler.", "classifier.", f"transformer.blocks.{mapping.config.transformer.layers}.")
    new_weights = weight_names.to_published_names(
        mapping, {name: t for name, t in weight_names.all_weights(mapping).items() if name.startswith(new)}
    )
    tensors |= {STEM + name: tensor for name, tensor in new_weights.items()}
    modules = {name.rsplit(".", 1)[0] for name in new_weights}
    modules = {HEAD if name.startswith(f"{HEAD}.") else name for name in modules}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if weight_names.published_task(mapping) == weight_names.classifier() else None,
        "base_model_name_or_path": start,
        "r": rank,
        "lora_alpha": ALPHA_PER_RANK * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": bool(zoo.get_family(mapping.config.family).transposed),
        "target_modules": targets,
        "modules_to_save": sorted(modules),
        "inference_mode": True,
    }
    folder = run / ADAPTER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomic(folder / "adapter_model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
    files.write_atomic(folder / "adapter_config.json", (json.dumps(config, indent=1) + "\n").encode())
