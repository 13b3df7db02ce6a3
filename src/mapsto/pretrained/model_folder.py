"""The model folder that a run saves: a Hugging Face folder with one more file, mapsto.json.

mapsto.json holds the arrow, the state of each target (such as class names), the provenance of the model, and the SHA-256 of each
file, which is verified when the folder is opened. It is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mapsto import __version__, files, kinds
from mapsto.errors import CheckpointError
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping, SkipInit
from mapsto.model.row_filter import RowFilter
from mapsto.pretrained import huggingface, sentence_transformers, weight_names
from mapsto.pretrained.model_card import render_model_card
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow, Port, parse, parse_ports
from mapsto.task.capabilities import Classes, Reconstruction
from mapsto.task.target import Target

# The format of mapsto.json.
FORMAT = 1

MANIFEST_FILE, RUN_FILE, CARD_FILE = "mapsto.json", "run.json", "README.md"

# The hashes of the row filters, a tensor of bytes for each.
ROW_FILTERS_FILE = "row_filters.safetensors"

# The files of the model itself, which `transformers` reads too.
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "ngrams.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder, saved by mapsto or published by others.

    pretrained: the model and its files. manifest: content of mapsto.json; None if there is no such file.
    row_filters: of the rows that it and its starting models were fitted to, as far as they are recorded.
    """

    pretrained: huggingface.PretrainedModel
    manifest: dict[str, Any] | None
    row_filters: tuple[RowFilter, ...] = ()

    @property
    def classes(self) -> dict[str, list[str]]:
        """Class names of the targets, by kind of answer; if several targets have one kind, those of the first."""
        if self.manifest is None:
            return {self.pretrained.target_kind: self.pretrained.labels} if self.pretrained.labels else {}
        classes = [(entry["kind"], entry["state"].get("classes")) for entry in self.manifest["targets"]]
        return {kind: names for kind, names in reversed(classes) if names is not None}

    @property
    def trained_with(self) -> str | None:
        """Name of the optimizer that trained the model; None if mapsto did not save the folder or recorded no optimizer."""
        return None if self.manifest is None else self.manifest["provenance"].get("optimizer")

    @property
    def objective(self) -> str | None:
        """Name of the pretraining objective of the run that saved the folder; None if mapsto did not pretrain the model in it."""
        return None if self.manifest is None else self.manifest["provenance"].get("objective")


def versions() -> dict[str, str]:
    """Return the versions of Python, mapsto and the packages that decide a result, by name.

    A run that is repeated with the same versions gives the same bits.
    """
    names = ("torch", "tokenizers", "numpy")
    return {"python": platform.python_version(), "mapsto": __version__, **{name: version(name) for name in names}}


def open_model_folder(name: str | Path) -> ModelFolder:
    """Open a run's folder, another model folder, or a model of the hub. Raises CheckpointError.

    For a run's folder, the hashes in mapsto.json are first compared with the files.
    """
    path = Path(name)
    manifest = None
    if (path / MANIFEST_FILE).exists():
        manifest = files.read_sealed(path / MANIFEST_FILE)
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path / MANIFEST_FILE} has format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        files.verify(path, manifest["files"])
    # A run writes run.json when it starts, and mapsto.json when it is finished.
    elif (path / RUN_FILE).exists():
        raise CheckpointError(f"{path} holds an unfinished run; run the same command again to finish it")
    return ModelFolder(huggingface.open_pretrained(str(name)), manifest, _open_row_filters(path, manifest or {}))


def load_mapping(name: str | Path) -> Mapping:
    """Return the model in a folder or under a hub name with its arrow, in fp32 and evaluation mode. Raises CheckpointError."""
    folder = open_model_folder(name)
    pretrained = folder.pretrained
    arrow, targets = _published_targets(pretrained) if folder.manifest is None else _saved_targets(folder.manifest)
    length = None if folder.manifest is None else folder.manifest.get("length")
    with SkipInit():
        mapping = Mapping(arrow, replace(pretrained.config, length=length), pretrained.sources, targets)
    # Runs that start from this mapping choose other defaults if mapsto trained it.
    mapping.trained_with, mapping.row_filters = folder.trained_with, folder.row_filters
    missing = copy_weights(mapping, pretrained.tensors)
    if missing:
        raise CheckpointError(f"{name} lacks weights that its arrow needs: {', '.join(missing[:5])}")
    return mapping.eval()


def _saved_targets(manifest: Dict[str, Any]) -> tuple[Arrow, list[Target]]:
    """Return the arrow and the targets that mapsto.json records. Raises CheckpointError.

    manifest: the content of mapsto.json.
    """
    text, entries = manifest["arrow"], manifest["targets"]
    # A model without targets is saved as its sources alone, which is no complete arrow.
    arrow = parse(text) if entries else Arrow(parse_ports(text), ())
    states = [entry["state"] for entry in entries]
    return arrow, [_make_target(kind, state) for kind, state in zip(kinds.answering(arrow), states, strict=True)]


def _published_targets(pretrained: huggingface.PretrainedModel) -> tuple[Arrow, list[Target]]:
    """Return the arrow and the targets of a published model, derived from its head.

    A head answers classes or restores hidden tokens; without a head there are no targets.
    """
    (kind,) = pretrained.sources
    if pretrained.labels:
        arrow = Arrow((Port(kind),), (Port(pretrained.target_kind),))
        return arrow, [_make_target(kinds.target(pretrained.target_kind), {"classes": pretrained.labels})]
    head_name = kinds.target(kind, restored=True).head_name
    if not any(key.startswith(f"{head_name}.") for key in pretrained.tensors):
        return Arrow((Port(kind),), ()), []
    arrow = parse(f"~{kind} -> {kind}")
    (target,) = [target() for target in kinds.answering(arrow)]
    assert isinstance(target, Reconstruction)
    objective = "masked" if pretrained.config.decoder is None else "mae"
    target.restore(Corruption.of(objective, kinds.source(kind).objectives[objective], "token"))
    return arrow, [target]


def _make_target(kind: type[Target], state: Dict[str, Any]) -> Target:
    """Build a target of the class `kind` from its saved state. Raises CheckpointError."""
    try:
        return kind(**state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{MANIFEST_FILE} holds no answers of kind {kind.kind!r}: {error}") from error


def copy_weights(mapping: Mapping, tensors: Dict[str, Tensor], other_classes: Collection[str] = ()) -> list[str]:
    """Copy weights into a mapping, and return the names of the parameters that keep their initial values.

    tensors: weights under mapsto's names. Weights of a head are copied only if they have the shape of the mapping's head.
    other_classes: kinds of answers whose classes in the mapping are others than in `tensors`; head weights that have one row
        for each class are not copied for these kinds.

    Raises CheckpointError for a weight of the body in another shape.
    """
    missing = []
    with torch.no_grad():
        for name, parameter in mapping.named_parameters():
            tensor = tensors.get(weight_names.weight_name(mapping, name))
            is_head = name.startswith(("heads.", "pooler."))
            if tensor is None or (
                is_head and (_names_classes(mapping, name, other_classes) or tensor.shape != parameter.shape)
            ):
                missing.append(name)
            elif tensor.shape != parameter.shape:
                raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}")
            else:
                parameter.copy_(tensor)
    return missing


def _names_classes(mapping: Mapping, name: str, kinds: Collection[str]) -> bool:
    """Return whether the weight `name` of a head or of the pooler depends on the classes of a target of one of these kinds."""
    if name.startswith("pooler."):
        return any(target.kind in kinds and target.readout.pooled for target in mapping.targets)
    _, port, rest = name.split(".", 2)
    target = mapping.targets[int(port)]
    return target.kind in kinds and isinstance(target, Classes) and rest.startswith(target.class_weight_names)


def save_mapping(
    mapping: Mapping,
    folder: Path,
    provenance: Dict[str, Any],
    scores: Dict[str, Score] | None = None,
    findings: Sequence[str] = (),
) -> None:
    """Save the mapping in a folder that mapsto and `transformers` open; mapsto.json is written last.

    provenance: how the model came about (start, data, seed, steps), in JSON types. scores: for the model card, by name.
    findings: sentences for the model card about where the model fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = weight_names.published_task(mapping)
    classifiers = [t for t in mapping.targets if isinstance(t, Classes) and (t.exclusive or t.kind == task)]
    # The published head's class names come first.
    labels = next((target.classes for target in sorted(classifiers, key=lambda t: t.kind != task)), None)
    huggingface.save_pretrained(mapping, folder, labels)
    files.write_atomic(folder / CARD_FILE, render_model_card(mapping, provenance, scores or {}, findings).encode())
    _save_row_filters(folder, mapping.row_filters)
    names = (*MODEL_FILES, *sentence_transformers.SENTENCE_FILES, ROW_FILTERS_FILE)
    manifest = {
        "format": FORMAT,
        "arrow": str(mapping.arrow),
        "length": mapping.config.length,
        "targets": [{"kind": target.kind, "state": _plain_state(target)} for target in mapping.targets],
        "row_filters": [{"arrow": f.arrow, "data": f.data, "rows": f.num_rows} for f in mapping.row_filters],
        "provenance": {**provenance, "versions": versions()},
        "scores": {name: asdict(score) for name, score in (scores or {}).items()},
        "files": {name: files.hash_file(folder / name) for name in names if (folder / name).exists()},
    }
    files.write_atomic(folder / MANIFEST_FILE, files.seal(manifest))


def _plain_state(target: Target) -> dict[str, Any]:
    """Return the target's state as JSON returns it, such as lists instead of tuples."""
    state: dict[str, Any] = json.loads(json.dumps(target.state()))
    return state


def _save_row_filters(folder: Path, row_filters: Sequence[RowFilter]) -> None:
    """Write the hashes of the filters in order; without filters remove the file of an earlier model."""
    if not row_filters:
        (folder / ROW_FILTERS_FILE).unlink(missing_ok=True)
        return
    tensors = {
        str(index): torch.frombuffer(bytearray(row_filter.hashes), dtype=torch.uint8)
        for index, row_filter in enumerate(row_filters)
    }
    files.write_atomic(folder / ROW_FILTERS_FILE, safetensors.torch.save(tensors))


def _open_row_filters(folder: Path, manifest: Dict[str, Any]) -> tuple[RowFilter, ...]:
    """Return the filters that mapsto.json lists; none for published models and for folders of versions without them.

    Raises CheckpointError for a damaged file.
    """
    entries = manifest.get("row_filters", ())
    tensors = files.open_tensors(folder / ROW_FILTERS_FILE) if entries else {}
    if {*tensors} != {str(index) for index in range(len(entries))}:
        raise CheckpointError(f"{folder / ROW_FILTERS_FILE} has other filters than {MANIFEST_FILE} lists")
    return tuple(
        RowFilter(entry["arrow"], entry["data"], entry["rows"], tensors[str(index)].numpy().tobytes())
        for index, entry in enumerate(entries)
    )
