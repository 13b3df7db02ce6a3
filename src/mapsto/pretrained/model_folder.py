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

from mapsto import __version__, kinds
from mapsto import files as checkpoint
from mapsto.errors import CheckpointError
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping, Unset
from mapsto.pretrained import huggingface as published
from mapsto.pretrained import sentence_transformers as sentence
from mapsto.pretrained import weight_names as weight_names_module
from mapsto.pretrained.model_card import card
from mapsto.sequence.corruption import Corruption
from mapsto.task import arrow as arrows
from mapsto.task.arrow import Arrow, Port
from mapsto.task.target import Target

FORMAT = 1


MANIFEST = "mapsto.json"


RUN = "run.json"


CARD = "README.md"


MODEL = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True)
class Opened:
    """A start of training or prediction: a published model, or a mapping that mapsto saved (then `manifest` is there)."""

    start: published.Start
    manifest: dict[str, Any] | None

    @property
    def classes(self) -> dict[str, list[str]]:
        """The classes that it answers, by kind; of several answers of a kind those of the first."""
        if self.manifest is None:
            return {self.start.answered: self.start.labels} if self.start.labels else {}
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


def open_start(name: str | Path) -> Opened:
    """Open a run's folder (its hashes are verified first), a model folder, or a hub name. Raises CheckpointError."""
    path = Path(name)
    manifest = None
    if (path / MANIFEST).exists():
        manifest = checkpoint.read_sealed(path / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path / MANIFEST} has format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        checkpoint.verify(path, manifest["files"])
    elif (path / RUN).exists():
        raise CheckpointError(f"{path} holds an unfinished run; run the same command again to finish it")
    return Opened(published.open(str(name)), manifest)


def load(name: str | Path) -> Mapping:
    """The mapping saved in a folder, or the one a published checkpoint amounts to, ready to predict in fp32."""
    opened = open_start(name)
    (kind,) = opened.start.sources
    if opened.manifest is not None:
        said = opened.manifest["arrow"]
        arrow = arrows.parse(said) if opened.manifest["targets"] else Arrow(arrows.parse_ports(said), ())
        states = [entry["state"] for entry in opened.manifest["targets"]]
        targets = [_target(*told) for told in zip(kinds.answering(arrow), states, strict=True)]
    elif opened.start.labels:
        arrow = Arrow((Port(kind),), (Port(opened.start.answered),))
        targets = [_target(kinds.target(opened.start.answered), {"classes": opened.start.labels})]
    elif any(key.startswith(f"{kinds.target(kind, restored=True).stem}.") for key in opened.start.tensors):
        arrow = arrows.parse(f"~{kind} -> {kind}")
        targets = [target() for target in kinds.answering(arrow)]
        objective = "masked" if opened.start.config.decoder is None else "mae"
        targets[0].restore(Corruption.of(objective, kinds.source(kind).objectives[objective], "token"))
    else:
        arrow, targets = Arrow((Port(kind),), ()), []
    length = None if opened.manifest is None else opened.manifest.get("length")
    with Unset():
        mapping = Mapping(arrow, replace(opened.start.config, length=length), opened.start.sources, targets)
    mapping.trained_with = opened.trained_with
    missing = take(mapping, opened.start.tensors)
    if missing:
        raise CheckpointError(f"{name} lacks weights that its arrow needs: {', '.join(missing[:5])}")
    return mapping.eval()


def _target(kind: type[Target], state: Dict[str, Any]) -> Target:
    """A target as it was saved. Raises CheckpointError."""
    try:
        return kind(**state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{MANIFEST} holds no answers of kind {kind.kind!r}: {error}") from error


def take(mapping: Mapping, tensors: Dict[str, Tensor], other: Collection[str] = ()) -> list[str]:
    """Copy every weight of a start that the mapping has a place for; the names of those that stay new.

    A head is taken when it has the shape of the target's; of the kinds `other`, which have other classes than in the start,
    without what names these.
    """
    wanted = dict(mapping.named_parameters())
    missing = []
    with torch.no_grad():
        for name, parameter in wanted.items():
            found = tensors.get(weight_names_module.start_name(mapping, name))
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
        return any(target.kind in kinds and target.way == "pooled" for target in mapping.targets)
    _, port, rest = name.split(".", 2)
    target = mapping.targets[int(port)]
    return target.kind in kinds and rest.startswith(target.naming)


def save(
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
    task = weight_names_module.task_of(mapping)
    telling = [t for t in mapping.targets if t.named or (t.kind == task and hasattr(t, "classes"))]
    labels = next((target.classes for target in sorted(telling, key=lambda t: t.kind != task)), None)
    published.save(mapping, folder, labels)
    checkpoint.write_atomic(folder / CARD, card(mapping, provenance, scores or {}, findings).encode())
    names = (*MODEL, *sentence.FILES)
    manifest = {
        "format": FORMAT,
        "arrow": str(mapping.arrow),
        "length": mapping.config.length,
        "targets": [{"kind": target.kind, "state": _plain_state(target)} for target in mapping.targets],
        "provenance": {**provenance, "versions": versions()},
        "scores": {name: asdict(value) for name, value in (scores or {}).items()},
        "files": {name: checkpoint.hash_file(folder / name) for name in names if (folder / name).exists()},
    }
    checkpoint.write_atomic(folder / MANIFEST, checkpoint.sealed(manifest))


def _plain_state(target: Target) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(target.state()))
    return state
