"""The model folder that a run saves: a Hugging Face folder with one more file, mapsto.json.

mapsto.json holds the arrow, the state of each target (such as class names), the provenance of the model, and the SHA-256 of each
file, which is verified when the folder is opened. It is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from mapsto import __version__, files, kinds
from mapsto.errors import CheckpointError, MapstoError
from mapsto.metrics.intervals import Score, to_json
from mapsto.model.familiarity import Familiarity
from mapsto.model.fit_record import FitRecord
from mapsto.model.mapping import Mapping, SkipInit
from mapsto.model.row_filter import RowFilter
from mapsto.pretrained import huggingface, sentence_transformers, weight_names
from mapsto.pretrained.exported.engines import LOCAL, choose_engine
from mapsto.pretrained.exported.opening import open_exported
from mapsto.pretrained.location import find_folder
from mapsto.pretrained.manifest import FORMAT, MANIFEST_FILE, read_manifest
from mapsto.pretrained.model_card import render_model_card
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow, Port, parse, parse_ports
from mapsto.task.capabilities import FileBacked
from mapsto.task.generation import Generated
from mapsto.task.source_capabilities import Windowed
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Extracted, HeadRows, Reconstruction
from mapsto.text.spm import marian

RUN_FILE, CARD_FILE = "run.json", "README.md"

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
# All files that mapsto.json lists, where a model has them.
SAVED_FILES = (*MODEL_FILES, *sentence_transformers.SENTENCE_FILES, ROW_FILTERS_FILE, FAMILIARITY_FILE)

# How often a folder is read again that is replaced meanwhile; and the seconds in which a folder is moved to the place of another.
MAX_TRIES = 100
MOMENT = 0.02

Content = TypeVar("Content")


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


def model_files(folder: Path) -> list[Path]:
    """Return the files of the finished model in a folder, without its card and what a run leaves beside it."""
    return [path for name in (*SAVED_FILES, MANIFEST_FILE) if (path := folder / name).is_file()]


def versions(source_kinds: Iterable[str] = ()) -> dict[str, str]:
    """Return {name: version} of Python, mapsto and the packages that affect results, such as those that decode files.

    Repeating a run with the same versions gives exactly the same result.
    source_kinds: the kinds of values that are read.
    """
    names = ["torch", "tokenizers", "numpy"]
    found = {"python": platform.python_version(), "mapsto": __version__}
    for source in map(kinds.source, source_kinds):
        names += source.decoders if issubclass(source, FileBacked) else ()
    for name in dict.fromkeys(names):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def open_model_folder(name: str | Path) -> ModelFolder:
    """Open the folder of a finished run, another model folder, or a model of the hub (by its name, `hf:user/name`).

    In a run's folder, the files are first checked against the SHA-256 hashes in mapsto.json; what is checked is what is read.
    Raises CheckpointError if a file is missing, damaged or changed, or if the run is not finished.
    """
    return _read_whole(name, _open_folder)


def _open_folder(path: Path, weights: Dict[str, Tensor] | None = None) -> ModelFolder:
    """Return the content of a model folder whose files are read once (`files.reading_folder`).

    weights: as for `_load_mapping`.
    """
    manifest = read_manifest(path)
    if manifest is not None:
        hashes = manifest["files"]
        files.verify(
            path, {name: hashes[name] for name in hashes if weights is None or name != huggingface.WEIGHTS_FILE}
        )
    # A run writes run.json when it starts, and mapsto.json when it is finished.
    elif (path / RUN_FILE).exists():
        raise CheckpointError(f"{path} holds an unfinished run; run the same command again to finish it")
    return ModelFolder(huggingface.open_folder(path, weights), manifest, _open_row_filters(path, manifest or {}))


def load_mapping(name: str | Path, engine: str = LOCAL) -> Mapping:
    """Return the model in a folder, or of this name on the hub, as a Mapping in fp32 and evaluation mode.

    Its arrow comes from mapsto.json, or else from the published head. A file that `mapsto export` wrote gives a SessionMapping.
    engine: what computes an exported file, "onnx" or "openvino"; "local" chooses by its form.
    Raises CheckpointError as `open_model_folder`, and if weights that the arrow needs are missing. Raises UsageError for an
    engine that does not open this model.
    """
    exported_engine = choose_engine(name, engine)
    if exported_engine is not None:
        return open_exported(Path(name).expanduser(), _load_skeleton, exported_engine)
    return _read_whole(name, _load_mapping)


def _load_skeleton(path: Path, weights: Dict[str, Tensor], place: Path) -> Mapping:
    """Return the Mapping of a folder without model.safetensors, with its weights on the meta device.

    weights: on the meta device, by their published names. place: the folder from which the training file is looked for.
    """
    with files.reading_folder(path):
        return _load_mapping(path, weights, place)


def _load_mapping(path: Path, weights: Dict[str, Tensor] | None = None, place: Path | None = None) -> Mapping:
    """Return the Mapping of a model folder whose files are read once (`files.reading_folder`).

    weights, place: as for `_load_skeleton`; None for a folder with its weights, from which the training file is looked for.
    """
    folder = _open_folder(path, weights)
    manifest = folder.manifest
    if manifest is None:
        arrow, targets = _published_targets(folder.pretrained)
        mapping = _build(_without_padding(folder.pretrained, targets), arrow, targets, None)
    else:
        with _refusing_states(path):
            with nullcontext() if weights is None else torch.device("meta"):
                mapping = _build(folder.pretrained, *_saved_targets(manifest), manifest.get("length"))
            mapping.fit_record = FitRecord.from_provenance(manifest["provenance"], place or path)
        mapping.familiarity = _open_familiarity(path, manifest)
    # Runs that start from this mapping choose other defaults if mapsto trained it.
    mapping.trained_with, mapping.row_filters = folder.trained_with, folder.row_filters
    missing = copy_weights(mapping, folder.pretrained.tensors)
    if missing:
        raise CheckpointError(f"{path} lacks weights that its arrow needs: {', '.join(missing[:5])}")
    return mapping.eval()


def _build(
    pretrained: huggingface.PretrainedModel, arrow: Arrow, targets: Sequence[Target], length: int | None
) -> Mapping:
    """Return the model of an arrow with these targets, whose weights are not set yet. length: of its longest examples."""
    with SkipInit():
        return Mapping(arrow, replace(pretrained.config, length=length), pretrained.sources, targets)


def _read_whole(name: str | Path, read: Callable[[Path], Content]) -> Content:
    """Return what `read` returns for the folder of a model, all of whose files are of one save.

    The files may be replaced by another save meanwhile. Then they are read again: the old model is returned, or the new one.
    """
    try:
        path = find_folder(str(name))
    except CheckpointError:
        # Between two renames, the old folder is away and the new one is not there yet.
        time.sleep(MOMENT)
        path = find_folder(str(name))
    tries = MAX_TRIES
    while True:
        first_signature, tries = signature_of(path), tries - 1
        try:
            with files.reading_folder(path):
                content = read(path)
            if signature_of(path) == first_signature or not tries:
                return content
        except CheckpointError:
            # Who replaces the files holds the lock of the folder while both old and new ones are in it.
            with files.locked_folder(path):
                signature = signature_of(path)
            if signature == first_signature:
                time.sleep(MOMENT)
                signature = signature_of(path)
            if signature == first_signature or not tries:
                raise


def signature_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return for each file of a model, by name, the facts that change when it is replaced: number, size and time of change."""
    signature: dict[str, tuple[int, ...]] = {}
    for name in (MANIFEST_FILE, *SAVED_FILES):
        with suppress(OSError):
            status = os.stat(folder / name)
            signature[name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return signature


@contextmanager
def _refusing_states(folder: Path) -> Iterator[None]:
    """Turn the error of a state or provenance in mapsto.json that does not fit its model into a CheckpointError."""
    try:
        yield
    except MapstoError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder / MANIFEST_FILE} does not fit its model: {error}") from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST_FILE} does not fit its model: {error!r}") from error


def _saved_targets(manifest: Dict[str, Any]) -> tuple[Arrow, list[Target]]:
    """Return the arrow that mapsto.json records, and its targets with their saved state.

    Raises CheckpointError for invalid state.
    manifest: the content of mapsto.json.
    """
    text, entries = manifest["arrow"], manifest["targets"]
    # A model without targets is saved as its sources alone, which is no complete arrow.
    arrow = parse(text) if entries else Arrow(parse_ports(text), ())
    aligned = [index for index, entry in enumerate(entries) if entry.get("aligned")]
    if unsuitable := [arrow.targets[index].kind for index in aligned if not kinds.can_align(arrow.targets[index].kind)]:
        raise CheckpointError(f"{MANIFEST_FILE}: answers of kind {unsuitable[0]!r} are not read along a source")
    arrow = arrow.align(aligned)
    states = [entry["state"] for entry in entries]
    return arrow, [_make_target(kind, state) for kind, state in zip(kinds.answering(arrow), states, strict=True)]


def _without_padding(pretrained: huggingface.PretrainedModel, targets: Sequence[Target]) -> huggingface.PretrainedModel:
    """Return a published model that pads values only if it generates answers, since its decoder has seen no other values."""
    if any(isinstance(target, Generated) for target in targets):
        return pretrained
    sources = {
        kind: source.with_padding(False) if isinstance(source, Windowed) else source
        for kind, source in pretrained.sources.items()
    }
    return replace(pretrained, sources=sources)


def _published_targets(pretrained: huggingface.PretrainedModel) -> tuple[Arrow, list[Target]]:
    """Return the arrow and the targets of a published model, such as `text -> label` for a classifier.

    A head with classes predicts them. A model that writes texts gives `text -> text`. A head that restores hidden tokens gives an
    arrow with `~`, such as `~text -> text`.
    Without such a head there are no targets.
    """
    kind, *written = pretrained.sources
    if pretrained.labels:
        arrow = Arrow((Port(kind),), (Port(pretrained.target_kind),))
        return arrow, [_make_target(kinds.target(pretrained.target_kind), {"classes": pretrained.labels})]
    for target_class in kinds.targets():
        # A head without classes, such as that of a span, is known by its weights.
        if issubclass(target_class, Extracted) and f"{target_class.head_name}.weight" in pretrained.tensors:
            return parse(target_class.published_arrow), [target_class()]
    if not pretrained.restores:
        return Arrow((Port(kind),), ()), []
    config = pretrained.config
    if config.transformer.causal or config.answer_decoder is not None:
        answer = written[0] if written else kind
        generated = kinds.target(answer)
        assert issubclass(generated, Generated)
        return parse(f"{kind} -> {answer}"), [generated.of_published(pretrained.sources[answer], config.answer_start)]
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
    return target.kind in kinds and isinstance(target, HeadRows) and rest.startswith(target.class_weight_names)


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
    Raises UsageError for an exported file, which has no weights.
    """
    mapping.require_weights("save a model folder")
    task = weight_names.published_task(mapping)
    classifiers = [t for t in mapping.targets if isinstance(t, Classes) and (t.exclusive or t.kind == task)]
    # The published head's class names come first.
    labels = next((target.classes for target in sorted(classifiers, key=lambda t: t.kind != task)), None)
    with files.replacing_files(folder, last=MANIFEST_FILE) as staging:
        huggingface.save_pretrained(mapping, staging, labels)
        card = render_model_card(mapping, provenance, scores or {}, findings)
        files.write_atomic(staging / CARD_FILE, card.encode(errors="backslashreplace"))
        _save_row_filters(staging, mapping.row_filters)
        _save_familiarity(staging, mapping.familiarity)
        hashes = {name: files.hash_file(staging / name) for name in SAVED_FILES if (staging / name).exists()}
        manifest = {
            "format": FORMAT,
            "arrow": str(mapping.arrow),
            "length": mapping.config.length,
            "targets": list(map(_target_entry, mapping.targets, mapping.arrow.targets)),
            "row_filters": [{"arrow": f.arrow, "data": f.data, "rows": f.num_rows} for f in mapping.row_filters],
            "provenance": {**provenance, "versions": versions(mapping.sources)},
            "scores": {name: to_json(score) for name, score in (scores or {}).items()},
            "files": hashes,
        }
        files.write_atomic(staging / MANIFEST_FILE, files.seal(manifest))
    for name in (ROW_FILTERS_FILE, FAMILIARITY_FILE):
        if name not in hashes:  # of an earlier model
            (folder / name).unlink(missing_ok=True)


def _target_entry(target: Target, port: Port) -> dict[str, Any]:
    """Return the entry of a target in mapsto.json."""
    entry = {"kind": target.kind, "state": _plain_state(target)}
    return {**entry, "aligned": True} if port.aligned else entry


def _plain_state(target: Target) -> dict[str, Any]:
    """Return the target's state in the types that reading it back from JSON gives, such as lists in place of tuples."""
    state: dict[str, Any] = json.loads(json.dumps(target.state()))
    return state


def _save_row_filters(folder: Path, row_filters: Sequence[RowFilter]) -> None:
    """Write the hashes of the filters in order; nothing without filters."""
    if not row_filters:
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
    """Write the vectors and distances of a familiarity, if there is one."""
    if familiarity is None:
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
