"""The Python API: the class `Model`, and the functions `fit`, `pretrain`, `compare`, `load` and `push`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.active_learning.suggestions import Pool, Suggestions
from mapsto.active_learning.suggestions import suggest as suggest_rows
from mapsto.comparison.analysis import Comparison, analyse
from mapsto.comparison.design import Request
from mapsto.comparison.report import write_report
from mapsto.comparison.runs import run_comparison
from mapsto.data.table import is_table_file, is_table_name, read_table
from mapsto.device import choose_device
from mapsto.errors import UsageError, shorten
from mapsto.errors.wording import worded
from mapsto.evaluation.evaluate import Evaluation
from mapsto.evaluation.evaluate import evaluate as evaluate_mapping
from mapsto.evaluation.paired import compare_models
from mapsto.explain import attribution
from mapsto.explain.faithfulness import Explanations, explain_table
from mapsto.export.export import AGREEMENT, KEPT_ROWS, Export, ExportSettings, export_mapping
from mapsto.fitting import run_folder
from mapsto.fitting.fit import pretrain_mapping
from mapsto.inference import embedder
from mapsto.inference.find import Finder, SearchSettings, make_finder
from mapsto.inference.predictor import Predictor, read_value
from mapsto.inference.voice_conversion import VoiceConverter
from mapsto.keywords import list_options, read_options
from mapsto.media.cells import is_media_cell
from mapsto.media.value_lists import collect, is_column, list_values, to_list
from mapsto.model.mapping import Mapping
from mapsto.options import (
    FOR_HIDING,
    MAX_SKIPPED,
    NOT_FOR_HIDING,
    SET_BY_COMPARE,
    OptionFields,
    Options,
    RowPolicy,
    TextFormat,
)
from mapsto.pretrained import hub, manifest, model_folder
from mapsto.pretrained.exported.container import is_exported
from mapsto.pretrained.location import HUB_PREFIX, find_folder
from mapsto.progress import Progress
from mapsto.progress.python import NOTE, MapstoWarning, Recorder, python_progress, warn
from mapsto.report.results import Answers
from mapsto.report.run_report import FoldReport, RunReport
from mapsto.selection.search import search_and_fit
from mapsto.task.arrow import Arrow, parse
from mapsto.task.capabilities import FileBacked
from mapsto.task.generation import Decoding
from mapsto.training.loggers import read_metrics

__all__ = ["Decoding", "MapstoWarning", "Model", "Options", "compare", "fit", "load", "pretrain", "push"]


class Model:
    """A trained or published model with methods to predict, evaluate, embed, explain and save.

    device: "auto", "cpu", "cuda" or "mps". precision: "auto", "bf16" or "fp32"; for models that generate their answers, on a CPU,
    also "int4": weights of 4 bits.
    A model can be pickled and copied by its owner; both go through the files that `save` writes.

    >>> model("今天天气真好！")  # doctest: +SKIP
    {'label': 'positive', 'probability': 0.97, 'scores': {'negative': 0.03, 'positive': 0.97}, 'familiar': 0.62}
    """

    def __init__(
        self,
        mapping: Mapping,
        device: str = "auto",
        precision: str = "auto",
        report: RunReport | Callable[[], RunReport] | None = None,
    ) -> None:
        self.mapping, self.device, self.precision = mapping, device, precision
        # Of a saved run it is read at first use, since its training may have had a million steps.
        self._report = report or RunReport(str(mapping.arrow))
        self._predictor: Predictor | None = None
        self._last_finder: Finder | None = None

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.mapping.parameters())
        return f"<mapsto.Model {str(self.mapping.arrow)!r}, {self.mapping.config.family}, {parameters / 1e6:.1f}M parameters>"

    def __call__(self, *values: object, decoding: Decoding | None = None) -> dict[str, Any]:
        """Return the model's answer to one example as a dict, such as {"label": "positive", …}.

        values: one value for each source of the arrow, in order, also as one tuple; or one dict with the value of each column.
        decoding: as for `predict`.
        Raises UsageError for a value that cannot be read, or for another number of values.
        """
        predictor = self.predictor if decoding is None else self.predictor.with_settings(0.0, 0.0, decoding)
        answer = next(predictor.answer(read_table([self._row(values)])))
        if "error" in answer:
            raise UsageError(answer["error"])
        return answer

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the files of the model (safetensors, JSON) for `pickle`, and not its objects."""
        with TemporaryDirectory() as name:
            folder = Path(name) / "model"
            model_folder.save_mapping(self.mapping, folder, {})
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            }
        return _unpack_model, (files, self.device, self.precision, self.report)

    def __copy__(self) -> Model:
        return Model(self.mapping, self.device, self.precision, self._report)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return Model(copy.deepcopy(self.mapping, memo), self.device, self.precision, self._report)

    @property
    def report(self) -> RunReport:
        """The scores, findings and held-out curves of the run that fitted the model; without scores for a published model."""
        if not isinstance(self._report, RunReport):
            self._report = self._report()
        return self._report

    @property
    def predictor(self) -> Predictor:
        """The predictor that runs the model on its device and in its precision, created at first use."""
        if self._predictor is None:
            self._predictor = Predictor(self.mapping, self.device, self.precision)
        return self._predictor

    def predict(
        self,
        data: Any,
        min_confidence: float = 0.0,
        reject: float = 0.0,
        decoding: Decoding | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quiet: bool = False,
    ) -> Answers:
        """Return one answer (a dict) for each row of a table, or value of a list, Series, array or iterator, in order.

        They are a list that is shown as a table, with the method `to_pandas`.
        The answer to a row that cannot be read is {"error": reason}.
        min_confidence: an answer with a lower probability is withheld: it becomes None, and its probability stays.
        reject: an answer to a row that is less familiar than this is withheld; 0.05 rejects about 5 % of rows like the training
            rows.
        decoding: how generated answers are searched for, such as `mapsto.Decoding(beams=4)`; None for the likeliest token at each
            step.
        encoding, delimiter: of text files, where they do not tell it themselves.
        quiet: do not warn of rows that could not be answered.

        Raises UsageError if the model gives no probability, keeps no training rows to compare with, or generates nothing.
        """
        predictor = self.predictor.with_settings(min_confidence, reject, decoding)
        rows = self._rows(data)
        if isinstance(rows, list | tuple) and not rows:
            return Answers()
        num_cut = predictor.cut_rows
        answers = Answers(predictor.answer(read_table(rows, TextFormat(encoding, delimiter))))
        for answer in answers:
            if "error" in answer:
                answer["error"] = worded(answer["error"])
        num_failed = sum("error" in answer for answer in answers)
        if num_failed and not quiet:
            warn(f'{num_failed:,} of {len(answers):,} rows could not be answered; their answer {{"error": …}} says why')
        if predictor.cut_rows > num_cut and not quiet:
            warn(f"{predictor.cut_rows - num_cut:,} rows are longer than the model takes and were cut")
        return answers

    def stream(self, *values: object, decoding: Decoding | None = None) -> Iterator[str]:
        """Yield the parts of the generated answer to one example, such as words, as soon as they are chosen.

        values: one value for each source of the arrow, in order. decoding: as for `predict`, without beams and samples.
        Raises UsageError for a model that generates no text, and for values that cannot be read.
        """
        (parts,) = self.predictor.with_settings(0.0, 0.0, decoding).stream([self._row(values)])
        return parts

    def complete(self, values: Sequence[object], hide: float = 0.5, seed: int = 0, mask: Any = None) -> list[Any]:
        """Hide parts of values and return the values as the model fills them in: texts, or for pictures pixels (h, w, 3).

        A picture is returned in the size in which the model reads pictures.
        hide: the share of each value to hide at random. seed: for the random choice of the hidden parts.
        mask: a picture of the value's size, whose non-black pixels are hidden instead; one for all values, or a list of masks.

        Raises UsageError for a model that was not pretrained to fill in hidden parts, and for masks that do not fit.
        """
        return self.predictor.complete(values, hide, seed, mask)

    def convert(self, values: Sequence[object], like: Any, layer: int | None = None) -> list[tuple[Any, int]]:
        """Return what each recording says in the voice of other recordings, as (samples (n,), rate), without training (kNN-VC).

        values: recordings in any form. like: those of the voice: a folder, a table or a list of recordings.
        layer: the number of the layer whose output is compared, from 1; by default that at four fifths of all layers.

        Raises UsageError for a model that does not read sounds, and for recordings that cannot be read.
        """
        converter = VoiceConverter(self.mapping, self._rows(like), self.device, self.precision, layer)
        return [converter.convert(read_value(converter.source, value, index)) for index, value in enumerate(values)]

    def evaluate(
        self,
        data: Any,
        bad_rows: str = "stop",
        most_skipped: float = MAX_SKIPPED,
        unlabelled: str = "stop",
        encoding: str | None = None,
        delimiter: str | None = None,
        group: str | None = None,
        against: str | Path | Model | None = None,
        quiet: bool = False,
    ) -> Evaluation:
        """Return the scores of the model on a table with true answers, each with its number of items and 95 % interval.

        bad_rows: "stop" raises DataError for unreadable rows; "skip" leaves them out, up to the share `most_skipped` of all rows.
        unlabelled: "drop" leaves rows without a label out, "stop" takes them for unreadable.
        encoding, delimiter: of text files, where they do not tell it themselves.
        group: the column, such as "speaker", of the groups of rows that intervals resample; "none" for rows. By default columns
            of recordings are found by their names.
        against: another model, such as the one of last month, which is scored on the same rows; the notes tell the difference.
        quiet: show no progress, and warn of nothing; the notes are in the result all the same.
        """
        progress = python_progress(quiet)
        table = read_table(data, TextFormat(encoding, delimiter))
        for remark in table.remarks_on(table.columns):
            progress.say(f"note: {remark}")
        policy = RowPolicy(bad_rows, most_skipped, unlabelled, group=group)
        evaluation = evaluate_mapping(self.predictor.mapping, table, self.predictor.device, policy, progress=progress)
        if against is not None:
            rival = against if isinstance(against, Model) else load(against, self.device, self.precision)
            name = repr(rival) if against is rival else str(against)
            partner = evaluate_mapping(
                rival.predictor.mapping, table, rival.predictor.device, policy, progress=progress
            )
            evaluation = evaluation.beside(compare_models(evaluation, partner, name))
        for note in evaluation.notes:
            progress.say(f"note: {note}")
        return evaluation

    def embed(self, values: Any, pooling: str | None = None) -> NDArray[np.float32]:
        """Return one vector for each value of a list, Series, array or table, (n, d).

        pooling: "first", "mean" or "normed_mean" of the hidden states; by default the pooling that the model was trained with.
        Raises UsageError, which names the first value that cannot be read.
        """
        values = collect(values)
        column = list_values(values)
        if column is None and not isinstance(values, str | bytes):
            table = read_table(values)
            column = table.column(embedder.bind_side(self.mapping.arrow, table, (0, 1)).sources[0].column or "")
        return embedder.embed(
            self.predictor.mapping, values if column is None else column, self.predictor.device, pooling
        )

    def find(
        self,
        queries: str | Sequence[str],
        among: Any,
        top: int = 10,
        index: str | Path | None = None,
        column: str | None = None,
        size: int | None = None,
        exact: bool = False,
        group: str | None = None,
    ) -> list[Any]:
        """Return for each query the `top` most similar texts of a table, the best first: {"score", "row", "index", cells}.

        For a single query (a str) return its list alone. "score" is the cosine; "row" is the number of the row in its file, as in
        messages and as `mapsto find` writes it (in Python objects counted from 1); "index" is its place in `among`, from 0.
        Equal texts are found once. The model may be any that embeds texts.
        among: a table in any form, or a list of texts, which are embedded once.
        index: a folder that keeps their vectors for the next call; None keeps them in memory, until another `among` is searched.
        column: the column to search; None for that of the model, or the only one with texts.
        size: compare only so many numbers of each vector, as trained with `sizes`.
        group: the column, such as "speaker", of rows that are found as one, by the mean of their vectors; "none" for single rows.
        exact: compare all texts, also above a million, where an approximate index is used if it is worth building; a warning
            says so.

        Raises UsageError for a column that is missing or ambiguous and for queries that cannot be read.
        """
        texts = [queries] if isinstance(queries, str) else to_list(queries)
        folder = None if index is None else Path(index)
        finder = self._finder(among, SearchSettings(folder, column, size, folder is not None, group))
        answers = [
            [{**finder.describe(match, ("index",)), "index": match.row} for match in matches]
            for matches in finder.find(texts, top, exact)
        ]
        return answers[0] if isinstance(queries, str) else answers

    def _finder(self, among: Any, settings: SearchSettings) -> Finder:
        """Return the finder among the texts of a table: the one of the last call if the texts are the same."""
        among = collect(among)
        if (values := list_values(among)) is not None:
            among = [{self.mapping.arrow.sources[-1].kind: text} for text in values]
        table, finder = read_table(among), self._last_finder
        if finder is None or finder.settings != settings or finder.table.fingerprint != table.fingerprint:
            finder = make_finder(self.predictor.mapping, self.predictor.device, table, settings, _warn_of_note)
            self._last_finder = finder
        return finder

    def explain(
        self,
        data: Any,
        method: str = attribution.DEFAULT_METHOD,
        sample: Any = None,
        steps: int = attribution.DEFAULT_STEPS,
        progress: Progress | None = None,
        token: str | int | None = None,
    ) -> Explanations:
        """Attribute each answer of the model to the parts of its input, such as words or patches.

        data: one value, a list of values, one row as a dict of cells, or a table.
        method: "relevance" (AttnLRP), "gradient" (× input), "integrated" (integrated gradients) or "occlusion".
        sample: rows on which the faithfulness of the explanations is measured; by default the rows of `data`.
        steps: the number of steps of integrated gradients. progress: shows how many rows are explained.
        token: of a generated answer the token to explain, by its number from 1 or its text; by default the whole answer.

        Raises UsageError for values that cannot be read.
        """
        # A copy, since the explainer moves the mapping to its device and to fp32.
        device = choose_device(self.device)
        explainer = attribution.Explainer(copy.deepcopy(self.mapping), device, method, steps, token)
        # A text may be a value to explain or the name of a table of values, and a dict a row or a table of columns.
        is_row = isinstance(data, Dict) and all(isinstance(cell, str | int | float) for cell in data.values())
        single_value = is_row or _is_picture(data) or (isinstance(data, str) and not self.is_table_name(data))
        sample_rows = None if sample is None else read_table(sample)
        return explain_table(explainer, read_table(self._rows([data] if single_value else data)), sample_rows, progress)

    def is_table_name(self, text: str) -> bool:
        """Return whether `text` names a table (a file or folder), rather than being a value for this model to read."""
        port = self.mapping.arrow.sources[0]
        return is_table_name(text, folders=issubclass(kinds.source(port.kind), FileBacked))

    def suggest(self, pool: Any, n: int = 50, labelled: Any = None, known: int = 0, seed: int = 0) -> Suggestions:
        """Choose up to `n` rows of `pool`, a table or a list of values, whose labels would improve the model most.

        labelled: rows that have labels already; equal rows of the pool are not suggested.
        known: the number of labelled rows that the model was fitted to, if you do not give `labelled`.
        seed: for clustering, and for sampling a very large pool.
        """
        labelled_rows = None if labelled is None else read_table(labelled)
        return suggest_rows(self.predictor, Pool(read_table(self._rows(pool)), labelled_rows, known), n, seed)

    def save(self, path: str | Path) -> None:
        """Write the model, and the scores of a cross-validation, to a folder that mapsto and transformers can open.

        Raises UsageError if the folder already holds a model or other files.
        """
        folder = Path(path)
        run_folder.require_free(folder, overwrite=False)
        folds = self.report.folds
        # The table of the answers stays in the folder of the run.
        record = {} if folds is None else {"folds": replace(folds, answers_file=None).to_json()}
        model_folder.save_mapping(self.mapping, folder, record)

    def export(
        self,
        path: str | Path,
        to: str = "onnx",
        rows: Any = None,
        agreement: float = AGREEMENT,
        kept_rows: int = KEPT_ROWS,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> Export:
        """Write the model to a file that ONNX Runtime or OpenVINO opens, after its answers were checked on rows of yours.

        `mapsto.load` opens the file like a folder, for predictions, vectors and scores.
        path: the file, with the ending .onnx, or .xml for OpenVINO, whose weights are in a .bin file beside it.
        to: "onnx" (fp32), "int8" (ONNX), or "openvino" (fp32).
        rows: a table or a list of values like those the model will read; by default the rows that its fit held out.
        agreement: the smallest share of rows whose answer in int8 is that in fp32.
        kept_rows: the number of rows whose tokens are kept in the file, to check it again on other processors; 0 keeps none.
        encoding, delimiter: of text files, where they do not tell it themselves.

        Raises UsageError for a model that cannot be exported, DataError without rows, and RunError if the check fails.
        """
        table = None if rows is None else read_table(self._rows(rows), TextFormat(encoding, delimiter))
        return export_mapping(self.mapping, Path(path), table, ExportSettings(to, agreement, kept_rows))

    def push(self, name: str, *, public: bool = False, progress: Progress | None = None) -> str:
        """Send the model to the Hugging Face hub, as the function `push` does with a folder; its card has no scores.

        name, public, progress: as for `push`. Raises its errors.
        """
        with TemporaryDirectory() as folder:
            model_folder.save_mapping(self.mapping, Path(folder), {})
            return push(folder, name, public=public, progress=progress)

    def _row(self, values: Sequence[object]) -> dict[str, object]:
        """Return the values of one example as a row; a single dict is one already.

        Raises UsageError for another number of values than the arrow's sources.
        """
        arrow = self.mapping.arrow
        ports = (arrow.pair if arrow.symmetric else arrow).sources
        if len(values) == 1 and isinstance(values[0], Dict) and not is_media_cell(values[0]):
            return dict(values[0])
        if len(values) == 1 < len(ports) and isinstance(values[0], tuple | list) and len(values[0]) == len(ports):
            values = values[0]  # a pair, as tables of pairs have them
        if len(values) != len(ports):
            raise UsageError(f"this model reads {len(ports)} values ({self.mapping.arrow}), not {len(values)}")
        if arrow.is_grouped:  # both sides have the name of one column
            return {
                f"{port.kind} {number}": value
                for number, (port, value) in enumerate(zip(ports, values, strict=True), 1)
            }
        return {port.column or port.kind: value for port, value in zip(ports, values, strict=True)}

    def _rows(self, data: Any) -> Any:
        """Return a list of values as rows {first source's column: value}; return a table in any form unchanged.

        Raises UsageError for a single value, which could as well be a file's name that is misspelt.
        """
        reads_files = issubclass(kinds.source(self.mapping.arrow.sources[0].kind), FileBacked)
        is_text = isinstance(data, str) and not reads_files and not self.is_table_name(data)
        if is_text or _is_picture(data):
            name = repr(shorten(data)) if is_text else f"a single {type(data).__name__}"
            raise UsageError(f"{name} is no table and no file; to ask of one value, call the model: model(value)")
        data = collect(data)
        values = list_values(data)
        if values and len(self.mapping.arrow.sources) > 1 and all(isinstance(value, tuple | list) for value in values):
            return [self._row((value,)) for value in values]
        return data if values is None else _as_rows(self.mapping.arrow, values)


def _is_picture(data: Any) -> bool:
    """Return whether an object is one picture of a library such as Pillow, and no array, which may hold several."""
    return hasattr(data, "__array_interface__") and not isinstance(data, np.ndarray) and not is_column(data)


def _as_rows(arrow: Arrow, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return values as rows with the column of an arrow's first source."""
    port = arrow.sources[0]
    return [{port.column or port.kind: value} for value in values]


def push(folder: str | Path, name: str, *, public: bool = False, progress: Progress | None = None) -> str:
    """Send the finished model in a folder, with its card, to the Hugging Face hub; return its address there.

    name: the model of the hub, as "user/name"; it is made if it does not exist. public: let everyone read it.
    progress: prints what is sent, and what it tells of the training data, before it is sent.

    Raises UsageError for a wrong name, and for a public model where `public` is not set; CheckpointError for a folder without a
    finished model; RunError if the hub does not take it.
    """
    return hub.push(Path(folder), name, public=public, say=(progress or Progress()).say)


def load(name: str | Path, device: str = "auto", precision: str = "auto", engine: str = "local") -> Model:
    """Open a model from a folder, an exported file, or the Hugging Face hub by its name (`hf:user/name`).

    engine: what computes an exported file, "onnx" (ONNX Runtime) or "openvino"; "local" chooses by its form, and takes a folder
        too.
    Raises CheckpointError when the model is damaged, unsafe to open or of an unsupported family, and UsageError for an
        engine that does not open it or is not installed.
    """
    mapping = model_folder.load_mapping(name, engine)
    if is_exported(name):
        return Model(mapping, device, precision)
    # The report is read later, perhaps from another working folder.
    place = str(name) if str(name).startswith(HUB_PREFIX) else str(Path(name).expanduser().absolute())
    return Model(mapping, device, precision, partial(_read_report, place, str(mapping.arrow)))


def _read_report(name: str, title: str) -> RunReport:
    """Return the report of the run in a model folder. name: of the folder, or of a model of the hub."""
    folder = find_folder(name)
    record = manifest.read_manifest(folder) or {}
    return RunReport.of_saved(title, str(folder), record, read_metrics(folder, _warn_of_note))


def _unpack_model(files: dict[str, bytes], device: str, precision: str, report: RunReport) -> Model:
    """Return the model whose files `Model.__reduce__` has packed, by their names."""
    with TemporaryDirectory() as name:
        for file, content in files.items():
            path = Path(name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Model(model_folder.load_mapping(name), device, precision, report)


@list_options()
def fit(
    arrow: str,
    data: Any,
    out: str | Path | None = None,
    *,
    start: str | Path | Model | Mapping | None = None,
    like: str | Path | None = None,
    test: Any = None,
    search: int | None = None,
    search_minutes: float | None = None,
    folds: int | None = None,
    progress: Progress | None = None,
    quiet: bool = False,
    overwrite: bool = False,
    options: Options | None = None,
    **fields: Unpack[OptionFields],
) -> Model:
    """Fit a model to a table with answers, and return it.

    arrow: the task, from what the model reads to what it answers, such as "text -> label".
    data: a path, a DataFrame, a list of dicts or a Hugging Face data set.
    test: rows in one of the same forms that training never sees; the model is scored on them at the end.
    out: the run's folder; an unfinished run in it is resumed, bit for bit.
    start: the starting model: a folder, `hf:user/name` of the hub, or a Model; None for random weights.
    like: a model folder or hub name whose architecture and tokenizer are used, with random weights.
    search: the number of hyperparameter trials on held-out rows before the fit.
    search_minutes: no trial begins after this many minutes.
    folds: the number of folds of a cross-validation before the fit, whose scores are in `report.folds`.
    quiet: show no progress and warn of nothing; by default progress goes to the log "mapsto" (in notebooks below the cell), and
        what affects the result is warned of. progress: shows it in another form.
    overwrite: replace another run in `out`. options: all options in one object, mapsto.Options, in place of single ones.

    Raises UsageError for a wrong argument, DataError for rows that cannot be used, CheckpointError for a starting model that
    cannot be opened, and RunError for a run that cannot start or continue, such as on a full disk.

    >>> clf = mapsto.fit("text -> label", rows, start="runs/base", epochs=3)  # doctest: +SKIP
    """
    run = read_options(fit, options, fields)
    if run.unlabelled == "predict" and out is None:
        raise UsageError('unlabelled="predict" writes the answers to the folder of the run: name it with out=')
    recorder = Recorder(progress or python_progress(quiet))
    mapping = search_and_fit(
        arrow, data, out, search=search, search_minutes=search_minutes, folds=folds, start=_mapping_of(start), like=like,
        test=test, options=run, progress=recorder, overwrite=overwrite,
    )  # fmt: skip
    return Model(mapping, run.device, run.precision, _report(mapping, recorder, out))


@list_options(refused=NOT_FOR_HIDING)
def pretrain(
    what: str,
    data: Any,
    out: str | Path | None = None,
    *,
    start: str | Path | Model | Mapping | None = None,
    like: str | Path | None = None,
    test: Any = None,
    progress: Progress | None = None,
    quiet: bool = False,
    overwrite: bool = False,
    options: Options | None = None,
    **fields: Unpack[OptionFields],
) -> Model:
    """Pretrain a model on data without labels, by hiding parts of each value and learning to fill them in; return it.

    what: a kind of value such as "text", or an arrow whose `~` marks what is partly hidden, such as "~text -> text".
    data, out, start, like, test, progress, quiet, overwrite, options: as for `fit`.
    """
    run = read_options(pretrain, options, fields)
    data = collect(data)
    if (values := list_values(data)) and not all(map(is_table_file, values)):
        data = _as_rows(parse(what if "->" in what else f"~{what} -> {what}"), values)
    recorder = Recorder(progress or python_progress(quiet))
    mapping = pretrain_mapping(
        what, data, out, start=_mapping_of(start), like=like, test=test, options=run,
        progress=recorder, overwrite=overwrite,
    )  # fmt: skip
    return Model(mapping, run.device, run.precision, _report(mapping, recorder, out))


def _report(mapping: Mapping, recorder: Recorder, out: str | Path | None) -> RunReport:
    """Return the report of a run from what it said to its progress output."""
    record, final, folder = recorder.record, recorder.record.final, None if out is None else str(out)
    return RunReport(
        f"{mapping.arrow}{f', {final.rows}' if final.rows else ''}{final.mark}", final.scores, final.baseline,
        final.baseline_name, record.notes, record.curves, folder, FoldReport.of(record.folds, folder),
    )  # fmt: skip


@list_options(refused=(*SET_BY_COMPARE, *FOR_HIDING))
def compare(
    arrow: str,
    data: Any,
    out: str | Path | None = None,
    *,
    test: Any = None,
    starts: Sequence[str] = Request.starts,
    labels: Sequence[int | str] = Request.labels,
    seeds: int = Request.seeds,
    methods: Sequence[str] = Request.methods,
    shift: Any = None,
    allow_overlap: bool = Request.allow_overlap,
    jobs: int | None = None,
    progress: Progress | None = None,
    quiet: bool = False,
    overwrite: bool = False,
    options: Options | None = None,
    **fields: Unpack[OptionFields],
) -> Comparison:
    """Compare starting models: fit each with several numbers of labels, and score all fits on the same test rows.

    out: a folder for the finished fits, report.html and results.json.
    test: rows to score on; by default a fifth of the data is set apart.
    starts: starting models, as folders or `hf:user/name` of the hub, and "scratch" for random weights.
    labels: numbers of labelled rows, or "all". seeds: how many random samples of each number are fitted.
    methods: how each model is fitted: "full" (all weights), "probe" (linear probe), "contrast" (contrastive, then a probe).
    shift: further rows to score on, from another source (distribution shift).
    allow_overlap: compare also starting models that were fitted to some of these rows, with their names marked; by
        default they raise UsageError.
    jobs: how many fits run at the same time, by default one for every two cores.
    progress, quiet, options: as for `fit`.

    Raises UsageError for a wrong argument, DataError for rows that cannot be used, CheckpointError for a starting model that
    cannot be opened, and RunError for a run that cannot start or continue, such as on a full disk.

    >>> mapsto.compare("text -> label", rows, starts=["scratch", "runs/base"], labels=[16, 64])  # doctest: +SKIP
    """
    settings = read_options(compare, options, fields)
    request = Request(arrow, data, test, starts, labels, seeds, methods, shift, settings, allow_overlap)
    folder = None if out is None else Path(out)
    experiment = run_comparison(request, folder, jobs, progress or python_progress(quiet), overwrite)
    comparison = analyse(experiment)
    if folder is not None:
        write_report(folder, comparison, experiment)
    return comparison


def _warn_of_note(text: str) -> None:
    """Turn a note of a search into a Python warning; other lines tell of progress and are not shown."""
    if text.startswith(NOTE):
        warn(text)


def _mapping_of(start: str | Path | Model | Mapping | None) -> str | Path | Mapping | None:
    """Return the network of a Model with its arrow (a Mapping); return any other `start` unchanged."""
    mapping = start.mapping if isinstance(start, Model) else start
    if isinstance(mapping, Mapping):
        mapping.require_weights("start a fit")
    return mapping
