"""Linear probes on frozen features, linear models of classical features, and calibration.

A probe costs one forward pass over the rows and a linear fit (logistic or ridge regression), and no training steps. A
linear model (`--method linear`) has no network at all: its features are classical ones, such as TF-IDF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.data.examples import Examples
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.fitting.prepare import PreparedRun
from mapsto.fitting.request import MethodChoice
from mapsto.inference.forward import (
    RowReader,
    collect_evidence,
    familiarity_vectors,
    forward_batches,
    make_questions,
    read_rows,
)
from mapsto.metrics.calibration import Answered, fit_temperature, logit_scale
from mapsto.model.familiarity import Familiarity, sample_rows
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.task.generation import Generated
from mapsto.task.source_capabilities import LinearFeatures
from mapsto.task.target_capabilities import Calibratable, Composed, LinearProbe, ProbeSettings

# Random variants of each example that a probe is fitted to beside the example itself, where examples are augmented.
AUGMENTED_VIEWS = 3
# With fewer held-out rows, a temperature fitted on them is worse than none.
MIN_ROWS_TO_CALIBRATE = 100
# Penalty of the direction in place of a missing bias, relative to the mean square of a vector's length.
RIDGE = 1e-4
# The most training rows on which the scale of logits is measured.
SCALE_ROWS = 256


def extract_features(
    mapping: Mapping, examples: Examples, device: torch.device, view: int = 0, rows: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Return the pooled vector of each example, (n, d), from one forward pass.

    The pooled vector is the input of every head with one answer per example.
    view: 0 for the examples themselves; other numbers each give another random variant, if examples are augmented.
    rows: the indices of the n examples; None for all.
    """
    mapping.eval()
    view_examples = replace(examples, mixing=None) if view else examples.without_augmentation()
    rows = range(len(view_examples)) if rows is None else rows
    features: NDArray[np.float32] = np.zeros((len(rows), mapping.config.pooled_width), np.float32)
    stream = (replace(view_examples.example(row, 0, 0.0, view), row=place) for place, row in enumerate(rows))
    for batch, hidden in forward_batches(mapping, stream, device):
        features[batch.rows] = mapping.pooled_vectors(hidden, batch).float().cpu().numpy()
    return features


def fit_probe(
    run: PreparedRun, base_features: NDArray[np.float32] | None = None, starts_training: bool = False
) -> None:
    """Fit a linear model to the frozen pooled vectors for each head that reads them, and set the head's weights to it.

    The vectors also become the mapping's familiarity.
    base_features: the pooled vectors (n, d) before contrastive training; None without contrastive training. The
        strength of regularisation is chosen on them, because the vectors after contrastive training fit the training
        answers too well.
    starts_training: whether training of all weights goes on from the heads; see LinearProbe.probe.
    """
    views = 1 + (0 if run.examples.augment is None else AUGMENTED_VIEWS)
    seen = [extract_features(run.mapping, run.examples, run.device, view) for view in range(views)]
    # A penalty chosen on variants of the rows that it is scored on would be too small.
    selection = seen[0] if base_features is None and views > 1 else base_features
    for port, (weight, bias) in _fit_targets(run, np.concatenate(seen), selection, starts_training):
        head: Any = run.mapping.heads[port]
        if head.bias is None:
            weight = weight + torch.outer(bias, _ones_direction(seen[0]))
        _set_parameters(head, *((weight,) if head.bias is None else (weight, bias)))
    run.mapping.familiarity = Familiarity.of_rows(seen[0], run.options.seed)


def _ones_direction(features: NDArray[np.float32]) -> Tensor:
    """Return the direction (d,) in which all vectors (n, d) have nearly the value 1, in place of a head's missing bias.

    It is the ridge regression of 1 on the vectors. Hidden states of decoder-only models have a large common part, so that the
    values differ little from 1.
    """
    x = torch.from_numpy(features).double()
    ones, penalty = torch.ones(len(x)).double(), RIDGE * x.square().sum(1).mean()
    # The smaller of the two Gram matrices, of vectors or of channels, is solved.
    if len(x) < x.shape[1]:
        direction = x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x)), ones)
    else:
        direction = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ ones)
    result: Tensor = direction.float()
    return result


def learn_familiarity(run: PreparedRun) -> None:
    """Set the familiarity of a mapping that is trained, or linear, from a sample of the training rows.

    There is none in pretraining, of pairs, nor of pictures in which each token is an answer.
    """
    mapping, seed = run.mapping, run.options.seed
    answers_rows = any(target.readout.pooled or isinstance(target, Composed | Generated) for target in mapping.targets)
    if answers_rows and not run.is_pretraining and not mapping.arrow.symmetric:
        mapping.familiarity = Familiarity.of_rows(_sampled_vectors(mapping, run.examples, run.device, seed), seed)


def refer_to_other_rows(run: PreparedRun, choice: MethodChoice | None) -> None:
    """Set the reference distances of the mapping's familiarity to those of rows that were not trained on, where there are any.

    Training draws the vectors of its own rows closer together than those of other rows, and the vocabulary of a linear model
    has all n-grams of its own rows alone. The other rows are those of `choice`, or else the held-out ones.
    """
    mapping, familiarity = run.mapping, run.mapping.familiarity
    if familiarity is None:
        return
    distances = [] if choice is None else [familiarity.unit * distance for distance in choice.relative_distances]
    if not distances and run.held_out is not None and len(run.held_out) >= MIN_ROWS_TO_CALIBRATE:
        distances = held_out_distances(mapping, run.held_out, run.device, run.options.seed)
    if distances:
        mapping.familiarity = familiarity.with_distances(distances)


def held_out_distances(mapping: Mapping, held_out: Examples, device: torch.device, seed: int) -> list[float]:
    """Return the distances of examples that the mapping was not fitted to from its training rows, of a sample if they are many.

    seed: draws the sample. The list is empty for a mapping without a familiarity.
    """
    if mapping.familiarity is None:
        return []
    vectors = _sampled_vectors(mapping, held_out, device, seed)
    distances: list[float] = mapping.familiarity.distance(torch.from_numpy(vectors)).tolist()
    return distances


def _sampled_vectors(mapping: Mapping, examples: Examples, device: torch.device, seed: int) -> NDArray[np.float32]:
    """Return the vectors (n, d) on which the familiarity of the rows of examples depends, or if they are many of a sample.

    A long row of several examples (windows) has their mean, as in prediction. seed: draws the sample.
    """
    row_numbers = np.arange(len(examples)) if examples.answers is None else examples.answers.row_indices
    rows = np.unique(row_numbers)
    rows = rows[sample_rows(len(rows), seed)]
    indices: list[int] = np.flatnonzero(np.isin(row_numbers, rows)).tolist()
    for source in mapping.sources.values():
        if isinstance(source, LinearFeatures):
            return source.feature_vectors([examples.pieces[index][0] for index in indices])
    examples, places = examples.without_augmentation(), np.searchsorted(rows, row_numbers)
    numbered = ((examples.example(index, 0, 0.0).pieces, int(places[index])) for index in indices)
    questions = (Example(pieces, make_questions(mapping, pieces), row) for pieces, row in numbered)
    reader = RowReader(partial(familiarity_vectors, mapping))
    vectors: NDArray[np.float32] = read_rows(mapping.eval(), questions, len(rows), [reader], device)[0].numpy()
    return vectors


def _fit_targets(
    run: PreparedRun,
    features: Any,
    base_features: NDArray[np.float32] | None = None,
    starts_training: bool = False,
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Yield (port, (weight (c, f), bias (c,))) of the regression of each target's answers on features, where it has a probe.

    features: (v·n, f), one row for each training example, dense or sparse, then as many for each other variant of them.
    base_features: (n, f), and starts_training: see `fit_probe`.
    """
    encoded = run.examples.answers.encoded if run.examples.answers is not None else ()
    num_views = features.shape[0] // max(1, len(encoded))
    for port, target in enumerate(run.mapping.targets):
        # Rows without an answer to this target teach its head nothing.
        rows = np.array([row for row, ports in enumerate(encoded) if ports[port] is not None], np.int64)
        if isinstance(target, LinearProbe) and len(rows):
            values = np.array([answer.values for ports in encoded if (answer := ports[port]) is not None])
            base = None if base_features is None else base_features[rows]
            all_rows = np.concatenate([rows + view * len(encoded) for view in range(num_views)])
            repeated = np.concatenate([values] * num_views)
            weights = None if run.examples.weights is None else np.tile(run.examples.weights[rows], num_views)
            settings = ProbeSettings(base, starts_training, weights)
            yield port, target.probe(features[all_rows], repeated, run.options.seed, settings)


def _set_parameters(module: nn.Module, *values: Tensor) -> None:
    """Set the parameters of a module to values of the same shapes, in the order in which the module lists them."""
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)


def calibrate(run: PreparedRun, choice: MethodChoice | None, say: Callable[[str], None]) -> list[float]:
    """Calibrate the heads of answers with a confidence by temperature scaling (Guo et al. 2017).

    The temperatures are those of `choice` if it has any, or else are fitted on the held-out rows. Return those of the calibrated
    heads, in the order of the targets; a head without either, or with too few held-out rows, stays as it is.
    say: prints a message about each calibrated head.
    """
    if choice is not None and choice.temperatures:
        temperatures = {port: adapt_temperature(run, choice, port) for port in choice.temperatures}
        source = "answers of models fitted to half of the rows"
    elif run.held_out is not None and any(isinstance(target, Calibratable) for target in run.mapping.targets):
        temperatures = held_out_temperatures(run.mapping, run.held_out, run.device)
        source = f"{len(run.held_out):,} held-out rows"
    else:
        return []
    for port, temperature in temperatures.items():
        say(f"confidence set by {source}: logits divided by {temperature:.2f}")
        with torch.no_grad():
            # Dividing weight and bias divides the logits, so a saved model needs no temperature.
            for parameter in run.mapping.heads[port].parameters():
                parameter.div_(temperature)
    return [round(temperature, 4) for temperature in temperatures.values()]


def adapt_temperature(run: PreparedRun, choice: MethodChoice, port: int) -> float:
    """Return the temperature of the final model's target `port`: that of `choice`, adapted to the scale of the final logits.

    The final model takes more steps than those that the temperature was fitted for, so its logits are larger, and its
    temperature is larger by the same factor (measured in benchmarks/calibration.py).
    """
    temperature, mapping, examples = choice.temperatures[port], run.mapping.eval(), run.examples.without_augmentation()
    if port not in choice.scales:
        return temperature
    rows = sample_rows(len(examples), run.options.seed, SCALE_ROWS)
    outputs = collect_evidence(mapping, (examples.example(int(row), 0, 1.0) for row in rows), run.device)
    return temperature * logit_scale(outputs[port].evidence) / choice.scales[port] if port in outputs else temperature


def held_out_temperatures(mapping: Mapping, held_out: Examples, device: torch.device) -> dict[int, float]:
    """Return the temperature of each target that has one, fitted on held-out examples, by its port.

    Ports with fewer than MIN_ROWS_TO_CALIBRATE answers are left out. Each word of a tagged text is an answer.
    """
    temperatures = {}
    evidence = collect_evidence(mapping.eval(), scoring_examples(held_out), device, of_windows=True)
    for port, outputs in evidence.items():
        target = mapping.targets[port]
        if isinstance(target, Calibratable) and target.count_answers(outputs.values) >= MIN_ROWS_TO_CALIBRATE:
            temperatures[port] = fit_temperature([Answered(target.calibration_loss, outputs.evidence, outputs.values)])
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
    for port, (weight, bias) in _fit_targets(run, features):
        identity = torch.eye(mapping.config.transformer.width)[first : first + len(bias)]
        _set_parameters(mapping.heads[port], identity, bias)
        columns.append(weight.T)
        first += len(bias)
    _set_parameters(mapping.embedders[kind], torch.cat(columns, dim=1))
