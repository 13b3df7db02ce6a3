"""Export a model: trace its graph, check it on the user's rows, and write it sealed with all that answering needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mapsto import files
from mapsto.data.table import Table
from mapsto.errors import DataError, RunError, UsageError
from mapsto.evaluation.training_file import read_held_out_rows, read_training_rows
from mapsto.export.graph import Untraceable, fix_shapes, trace
from mapsto.export.ir import convert_to_ir
from mapsto.export.parity import Parity, make_examples, measure_parity
from mapsto.export.quantization import CALIBRATION_EXAMPLES, HIGHER_PRECISION, trace_int8
from mapsto.model.familiarity import sample_rows
from mapsto.model.mapping import Mapping
from mapsto.options import require_choice
from mapsto.pretrained import model_folder
from mapsto.pretrained.exported.container import (
    FORMAT,
    RECORD_KEY,
    SUFFIX,
    Graph,
    exported_files,
    file_entries,
    has_seal,
    seal_files,
)
from mapsto.pretrained.exported.engines import ENGINES, ENGINES_OF
from mapsto.pretrained.exported.interface import (
    HIDDEN,
    batch_inputs,
    compute_outputs,
    source_examples,
    to_arrays,
    writes_answers,
)
from mapsto.pretrained.exported.ir_files import IR_SUFFIX, weights_path
from mapsto.pretrained.exported.opening import PARITY_FILE, Record, kept_rows, largest_difference
from mapsto.pretrained.exported.session import Session
from mapsto.pretrained.exported.session_mapping import SessionMapping
from mapsto.pretrained.huggingface import WEIGHTS_FILE
from mapsto.pretrained.manifest import MANIFEST_FILE
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import collate
from mapsto.task.target_capabilities import TwiceRead

# The formats, each with the suffix of its file.
FORMATS = {"onnx": SUFFIX, "int8": SUFFIX, "openvino": IR_SUFFIX}
# The most rows on which parity is measured, drawn at random, fewer where each answer is written token by token; of these so many
# are kept in the file by default.
MAX_ROWS, MAX_WRITTEN_ROWS, KEPT_ROWS = 2000, 200, 4
# The largest difference of an output in fp32, see `largest_difference`.
TOLERANCE = 1e-4
AGREEMENT = 0.99
# What int8 may change on another processor if it changed nothing here.
LEAST_INT8_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export.

    to: "onnx" (fp32), "int8" (ONNX), or "openvino" (fp32). agreement: smallest share of equal answers of an int8 file.
    kept_rows: number of rows whose tokens and outputs are kept in the file, to check it on other processors; 0 keeps nothing of
        the user's rows.
    """

    to: str = "onnx"
    agreement: float = AGREEMENT
    kept_rows: int = KEPT_ROWS

    def __post_init__(self) -> None:
        require_choice("to", self.to, tuple(FORMATS))
        if not 0 < self.agreement <= 1:
            raise UsageError(f"--agreement is a share of equal answers, above 0 and at most 1, not {self.agreement}")
        if self.kept_rows < 0:
            raise UsageError(f"--kept-rows is a number of rows, 0 or more, not {self.kept_rows}")

    @property
    def suffix(self) -> str:
        """The suffix of the file."""
        return FORMATS[self.to]


@dataclass(frozen=True)
class Export:
    """The result of an export: the files, their size in bytes, and their parity with the model.

    path: the .onnx or .xml file, by which the model is opened; the weights of the latter are in a .bin file beside it.
    rows: the rows that parity was measured on, in words. higher_precision: for int8 what was left in fp32, and why.
    """

    path: Path
    num_bytes: int
    parity: Parity
    rows: str
    higher_precision: str = ""

    def lines(self) -> list[str]:
        """Return what was measured and written, in sentences."""
        parity = self.parity
        change = parity.probability_change
        change_text = "" if change is None else f", mean change of their probability {change:.2g}"
        notes = [self.higher_precision] if self.higher_precision else []
        return [
            f"on {self.rows}: equal answers {parity.agreement.percent}{change_text}; largest difference of an output "
            f"{parity.difference:.2g} ({parity.output})",
            *notes,
            f"wrote {' and '.join(map(str, exported_files(self.path)))}, {self.num_bytes / 2**20:.1f} MB",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the export in JSON types."""
        notes = {"higher_precision": self.higher_precision} if self.higher_precision else {}
        return {
            "path": str(self.path),
            "bytes": self.num_bytes,
            "rows": self.rows,
            "parity": self.parity.to_json(),
            **notes,
        }


def export_mapping(
    mapping: Mapping,
    out: Path,
    table: Table | None = None,
    settings: ExportSettings | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Export:
    """Export a model to the file `out`, for OpenVINO with its weights beside it, after its parity was checked on the user's rows.

    table: the rows; None for those that the model's fit held out. say: prints a line on what is done.
    Raises UsageError for a model that cannot be exported, DataError without rows to check the export on, and RunError if parity
    fails; then nothing is written.
    """
    settings = settings or ExportSettings()
    require_exportable(mapping, settings)
    require_output(out, settings)
    rows = _choose_rows(mapping, table)
    reference = mapping.for_prediction(torch.device("cpu"), "fp32")
    examples = make_examples(reference, rows.table)
    fix_shapes(reference, examples)
    say(f"tracing the graph of {mapping.arrow}")
    higher_precision = ""
    if settings.to == "int8":
        measured, name = _choose_calibration(mapping, reference, examples)
        higher_precision = f"{HIGHER_PRECISION} Ranges are those of {name}."
        graph = Graph(_serialise(trace_int8(reference, measured)))
    else:
        graph = Graph(_serialise(trace(reference, examples)))
        graph = convert_to_ir(graph.content) if settings.to == "openvino" else graph
    session = ENGINES[ENGINES_OF[settings.suffix][0]](graph, out)
    say(f"checking it on {rows.description}: the model and the graph answer them, one after the other")
    parity = measure_parity(reference, SessionMapping(reference, session, out), rows.table)
    _require_parity(parity, settings, higher_precision)
    contents, weights = _folder_contents(mapping, out)
    tolerance = TOLERANCE
    if settings.kept_rows:
        contents[PARITY_FILE], tolerance = _keep_rows(reference, session, examples[: settings.kept_rows], settings)
    record = Record(
        FORMAT, "int8" if settings.to == "int8" else "fp32", sorted(session.input_names), session.output_names, weights,
        session.describe_processor(), tolerance, parity.to_json(), higher_precision,
    )  # fmt: skip
    text = json.dumps(record.to_json(), ensure_ascii=False)
    sealed = seal_files(out, graph, {RECORD_KEY: text, **file_entries(contents)})
    num_bytes = sum(map(len, sealed.values()))
    files.require_space(out.parent, num_bytes)
    _write(sealed)
    return Export(out, num_bytes, parity, rows.description, higher_precision)


def require_exportable(mapping: Mapping, settings: ExportSettings) -> None:
    """Raise UsageError for a model that cannot be exported, or not in this format, with the reason."""
    mapping.require_weights("export")
    for embedder in mapping.embedders.values():
        if isinstance(embedder, Untraceable):
            raise UsageError(
                f"{mapping.arrow} ({mapping.config.family}) {embedder.untraceable}; it is served as a folder"
            )
    if writes_answers(mapping) and len(mapping.targets) > 1:
        raise UsageError(
            f"{mapping.arrow} writes one of several answers token by token; only models with a single answer of that kind are "
            "exported"
        )
    if writes_answers(mapping) and settings.to == "int8":
        raise UsageError(
            f"{mapping.arrow} writes its answers token by token, which is exported in fp32 only: leave --to int8 out"
        )
    if any(isinstance(target, TwiceRead) for target in mapping.targets):
        raise UsageError(
            f"{mapping.arrow} is read twice for an answer, which no exported graph does; it is served as a folder"
        )
    if mapping.decoded_ports:
        raise UsageError(
            f"{mapping.arrow} fills in hidden parts with a decoder, which is not exported; fit it to answers first"
        )
    if mapping.config.is_linear:
        raise UsageError(
            "a linear model (--method linear) has no network to export; its folder is small and fast as it is"
        )


def require_output(out: Path, settings: ExportSettings) -> None:
    """Raise UsageError unless `out` names a new or an exported file in a folder that exists, with the suffix of its format."""
    if out.suffix.lower() != settings.suffix:
        raise UsageError(f"--out {out}: with --to {settings.to} an exported model has the ending {settings.suffix}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UsageError(f"--out {out}: it is a folder; name a file in it, such as {out / f'model{settings.suffix}'}")
    if out.exists() and not has_seal(out):
        raise UsageError(f"--out {out}: this file is there, and no export wrote it; name another --out")
    if settings.suffix == IR_SUFFIX and out.exists() != weights_path(out).exists():
        present, absent = sorted((out, weights_path(out)), key=Path.exists, reverse=True)
        raise UsageError(
            f"--out {out}: {present.name} is there without {absent.name}, so no export wrote it; name another --out"
        )


@dataclass(frozen=True)
class _Rows:
    """The rows to check an export on, and what they are in words."""

    table: Table
    description: str


def _choose_rows(mapping: Mapping, table: Table | None) -> _Rows:
    """Return the rows of a table, or some if they are many; None for those that the model's fit held out.

    Raises DataError without rows.
    """
    name = "the given rows"
    if table is None:
        name = "the held-out rows"
        if mapping.fit_record is None:
            raise DataError(
                "this model names no rows that it was tested on: name rows like those it will read, with --rows"
            )
        try:
            held_out = read_held_out_rows(mapping.arrow, mapping.fit_record)
        except DataError as error:
            raise DataError(f"{error}: name rows to check the export on, with --rows") from error
        if not len(held_out):
            raise DataError(
                "the fit held out no rows to check the export on: name rows that it has not seen, with --rows"
            )
        table = held_out.own_table()
    count, limit = len(table), MAX_WRITTEN_ROWS if writes_answers(mapping) else MAX_ROWS
    if not count:
        raise DataError("there are no rows to check the export on")
    if count > limit:
        table = table.select(sample_rows(count, 0, limit).tolist())
        return _Rows(table, f"{limit:,} of {name} ({count:,})")
    return _Rows(table, f"{name} ({count:,})")


def _choose_calibration(
    mapping: Mapping, reference: Mapping, examples: Sequence[Example]
) -> tuple[Sequence[Example], str]:
    """Return the examples by whose activations int8 is set, and what they are in words.

    They are of the training rows where these are found; else the first of `examples`, on which parity is checked.
    """
    if mapping.fit_record is not None:
        with suppress(DataError):
            table = read_training_rows(mapping.arrow, mapping.fit_record).own_table()
            table = table.select(sample_rows(len(table), 0, CALIBRATION_EXAMPLES).tolist())
            return make_examples(reference, table), f"{len(table):,} training rows"
    count = min(len(examples), CALIBRATION_EXAMPLES)
    return examples[:count], f"{count:,} of the rows that it is checked on, for want of training rows"


def _serialise(proto: Any) -> bytes:
    """Return the bytes of an `onnx.ModelProto`, without the tracer's notes, which name files and lines of this machine."""
    for entry in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del entry.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    return bytes(proto.SerializeToString())


def _require_parity(parity: Parity, settings: ExportSettings, higher_precision: str) -> None:
    """Raise RunError if the parity of a graph is not what its format promises."""
    if settings.to != "int8" and not parity.difference <= TOLERANCE:
        raise RunError(
            f"the exported graph computes something else: {parity.output} differs by {parity.difference:.2g}, and {TOLERANCE:g} "
            "is allowed; nothing was written"
        )
    if settings.to == "int8" and not parity.agreement.value >= settings.agreement:
        raise RunError(
            f"in int8 only {parity.agreement.percent} of the answers are those of fp32, and --agreement asks for "
            f"{100 * settings.agreement:g} %; nothing was written. {higher_precision}"
        )


def _keep_rows(
    reference: Mapping, session: Session, examples: Sequence[Example], settings: ExportSettings
) -> tuple[bytes, float]:
    """Return (inputs and outputs of the examples as bytes, the difference that is allowed on other processors)."""
    inputs = batch_inputs(reference, collate(source_examples(reference, examples)))
    content = kept_rows(session, to_arrays(inputs))
    if settings.to != "int8":
        return content, TOLERANCE
    # Another processor may change as much as int8 did here.
    with torch.inference_mode():
        expected = to_arrays(compute_outputs(reference, inputs))
    del expected[HIDDEN]
    return content, max(LEAST_INT8_TOLERANCE, largest_difference(session.run(to_arrays(inputs)), expected)[0])


def _folder_contents(mapping: Mapping, out: Path) -> tuple[dict[str, bytes], dict[str, list[int]]]:
    """Return the contents of the files of a mapping's model folder by name, without weights; and the shape of each weight."""
    with TemporaryDirectory(dir=out.parent, prefix=files.TEMPORARY_PREFIX) as name:
        folder = Path(name)
        model_folder.save_mapping(mapping, folder, _provenance(mapping, out))
        weights = {key: list(tensor.shape) for key, tensor in files.open_tensors(folder / WEIGHTS_FILE).items()}
        saved = [folder / file for file in (*model_folder.SAVED_FILES, MANIFEST_FILE) if file != WEIGHTS_FILE]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in saved if path.exists()}, weights


def _provenance(mapping: Mapping, out: Path) -> dict[str, Any]:
    """Return the provenance by which the training rows of an exported model are found again."""
    record = mapping.fit_record
    if record is None:
        return {}
    return record.to_provenance(out.parent)


def _write(sealed: Dict[Path, bytes]) -> None:
    """Write the files of an exported model. Several replace older ones at once, the last one of `sealed` last."""
    if len(sealed) == 1:
        ((path, content),) = sealed.items()
        files.write_atomic(path, content)
        return
    path = list(sealed)[-1]
    with files.replacing_files(path.parent, path.name) as staging:
        for file, content in sealed.items():
            files.write_synced(staging / file.name, content)
