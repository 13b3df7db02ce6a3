"""Model folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapsto import __version__, files, kinds
from mapsto.errors import CheckpointError
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping, Unset
from mapsto.pretrained import huggingface, sentence_transformers, weight_names
from mapsto.pretrained.model_card import render_model_card
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import Arrow, Port, parse, parse_ports
from mapsto.task.capabilities import Classes, Reconstruction
from mapsto.task.target import Target

FORMAT = 1


MANIFEST_FILE = "mapsto.json"


RUN_FILE = "run.json"


CARD_FILE = "README.md"


MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True)
class ModelFolder:
    """A start of training or prediction: a published model, or a mapping that mapsto saved (then `manifest` is there)."""

    pretrained: huggingface.PretrainedModel
    manifest: dict[str, Any] | None

    @property
    def classes(self) -> dict[str, list[str]]:
        """The classes that it answers, by kind; of several answers of a kind those of the first."""
        if self.manifest is None:
            return {self.pretrained.answered: self.pretrained.labels} if self.pretrained.labels else {}
        told = [(entry["kind"], entry["state"].get("classes")) for entry in self.manifest["targets"]]
        return {kind: classes for kind, classes in reversed(told) if classes is not None}

    @property
    def trained_with(self) -> str | None:
        """The optimizer of the run that made it, if mapsto did."""
        return None if self.manifest is None else self.manifest["provenance"].get("optimizer")

    @property
    def objective(self) -> str | None:
        """By what it learnt to put back what is hidden, if mapsto taught it that last."""
        return None if self.manifest is None else self.manifest["provenance"].get("objective")


def versions() -> dict[str, str]:
    """What computed: a run is exact on the same machine with the same of these."""
    names = ("torch", "tokenizers", "numpy")
    return {"python": platform.python_version(), "mapsto": __version__, **{name: version(name) for name in names}}


def open_model_folder(name: str | Path) -> ModelFolder:
    """Open a run's folder (its hashes are verified first), a model folder, or a hub name. Raises CheckpointError."""
    path = Path(name)
    manifest = None
    if (path / MANIFEST_FILE).exists():
        manifest = files.read_sealed(path / MANIFEST_FILE)
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path / MANIFEST_FILE} has format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        files.verify(path, manifest["files"])
    elif (path / RUN_FILE).exists():
        raise CheckpointError(f"{path} holds an unfinished run; run the same command again to finish it")
    return ModelFolder(huggingface.open_pretrained(str(name)), manifest)


def load_mapping(name: str | Path) -> Mapping:
    """The mapping saved in a folder, or the one a published checkpoint amounts to, ready to predict in fp32."""
    opened = open_model_folder(name)
    (kind,) = opened.pretrained.sources
    if opened.manifest is not None:
        said = opened.manifest["arrow"]
        arrow = parse(said) if opened.manifest["targets"] else Arrow(parse_ports(said), ())
        states = [entry["state"] for entry in opened.manifest["targets"]]
        targets = [_target(*told) for told in zip(kinds.answering(arrow), states, strict=True)]
    elif opened.pretrained.labels:
        arrow = Arrow((Port(kind),), (Port(opened.pretrained.answered),))
        targets = [_target(kinds.target(opened.pretrained.answered), {"classes": opened.pretrained.labels})]
    elif any(key.startswith(f"{kinds.target(kind, restored=True).head_name}.") for key in opened.pretrained.tensors):
        arrow = parse(f"~{kind} -> {kind}")
        targets = [target() for target in kinds.answering(arrow)]
        objective = "masked" if opened.pretrained.config.decoder is None else "mae"
        (target,) = targets
        assert isinstance(target, Reconstruction)
        target.restore(Corruption.of(objective, kinds.source(kind).objectives[objective], "token"))
    else:
        arrow, targets = Arrow((Port(kind),), ()), []
    length = None if opened.manifest is None else opened.manifest.get("length")
    with Unset():
        mapping = Mapping(arrow, replace(opened.pretrained.config, length=length), opened.pretrained.sources, targets)
    mapping.trained_with = opened.trained_with
    missing = copy_weights(mapping, opened.pretrained.tensors)
    if missing:
        raise CheckpointError(f"{name} lacks weights that its arrow needs: {', '.join(missing[:5])}")
    return mapping.eval()


def _target(kind: type[Target], state: Dict[str, Any]) -> Target:
    """A target as it was saved. Raises CheckpointError."""
    try:
        return kind(**state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{MANIFEST_FILE} holds no answers of kind {kind.kind!r}: {error}") from error


def copy_weights(mapping: Mapping, tensors: Dict[str, Tensor], other: Collection[str] = ()) -> list[str]:
    """Copy every weight of a start that the mapping has a place for; the names of those that stay new.

    A head is taken when it has the shape of the target's; of the kinds `other`, which have other classes than in the start,
    without what names these.
    """
    wanted = dict(mapping.named_parameters())
    missing = []
    with torch.no_grad():
        for name, parameter in wanted.items():
            found = tensors.get(weight_names.weight_name(mapping, name))
            head = name.startswith(("heads.", "pooler."))
            if found is None or (head and (_names_classes(mapping, name, other) or found.shape != parameter.shape)):
                missing.append(name)
            elif found.shape != parameter.shape:
                raise CheckpointError(f"{name} has shape {tuple(found.shape)}, expected {tuple(parameter.shape)}")
            else:
                parameter.copy_(found)
    return missing


def _names_classes(mapping: Mapping, name: str, kinds: Collection[str]) -> bool:
    """Whether a weight of a head, or of the pooler before heads, is there to name the classes of one of these kinds."""
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
    """Write the mapping so that `transformers` opens it too; mapsto.json comes last and makes the folder complete.

    findings: what the card says of where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = weight_names.published_task(mapping)
    telling = [t for t in mapping.targets if isinstance(t, Classes) and (t.exclusive or t.kind == task)]
    labels = next((target.classes for target in sorted(telling, key=lambda t: t.kind != task)), None)
    huggingface.save_pretrained(mapping, folder, labels)
    files.write_atomic(folder / CARD_FILE, render_model_card(mapping, provenance, scores or {}, findings).encode())
    names = (*MODEL_FILES, *sentence_transformers.SENTENCE_FILES)
    manifest = {
        "format": FORMAT,
        "arrow": str(mapping.arrow),
        "length": mapping.config.length,
        "targets": [{"kind": target.kind, "state": _plain_state(target)} for target in mapping.targets],
        "provenance": {**provenance, "versions": versions()},
        "scores": {name: asdict(value) for name, value in (scores or {}).items()},
        "files": {name: files.hash_file(folder / name) for name in names if (folder / name).exists()},
    }
    files.write_atomic(folder / MANIFEST_FILE, files.seal(manifest))


def _plain_state(target: Target) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(target.state()))
    return state
