"""What Python users hold: a mapping with the verbs on it, and the functions that make one."""

from __future__ import annotations

import copy
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.active_learning import Suggestions
from mapsto.active_learning import suggest as suggest_rows
from mapsto.comparison.analysis import Comparison, analyse
from mapsto.comparison.design import Request
from mapsto.comparison.report import write_report
from mapsto.comparison.runs import run_comparison
from mapsto.data.table import is_table_name, read_table
from mapsto.device import choose_device
from mapsto.errors import UsageError, near
from mapsto.evaluation.evaluate import Evaluation
from mapsto.evaluation.evaluate import evaluate as evaluate_mapping
from mapsto.explain import attribution
from mapsto.explain.faithfulness import Explanations, explain_table
from mapsto.fitting import run_folder, search
from mapsto.fitting.fit import pretrain_mapping
from mapsto.inference import embedder
from mapsto.inference.predictor import Predictor
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.pretrained import model_folder
from mapsto.progress import Progress
from mapsto.task.capabilities import FileBacked


class Model:
    """A trained or published mapping, ready to answer.

    >>> model("今天天气真好！")  # doctest: +SKIP
    {'label': 'positive', 'probability': 0.97, 'scores': {'negative': 0.03, 'positive': 0.97}}
    """

    def __init__(self, mapping: Mapping, device: str = "auto", precision: str = "auto") -> None:
        self.mapping, self.device, self.precision = mapping, device, precision
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.mapping.parameters())
        return f"<mapsto.Model {str(self.mapping.arrow)!r}, {self.mapping.config.family}, {parameters / 1e6:.1f}M parameters>"

    def __call__(self, *values: object) -> dict[str, Any]:
        """The answer for one example: one value for each source of the arrow, in order. Raises ValueError if unreadable."""
        ports = self.mapping.arrow.sources
        if len(values) != len(ports):
            raise UsageError(f"this model reads {len(ports)} values ({self.mapping.arrow}), not {len(values)}")
        named = {port.column or port.kind: value for port, value in zip(ports, values, strict=True)}
        answer = next(self.predictor.answer(read_table([named])))
        if "error" in answer:
            raise UsageError(answer["error"])
        return answer

    @property
    def predictor(self) -> Predictor:
        """The mapping on its device, in its precision; made once."""
        if self._predictor is None:
            self._predictor = Predictor(self.mapping, self.device, self.precision)
        return self._predictor

    def predict(self, data: Any) -> list[dict[str, Any]]:
        """One answer a row, in order, of a table or a list of values; {"error": reason} where a row cannot be read."""
        return list(self.predictor.answer(read_table(self._table(data))))

    def complete(self, values: Sequence[object], hide: float = 0.5, seed: int = 0, mask: Any = None) -> list[Any]:
        """Each value with the share `hide` of it, or what a `mask` marks, hidden and filled in again: text, or pixels (h, w, 3)
        in the size in which the model reads them. mask: a picture as large, not black where it is to be filled in, for all values
        or a list of one for each. Raises UsageError for a model that puts nothing back, and for masks that do not fit."""
        return self.predictor.complete(values, hide, seed, mask)

    def evaluate(self, data: Any, bad_rows: str = "stop") -> Evaluation:
        """Scores on a table with answers, each with its number of items and 95 % interval. Raises DataError for bad rows,
        unless `bad_rows` is "skip" and they are at most 1 %."""
        return evaluate_mapping(self.predictor.mapping, read_table(data), self.predictor.device, bad_rows)

    def embed(self, values: Sequence[object], pooling: str | None = None) -> NDArray[np.float32]:
        """One vector a value, (n, d); `pooling` is "first", "mean" or "normed_mean", by default the model's own.

        Raises UsageError naming the value that cannot be read.
        """
        return embedder.embed(self.predictor.mapping, values, self.predictor.device, pooling)

    def explain(
        self,
        data: Any,
        method: str = attribution.DEFAULT_METHOD,
        sample: Any = None,
        steps: int = attribution.DEFAULT_STEPS,
        progress: Progress | None = None,
    ) -> Explanations:
        """Which parts of each value decided, in order: of one value, a list of values, or a table.

        method: "relevance" (AttnLRP), "gradient" (× input), "integrated" (gradients, in `steps` steps) or "occlusion".
        sample: rows to measure on how faithful the explanations are; by default those explained. Raises UsageError for
        values that cannot be read.
        """
        given = [data] if isinstance(data, str) and not self.is_table_name(data) else data
        explainer = attribution.Explainer(copy.deepcopy(self.mapping), choose_device(self.device), method, steps)
        measured = sample if sample is None else read_table(sample)
        return explain_table(explainer, read_table(self._table(given)), measured, progress)

    def is_table_name(self, text: str) -> bool:
        """Whether a text names a table for this model, and is no value."""
        port = self.mapping.arrow.sources[0]
        return is_table_name(text, folders=issubclass(kinds.source(port.kind), FileBacked))

    def suggest(self, pool: Any, n: int = 50, labelled: Any = None, known: int = 0, seed: int = 0) -> Suggestions:
        """`n` rows of `pool` worth a label next; see `mapsto.suggest.suggest`."""
        table, given = read_table(self._table(pool)), None if labelled is None else read_table(labelled)
        return suggest_rows(self.mapping, table, n, given, known, seed, self.device, self.precision)

    def save(self, path: str | Path) -> None:
        """Write a folder that mapsto and transformers open. Raises UsageError if it holds something else."""
        target = Path(path)
        run_folder.require_free(target, overwrite=False)
        model_folder.save_mapping(self.mapping, target, {})

    def _table(self, data: Any) -> Any:
        """A plain list of values becomes rows of the arrow's one source."""
        if isinstance(data, list | tuple) and data and not isinstance(data[0], Dict):
            port = self.mapping.arrow.sources[0]
            return [{port.column or port.kind: value} for value in data]
        return data


def load(name: str | Path, device: str = "auto", precision: str = "auto") -> Model:
    """The model in a folder, or of a hub name. Raises CheckpointError when it is damaged, unsafe or not supported."""
    return Model(model_folder.load_mapping(name), device, precision)


def fit(arrow: str, data: Any, out: str | Path | None = None, **given: Any) -> Model:
    """Fit the map that `arrow` names; see `mapsto.fitting.fit.fit_mapping`. Fields of Options are taken as keywords.

    search, search_minutes: trials of other settings before it; see `mapsto.search.search_and_fit`.

    >>> clf = mapsto.fit("text -> label", rows, start="runs/base", epochs=3)  # doctest: +SKIP
    """
    return _trained(search.search_and_fit, arrow, data, out, given)


def pretrain(what: str, data: Any, out: str | Path | None = None, **given: Any) -> Model:
    """Pretrain on values without labels: `what` is a kind such as "text", or an arrow with `~`."""
    return _trained(pretrain_mapping, what, data, out, given)


def compare(arrow: str, data: Any, out: str | Path | None = None, **given: Any) -> Comparison:
    """What did the pretraining buy? Fits from every start with several numbers of labels, scored on the same rows; see
    `mapsto.comparison.runs.run_comparison`. Fields of Options are taken as keywords.

    out: a folder that keeps finished fits and gets report.html and results.json. test: rows to score on, else a fifth of the
    data. starts: folders, hub names and "scratch". labels: numbers, and "all". seeds: how many draws of them. shift: rows
    from elsewhere. methods: of "full", "probe", "contrast". jobs: fits at once.

    >>> mapsto.compare("text -> label", rows, starts=["scratch", "runs/base"], labels=[16, 64])  # doctest: +SKIP
    """
    design_names = ("test", "starts", "labels", "seeds", "methods", "shift")
    run_names = ("jobs", "overwrite", "progress")
    design = {name: given.pop(name) for name in design_names if name in given}
    run = {name: given.pop(name) for name in run_names if name in given}
    options = _options(given, {*design_names, *run_names})
    folder = None if out is None else Path(out)
    experiment = run_comparison(Request(arrow, data, options=options, **design), folder, **run)
    comparison = analyse(experiment)
    if folder is not None:
        write_report(folder, comparison, experiment)
    return comparison


def _options(given: dict[str, Any], others: set[str]) -> Options:
    """The Options among the keywords `given`, which are taken out. Raises UsageError for a keyword that is none."""
    names = {field.name for field in fields(Options)}
    for name in given:
        if name not in names | others | {"options"}:
            raise UsageError(f"no option {name!r}{near(name, names | others)}")
    chosen = {name: given.pop(name) for name in list(given) if name in names}
    if chosen and "options" in given:
        raise UsageError("give options=Options(…) or single options, not both")
    found: Options = given.pop("options", None) or Options(**chosen)
    return found


def _trained(call: Any, first: str, data: Any, out: str | Path | None, given: dict[str, Any]) -> Model:
    known = {"start", "like", "test", "progress", "overwrite"}
    known |= {"search", "search_minutes"} if call is search.search_and_fit else set()
    options = _options(given, known)
    if isinstance(given.get("start"), Model):
        given["start"] = given["start"].mapping
    mapping = call(first, data, out, options=options, progress=given.pop("progress", None) or Progress(), **given)
    return Model(mapping, options.device, options.precision)
