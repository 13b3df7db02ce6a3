"""Open an exported file as a mapping, after its parity was checked again where the processor is another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from mapsto import files
from mapsto.errors import CheckpointError, MapstoError
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.container import read_sealed
from mapsto.pretrained.exported.engines import ENGINES
from mapsto.pretrained.exported.interface import HIDDEN, IS_STEP, KEYS, VALUES, Array, StepInputs
from mapsto.pretrained.exported.session import Session
from mapsto.pretrained.exported.session_mapping import SessionMapping

# The file in the metadata that has the inputs and outputs of the kept rows, with these prefixes of their names.
PARITY_FILE, INPUT_PREFIX, OUTPUT_PREFIX = "parity.safetensors", "input:", "output:"

# Returns the mapping of (folder without weights, weights on the meta device, folder from which the training file is looked for).
LoadSkeleton = Callable[[Path, Dict[str, Tensor], Path], Mapping]


@dataclass(frozen=True)
class Record:
    """The record in an exported file, beside the files of its model folder.

    format: version of the file format. precision: "fp32" or "int8". inputs, outputs: names of the graph's inputs and outputs.
    weights: shape of each weight of the model folder, by its published name. processor: where parity was measured.
    tolerance: largest difference of an output that is allowed on the kept rows on another processor, see `largest_difference`.
    parity: what was measured on the user's rows, in words and numbers.
    higher_precision: for int8 what was left in fp32, and why.
    """

    format: int
    precision: str
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, list[int]]
    processor: str
    tolerance: float
    parity: dict[str, Any]
    higher_precision: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record in JSON types."""
        return asdict(self)


def open_exported(path: Path, load_skeleton: LoadSkeleton, engine: str) -> SessionMapping:
    """Return the mapping of an exported file. The file is parsed only after its hash was checked, and no code of it is run.

    engine: "onnx" or "openvino".
    Raises CheckpointError for a file that is damaged, foreign or of a newer format, and if its outputs on the kept rows differ on
    this processor, or in another engine than the one that they were measured in; UsageError without the engine's package.
    """
    graph, entries, contents = read_sealed(path)
    try:
        record = Record(**entries)
        weights = {name: torch.empty(shape, device="meta") for name, shape in record.weights.items()}
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no record of mapsto: {error}") from error
    parity = contents.pop(PARITY_FILE, None)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, file_content in contents.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            files.write_synced(folder / file, file_content)
        try:
            skeleton = load_skeleton(folder, weights, path.resolve().parent)
        except MapstoError as error:
            # The folder is nothing that users know of.
            raise CheckpointError(str(error).replace(str(folder), str(path))) from error
    session = ENGINES[engine](graph, path)
    if parity is not None and record.processor != session.describe_processor():
        _require_parity(session, parity, record, path)
    return SessionMapping(skeleton, session, path)


def read_exported_manifest(path: Path) -> dict[str, Any]:
    """Return the content of the mapsto.json in an exported file, and of its record under "exported", without shapes of weights.

    Raises CheckpointError as `open_exported`.
    """
    _, entries, contents = read_sealed(path)
    record = {name: value for name, value in entries.items() if name != "weights"}
    return {**json.loads(contents["mapsto.json"]), "exported": record}


def largest_difference(outputs: Dict[str, Array], expected: Dict[str, Array]) -> tuple[float, str]:
    """Return the largest difference of an output from what is expected, and the output's name.

    Hidden states may have a few very large channels, so differences are divided by an output's largest number if that exceeds 1.
    """
    differences = [
        (float(np.abs(outputs[name] - array).max()) / max(1.0, float(np.abs(array).max())), name)
        for name, array in expected.items()
        if array.size
    ]
    # A number that is not finite differs from everything.
    return max((difference if difference == difference else float("inf"), name) for difference, name in differences)


def kept_rows(session: Session, inputs: Dict[str, Array]) -> bytes:
    """Return the inputs of the kept rows, and what a session computes from them, as the bytes of a safetensors file."""
    tensors = {INPUT_PREFIX + name: array for name, array in inputs.items()}
    tensors |= {OUTPUT_PREFIX + name: array for name, array in _compute_kept(session, inputs).items()}
    return safetensors.numpy.save(tensors)


def _compute_kept(session: Session, inputs: Dict[str, Array]) -> dict[str, Array]:
    """Return the small outputs of a session for the kept rows; for a model that writes its answers, also those of a step.

    The step reads a token 0 in each row, behind the sources.
    """
    outputs = session.run(inputs)
    large = {HIDDEN, KEYS, VALUES}
    found = {name: array for name, array in outputs.items() if name not in large}
    if KEYS in outputs:
        step = session.run(_step_behind(session, outputs))
        found |= {f"{name} of a step": array for name, array in step.items() if name not in large and array.size}
    return found


def _step_behind(session: Session, outputs: Dict[str, Array]) -> dict[str, Array]:
    """Return the inputs of a step behind all tokens of each row. outputs: with the keys and values of these tokens."""
    keys, values = (np.ascontiguousarray(outputs[name].swapaxes(2, 3)) for name in (KEYS, VALUES))  # (m, r, h, l, e)
    rows, length = keys.shape[1], keys.shape[3]
    tokens, lengths = np.zeros((rows, 1), np.int64), np.full(rows, length)
    if session.reads_memory:
        past = session.empty("past_keys", rows, 1)
        step = StepInputs(tokens, tokens, past, past, lengths, keys, values)
    else:
        step = StepInputs(tokens, lengths[:, None], keys[:, :, None], values[:, :, None])
    return {IS_STEP: np.array([True]), **step.named()}


def _require_parity(session: Session, parity: bytes, record: Record, path: Path) -> None:
    """Raise CheckpointError if the outputs for the kept rows differ from those in the file by more than its tolerance."""
    try:
        tensors = safetensors.numpy.load(parity)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} holds no whole parity rows: {error}") from error
    inputs, expected = (
        {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        for prefix in (INPUT_PREFIX, OUTPUT_PREFIX)
    )
    difference, name = largest_difference(_compute_kept(session, inputs), expected)
    if difference > record.tolerance:
        raise CheckpointError(
            f"{path} answers differently here: {name} of the kept rows differs by {difference:.2g}, and "
            f"{record.tolerance:.2g} is allowed; export it on this machine, or with --to onnx. "
            f"Here: {session.describe_processor()}. There: {record.processor}"
        )
