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
from mapsto.model.familiarity import Familiarity
from mapsto.model.fit_record import FitRecord
from mapsto.model.mapping import Mapping, SkipInit
from mapsto.model.row_filter import RowFilter
from mapsto.pretrained import huggingface, sentence_transformers, weight_names
from mapsto.pretrained.model_card import render_model_card
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow, Port, parse, parse_ports
from mapsto.task.generation import Generated
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Composed, Reconstruction
from mapsto.text.spm import marian

# The format of mapsto.json.
FORMAT = 1

MANIFEST_FILE, RUN_FILE, CARD_FILE = "mapsto.json", "run.json", "README.md"

# The hashes of the row filters, a tensor of bytes for each.
ROW_FILTERS_FILE, FAMILIARITY_FILE = "row_filters.safetensors", "familiarity.safetensors"

# The files of the model itself, which `transformers` reads too.
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "ngrams.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "generation_config.json",
    *marian.FILES,
)


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that has been opened: one that mapsto saved, or one published by others.

    pretrained: the model and its weights. manifest: the content of mapsto.json; None if the folder has no such file.
    """

    pretrained: huggingface.PretrainedModel
    manifest: dict[str, Any] | None
    row_filters: tuple[RowFilter, ...] = ()

    @property
    def classes(self) -> dict[str, list[str]]:
        """The class names of each kind of target that has classes, as {kind: names}.

        Of several targets of a kind the first counts.
        """
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
        """Name of the objective with which mapsto pretrained this model; None if mapsto did not save or pretrain it."""
        return None if self.manifest is None else self.manifest["provenance"].get("objective")


def versions() -> dict[str, str]:
    """Return {name: version} of Python, mapsto and the packages that affect results.

    Repeating a run with the same versions gives exactly the same result.
    """
    names = ("torch", "tokenizers", "numpy")
    return {"python": platform.python_version(), "mapsto": __version__, **{name: version(name) for name in names}}


def open_model_folder(name: str | Path) -> ModelFolder:
    """Open the folder of a finished run, another model folder, or a model of the hub (by its name).

    In a run's folder, the files are first checked against the SHA-256 hashes in mapsto.json.
    Raises CheckpointError if a file is missing, damaged or changed, or if the run is not finished.
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
    """Return the model in a folder, or of this name on the hub, as a Mapping in fp32 and evaluation mode.

    Its arrow comes from mapsto.json, or else from the published head. Raises CheckpointError as `open_model_folder`, and if
    weights that the arrow needs are missing.
    """
    folder = open_model_folder(name)
    pretrained = folder.pretrained
    arrow, targets = _published_targets(pretrained) if folder.manifest is None else _saved_targets(folder.manifest)
    length = None if folder.manifest is None else folder.manifest.get("length")
    with SkipInit():
        mapping = Mapping(arrow, replace(pretrained.config, length=length), pretrained.sources, targets)
    if folder.manifest is not None:
        mapping.fit_record = FitRecord.from_provenance(folder.manifest["provenance"], Path(name))
    # Runs that start from this mapping choose other defaults if mapsto trained it.
    mapping.trained_with, mapping.row_filters = folder.trained_with, folder.row_filters
    if folder.manifest is not None:
        mapping.familiarity = _open_familiarity(Path(name), folder.manifest)
    missing = copy_weights(mapping, pretrained.tensors)
    if missing:
        raise CheckpointError(f"{name} lacks weights that its arrow needs: {', '.join(missing[:5])}")
    return mapping.eval()


def _saved_targets(manifest: Dict[str, Any]) -> tuple[Arrow, list[Target]]:
    """Return the arrow that mapsto.json records, and its targets with their saved state.

    Raises CheckpointError for invalid state.
    manifest: the content of mapsto.json.
    """
    text, entries = manifest["arrow"], manifest["targets"]
    # A model without targets is saved as its sources alone, which is no complete arrow.
    arrow = parse(text) if entries else Arrow(parse_ports(text), ())
    states = [entry["state"] for entry in entries]
    return arrow, [_make_target(kind, state) for kind, state in zip(kinds.answering(arrow), states, strict=True)]


def _published_targets(pretrained: huggingface.PretrainedModel) -> tuple[Arrow, list[Target]]:
    """Return the arrow and the targets of a published model, such as `text -> label` for a classifier.

    A head with classes predicts them. A model that writes texts gives `text -> text`. A head that restores hidden tokens gives an
    arrow with `~`, such as `~text -> text`.
    Without such a head there are no targets.
    """
    (kind,) = pretrained.sources
    if pretrained.labels:
        arrow = Arrow((Port(kind),), (Port(pretrained.target_kind),))
        return arrow, [_make_target(kinds.target(pretrained.target_kind), {"classes": pretrained.labels})]
    for target_class in kinds.targets():
        # A head without classes, such as that of a span, is known by its weights.
        if issubclass(target_class, Composed) and f"{target_class.head_name}.weight" in pretrained.tensors:
            return parse(target_class.published_arrow), [target_class()]
    if not pretrained.restores:
        return Arrow((Port(kind),), ()), []
    config = pretrained.config
    if config.transformer.causal or config.answer_decoder is not None:
        generated = kinds.target(kind)
        assert issubclass(generated, Generated)
        return parse(f"{kind} -> {kind}"), [generated.of_published(pretrained.sources[kind], config.answer_start)]
    arrow = parse(f"~{kind} -> {kind}")
    (target,) = [target() for target in kinds.answering(arrow)]
    assert isinstance(target, Reconstruction)
    objective = "masked" if pretrained.config.decoder is None else "mae"
    target.restore(Corruption.of(objective, kinds.source(kind).objectives[objective], "token"))
    return arrow, [target]


def _make_target(kind: type[Target], state: Dict[str, Any]) -> Target:
    """Return a target of the class `kind`, with `state` as its constructor's arguments.

    Raises CheckpointError if they do not fit.
    """
    try:
        return kind(**state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{MANIFEST_FILE} holds no answers of kind {kind.kind!r}: {error}") from error


def copy_weights(mapping: Mapping, tensors: Dict[str, Tensor], other_classes: Collection[str] = ()) -> list[str]:
    """Copy weights into the parameters of a mapping; return the names of the parameters for which there was none to copy.

    tensors: weights by the parameter names of mapsto's models. Head weights of another shape are not copied.
    other_classes: kinds of targets whose classes in the mapping differ from those of `tensors`; for these, head weights with one
        row for each class are not copied.

    Raises CheckpointError if a weight outside the heads has another shape.
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
    """Return whether the parameter `name` belongs to the classes of a target whose kind is in `kinds`.

    True for head weights with one row for each class, and for the pooler if such a target reads the pooled vector. name: of a
    parameter of a head or of the pooler.
    """
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
    """Write a model to `folder`, so that mapsto and `transformers` open it. mapsto.json is written last.

    provenance: origin of the model (starting model, data, seed, steps), in JSON types.
    scores: {name: score}, for the model card and mapsto.json. findings: sentences for the card on rows for which the model fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = weight_names.published_task(mapping)
    classifiers = [t for t in mapping.targets if isinstance(t, Classes) and (t.exclusive or t.kind == task)]
    # The published head's class names come first.
    labels = next((target.classes for target in sorted(classifiers, key=lambda t: t.kind != task)), None)
    huggingface.save_pretrained(mapping, folder, labels)
    files.write_atomic(folder / CARD_FILE, render_model_card(mapping, provenance, scores or {}, findings).encode())
    _save_row_filters(folder, mapping.row_filters)
    _save_familiarity(folder, mapping.familiarity)
    names = (*MODEL_FILES, *sentence_transformers.SENTENCE_FILES, ROW_FILTERS_FILE, FAMILIARITY_FILE)
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
    """Return the target's state in the types that reading it back from JSON gives, such as lists in place of tuples."""
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


def _save_familiarity(folder: Path, familiarity: Familiarity | None) -> None:
    """Write the vectors and distances of a familiarity; without one remove the file of an earlier model."""
    if familiarity is None:
        (folder / FAMILIARITY_FILE).unlink(missing_ok=True)
        return
    tensors = {"vectors": familiarity.vectors, "distances": familiarity.distances}
    files.write_atomic(folder / FAMILIARITY_FILE, safetensors.torch.save(tensors))


def _open_familiarity(folder: Path, manifest: Dict[str, Any]) -> Familiarity | None:
    """Return the familiarity saved with a model; None for models without one, as of earlier versions.

    Raises CheckpointError for a damaged file.
    """
    if FAMILIARITY_FILE not in manifest["files"]:
        return None
    tensors = files.open_tensors(folder / FAMILIARITY_FILE)
    if {*tensors} != {"vectors", "distances"}:
        raise CheckpointError(f"{folder / FAMILIARITY_FILE} holds no vectors with their distances")
    return Familiarity(tensors["vectors"], tensors["distances"])
