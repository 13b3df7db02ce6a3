"""The Python API: `Model`, which has the verbs, and the functions that make one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.active_learning import Pool, Suggestions
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
from mapsto.fitting import run_folder
from mapsto.fitting.fit import pretrain_mapping
from mapsto.fitting.search import search_and_fit
from mapsto.inference import embedder
from mapsto.inference.predictor import Predictor
from mapsto.model.mapping import Mapping
from mapsto.options import OptionFields, Options
from mapsto.pretrained import model_folder
from mapsto.progress import Progress
from mapsto.task.capabilities import FileBacked


class Model:
    """A trained or published model, ready to answer.

    device, precision: as of `--device` and `--precision`.

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
        """Answer one example: one value for each source of the arrow, in order. Raises UsageError if it is unreadable."""
        ports = self.mapping.arrow.sources
        if len(values) != len(ports):
            raise UsageError(f"this model reads {len(ports)} values ({self.mapping.arrow}), not {len(values)}")
        row = {port.column or port.kind: value for port, value in zip(ports, values, strict=True)}
        answer = next(self.predictor.answer(read_table([row])))
        if "error" in answer:
            raise UsageError(answer["error"])
        return answer

    @property
    def predictor(self) -> Predictor:
        """The model on its device, in its precision; made at first use."""
        if self._predictor is None:
            self._predictor = Predictor(self.mapping, self.device, self.precision)
        return self._predictor

    def predict(self, data: Any) -> list[dict[str, Any]]:
        """Answer every row of a table or value of a list, in order; {"error": reason} for one that cannot be read."""
        return list(self.predictor.answer(read_table(self._rows(data))))

    def complete(self, values: Sequence[object], hide: float = 0.5, seed: int = 0, mask: Any = None) -> list[Any]:
        """Hide parts of values and fill them in; return texts, or pixels (h, w, 3) in the size in which the model reads them.

        hide: the share of each value to hide at random.
        mask: hide what this picture of the same size marks (not black) instead; one for all values, or a list of one for each.

        Raises UsageError for a model that was not pretrained to fill in, and for masks that do not fit.
        """
        return self.predictor.complete(values, hide, seed, mask)

    def evaluate(self, data: Any, bad_rows: str = "stop") -> Evaluation:
        """Score the model on a table with answers; each score has its number of items and a 95 % interval.

        bad_rows: "skip" leaves out unreadable rows, at most 1 %. Raises DataError for unreadable rows.
        """
        return evaluate_mapping(self.predictor.mapping, read_table(data), self.predictor.device, bad_rows)

    def embed(self, values: Sequence[object], pooling: str | None = None) -> NDArray[np.float32]:
        """Compute one vector per value, (n, d).

        pooling: "first", "mean" or "normed_mean"; by default as the model was trained to give vectors.
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
        """Attribute each answer to the parts of its input; of one value, a list of values, or a table.

        method: "relevance" (AttnLRP), "gradient" (× input), "integrated" (gradients, in `steps` steps) or "occlusion".
        sample: rows to measure the faithfulness of the explanations on; by default those explained.

        Raises UsageError for values that cannot be read.
        """
        explainer = attribution.Explainer(copy.deepcopy(self.mapping), choose_device(self.device), method, steps)
        single_value = isinstance(data, str) and not self.is_table_name(data)
        sample_rows = None if sample is None else read_table(sample)
        return explain_table(explainer, read_table(self._rows([data] if single_value else data)), sample_rows, progress)

    def is_table_name(self, text: str) -> bool:
        """Return whether a text names a table for this model, and is not a value."""
        port = self.mapping.arrow.sources[0]
        return is_table_name(text, folders=issubclass(kinds.source(port.kind), FileBacked))

    def suggest(self, pool: Any, n: int = 50, labelled: Any = None, known: int = 0, seed: int = 0) -> Suggestions:
        """Choose `n` rows of `pool` to label next; see `mapsto.active_learning.suggest`.

        labelled: rows with labels, which are not suggested again.
        known: how many rows the model was fitted to, where `labelled` does not hold them.
        """
        labelled_rows = None if labelled is None else read_table(labelled)
        return suggest_rows(self.predictor, Pool(read_table(self._rows(pool)), labelled_rows, known), n, seed)

    def save(self, path: str | Path) -> None:
        """Write a model folder that mapsto and transformers open. Raises UsageError if it holds something else."""
        folder = Path(path)
        run_folder.require_free(folder, overwrite=False)
        model_folder.save_mapping(self.mapping, folder, {})

    def _rows(self, data: Any) -> Any:
        """Return a plain list of values as rows of the arrow's one source; other data as it is."""
        if isinstance(data, list | tuple) and data and not isinstance(data[0], Dict):
            port = self.mapping.arrow.sources[0]
            return [{port.column or port.kind: value} for value in data]
        return data


def load(name: str | Path, device: str = "auto", precision: str = "auto") -> Model:
    """Open the model in a folder, or of a hub name. Raises CheckpointError when it is damaged, unsafe or not supported."""
    return Model(model_folder.load_mapping(name), device, precision)


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
    progress: Progress | None = None,
    overwrite: bool = False,
    options: Options | None = None,
    **fields: Unpack[OptionFields],
) -> Model:
    """Fit a model to a table: learn the answers that an arrow names from what it reads.

    arrow: the task, such as "text -> label".
    data: a path, a DataFrame, a list of dicts or a Hugging Face data set.
    test: the same, scored at the end; training never sees it.
    out: the run's folder; an unfinished run in it is continued, exact to the bit.
    start: the starting model: a folder, a hub name or a Model.
    like: a folder whose shape and tokenizer to take, with random weights.
    search: how many other settings to try first, on held-out rows; no trial begins after `search_minutes`.
    fields: single options, see `mapsto.options.Options`; or `options`, all of them.

    Raises UsageError, DataError, CheckpointError, RunError.

    >>> clf = mapsto.fit("text -> label", rows, start="runs/base", epochs=3)  # doctest: +SKIP
    """
    run = _options(fit, options, fields)
    mapping = search_and_fit(
        arrow, data, out, search=search, search_minutes=search_minutes, start=_mapping_of(start), like=like, test=test,
        options=run, progress=progress or Progress(), overwrite=overwrite,
    )  # fmt: skip
    return Model(mapping, run.device, run.precision)


def pretrain(
    what: str,
    data: Any,
    out: str | Path | None = None,
    *,
    start: str | Path | Model | Mapping | None = None,
    like: str | Path | None = None,
    test: Any = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    options: Options | None = None,
    **fields: Unpack[OptionFields],
) -> Model:
    """Pretrain on data without labels: hide parts of each value and learn to fill them in.

    what: a kind such as "text", or an arrow with `~`. The other arguments are those of `fit`.
    """
    run = _options(pretrain, options, fields)
    mapping = pretrain_mapping(
        what, data, out, start=_mapping_of(start), like=like, test=test, options=run,
        progress=progress or Progress(), overwrite=overwrite,
    )  # fmt: skip
    return Model(mapping, run.device, run.precision)


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
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    options: Options | None = None,
    **fields: Unpack[OptionFields],
) -> Comparison:
    """Measure what pretraining is worth: fit every starting model with few and many labels, and score all on the same rows.

    out: a folder that keeps the finished fits and gets report.html and results.json.
    test: rows to score on; by default a fifth of the data is kept for it.
    starts: folders, hub names and "scratch" (random weights).
    labels: numbers of labels, and "all". seeds: how often they are drawn.
    methods: how starting models are fitted, of "full", "probe", "contrast".
    shift: rows from another source, scored too.
    jobs: fits at once, by default one for every two cores.
    fields: single options, see `mapsto.options.Options`; or `options`, all of them.

    Raises UsageError, DataError, CheckpointError, RunError.

    >>> mapsto.compare("text -> label", rows, starts=["scratch", "runs/base"], labels=[16, 64])  # doctest: +SKIP
    """
    request = Request(arrow, data, test, starts, labels, seeds, methods, shift, _options(compare, options, fields))
    folder = None if out is None else Path(out)
    experiment = run_comparison(request, folder, jobs, progress, overwrite)
    comparison = analyse(experiment)
    if folder is not None:
        write_report(folder, comparison, experiment)
    return comparison


def _mapping_of(start: str | Path | Model | Mapping | None) -> str | Path | Mapping | None:
    """Return the mapping of a Model; anything else as it is."""
    return start.mapping if isinstance(start, Model) else start


def _options(function: Callable[..., Any], options: Options | None, fields: Dict[str, Any]) -> Options:
    """Return the options of a call. Raises UsageError for a keyword that `function` does not take."""
    names = {*get_type_hints(OptionFields), *inspect.signature(function).parameters}
    for name in fields:
        if name not in names:
            raise UsageError(f"no option {name!r}{near(name, names)}")
    if fields and options is not None:
        raise UsageError("give options=Options(…) or single options, not both")
    return options or Options(**fields)
