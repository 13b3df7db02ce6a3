"""Linear models of classical features, such as TF-IDF: `--method linear`, and what anyone would try first.

The features of a value are those of a LinearFeatures source. A logistic or ridge regression maps them to the outputs of
the targets. In the mapping, the embedder holds its weights, and the heads hold the biases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mapsto import kinds
from mapsto.data.rows import Rows
from mapsto.errors import UsageError
from mapsto.fitting.starting_model import StartingModel
from mapsto.model.config import ModelConfig
from mapsto.pretrained.huggingface import linear_source
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import LinearFeatures, LinearProbe
from mapsto.task.source import Source
from mapsto.task.target import Target

if TYPE_CHECKING:
    from mapsto.fitting.prepare import PreparedRun


def require_linear(arrow: Arrow, start: StartingModel) -> None:
    """Raise UsageError unless a linear model can read the sources of an arrow and give its answers."""
    if arrow.corrupted or not all(issubclass(target, LinearProbe) for target in kinds.answering(arrow)):
        raise UsageError(f"--method linear fits one answer a row, such as a label; {arrow} asks for others")
    if len(arrow.sources) > 1:
        raise UsageError(f"--method linear reads one value a row, and {arrow} has {len(arrow.sources)}")
    if start.config is not None:
        raise UsageError("--method linear makes a model of its own; leave --start and --like out")


def linear_sources(arrow: Arrow, rows: Rows, say: Callable[[str], None]) -> dict[str, Source]:
    """Return the source of a linear model, fitted to the values of the rows, by its kind. Raises UsageError."""
    (port,) = arrow.sources
    source = linear_source(kinds.source(port.kind)).new(rows.sources[0])
    say(f"made {source}")
    return {port.kind: source}


def fit_width(config: ModelConfig, targets: Sequence[Target]) -> ModelConfig:
    """Return the configuration of a linear model whose tokens have as many channels as all targets have outputs."""
    return replace(config, transformer=replace(config.transformer, width=sum(map(_num_outputs, targets))))


def _num_outputs(target: Target) -> int:
    """Return the number of outputs of a target's linear head."""
    bias: Any = target.head(1, None).get_parameter("bias")
    return len(bias)


def fit_linear(run: PreparedRun) -> None:
    """Set the weights of a linear model to the best ones for the training rows, a regression for each target.

    Channel i of the embedded tokens is output i, so that the weights of the heads are parts of an identity matrix.
    """
    mapping = run.mapping
    ((kind, source),) = mapping.sources.items()
    assert isinstance(source, LinearFeatures)
    features = source.features([run.examples.pieces[row][0] for row in range(len(run.examples))])
    columns, first = [], 0
    for port in range(len(mapping.targets)):
        weight, bias = _fit_target(run, port, features)
        identity = torch.eye(mapping.config.transformer.width)[first : first + len(bias)]
        _copy(mapping.heads[port], {"weight": identity, "bias": bias})
        columns.append(weight.T)
        first += len(bias)
    _copy(mapping.embedders[kind], {"weight": torch.cat(columns, dim=1)})


def _fit_target(run: PreparedRun, port: int, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (c, f) and bias (c,) of the regression of a target's answers on features (n, f)."""
    target, answers = run.mapping.targets[port], run.examples.answers
    assert isinstance(target, LinearProbe) and answers is not None
    values = [encoded[port] for encoded in answers.encoded]
    labelled = [row for row, value in enumerate(values) if value is not None]
    encoded = np.array([value.values for value in values if value is not None])
    return target.probe(features[labelled], encoded, run.options.seed)


def _copy(module: torch.nn.Module, values: Dict[str, torch.Tensor]) -> None:
    """Set parameters of a module by name."""
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)
