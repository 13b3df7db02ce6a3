"""Linear probes on frozen features, linear models of classical features, and calibration on held-out rows.

A probe costs one forward pass over the rows and a linear fit (logistic or ridge regression), and no training steps. A
linear model (`--method linear`) has no network at all: its features are classical ones, such as TF-IDF.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto.data.examples import Examples
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.fitting.prepare import PreparedRun
from mapsto.inference.forward import collect_evidence, forward_batches
from mapsto.model.mapping import Mapping
from mapsto.task.capabilities import Classes, LinearFeatures, LinearProbe


def extract_features(mapping: Mapping, examples: Examples, device: torch.device) -> NDArray[np.float32]:
    """Return the pooled vector of each example, (n, d), from one forward pass without augmentation.

    The pooled vector is the input of every head with one answer per example.
    """
    mapping.eval()
    # A probe sees each row once, so it should see the row itself.
    unaugmented = examples.without_augmentation()
    features: NDArray[np.float32] = np.zeros((len(unaugmented), mapping.config.pooled_width), np.float32)
    stream = (unaugmented.example(row, 0, 0.0) for row in range(len(unaugmented)))
    for batch, hidden in forward_batches(mapping, stream, device):
        features[batch.rows] = mapping.pooled_vectors(hidden, batch).float().cpu().numpy()
    return features


def fit_probe(run: PreparedRun, base_features: NDArray[np.float32] | None = None) -> None:
    """Fit a linear model to the frozen pooled vectors for each head that reads them, and set the head's weights to it.

    base_features: the pooled vectors (n, d) before contrastive training; None without contrastive training. The
        strength of regularisation is chosen on them, because the vectors after contrastive training fit the training
        answers too well.
    """
    mapping = run.mapping
    features = extract_features(mapping, run.examples, run.device)
    for port, target in enumerate(mapping.targets):
        answers = run.examples.answers.encoded if run.examples.answers is not None else ()
        # Rows without an answer to this target teach its head nothing.
        labelled = [(row, answer) for row, ports in enumerate(answers) if (answer := ports[port]) is not None]
        if not isinstance(target, LinearProbe) or not labelled:
            continue
        rows, values = [row for row, _ in labelled], np.array([answer.values for _, answer in labelled])
        base = None if base_features is None else base_features[rows]
        parameters = target.probe(features[rows], values, run.options.seed, base)
        with torch.no_grad():
            for parameter, value in zip(mapping.heads[port].parameters(), parameters, strict=True):
                parameter.copy_(value)


def calibrate(run: PreparedRun, say: Callable[[str], None]) -> list[float]:
    """Calibrate the heads for classes on the held-out rows by temperature scaling (Guo et al. 2017).

    Return the temperatures of the calibrated heads, in the order of the targets; a head with too few held-out rows
    stays as it is.
    say: prints a message about each calibrated head.
    """
    if run.held_out is None or run.is_pretraining or not run.mapping.targets:
        return []
    mapping = run.mapping.eval()
    temperatures = []
    for port, outputs in collect_evidence(mapping, scoring_examples(run.held_out), run.device).items():
        target = mapping.targets[port]
        if not isinstance(target, Classes):
            continue
        temperature = target.calibrate(mapping.heads[port], outputs.evidence, outputs.values)
        if temperature is not None:
            say(f"confidence set by {len(outputs.values):,} held-out rows: logits divided by {temperature:.2f}")
            temperatures.append(round(temperature, 4))
    return temperatures


def fit_linear(run: PreparedRun) -> None:
    """Set the weights of a linear model to the best ones for the training rows, by a regression for each target.

    The embedding of an example holds all outputs of all targets, so its matrix gets the fitted weights. Each head has
    only to pick its target's outputs, so its matrix is some rows of an identity matrix, beside the fitted bias.
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
    """Return weight (outputs, features) and bias (outputs,) of a regression of one target's answers on features.

    port: the index of the target. features: (rows, features), one row per training example; those without an answer are
        left out.
    """
    target, answers = run.mapping.targets[port], run.examples.answers
    assert isinstance(target, LinearProbe) and answers is not None
    values = [encoded[port] for encoded in answers.encoded]
    labelled = [row for row, value in enumerate(values) if value is not None]
    encoded = np.array([value.values for value in values if value is not None])
    return target.probe(features[labelled], encoded, run.options.seed)


def _copy(module: torch.nn.Module, values: Dict[str, torch.Tensor]) -> None:
    """Copy tensors into the parameters of a module; values: by parameter name, each with the parameter's shape."""
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)
