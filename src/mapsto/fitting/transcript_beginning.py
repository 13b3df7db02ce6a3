"""The language and the task with which the answers of a fitted multilingual recognizer of speech begin (Whisper).

A published model begins each answer with a language and a task, and all training rows begin alike. The language is the one that
the start hears in a few of the rows. The task is the one under which the true answers are likelier: what is said, or its English.
This costs a few seconds, and saves the user from naming what the rows show.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto.data.rows import Rows
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.packing import make_batches
from mapsto.sequence.piece import Ints
from mapsto.task.generation import Decoding
from mapsto.task.source import Source
from mapsto.task.transcription import Transcriber

# Rows that are listened to.
SAMPLE = 6


def choose_beginnings(
    mapping: Mapping,
    sources: Dict[str, Source],
    rows: Rows,
    language: str | None,
    task: str | None,
    say: Callable[[str], None],
) -> None:
    """Let the answers of each target that has a choice begin with one language and one task.

    sources: those of the start, which pad sounds as it has learnt them. language, task: the user's choice; None to choose here.
    Raises UsageError for a language or a task that the start does not know, or for a start that has no choice.
    """
    if (language or task) and not any(isinstance(target, Transcriber) for target in mapping.targets):
        raise UsageError(f"--language and --task are for answers that are said, and {mapping.arrow} has none")
    is_training = mapping.training
    for port, target in enumerate(mapping.targets):
        if not isinstance(target, Transcriber) or not (target.has_languages or language or task):
            continue
        # Raises for a language or task that there is not.
        narrowed = target.with_decoding(Decoding(language=language, task=task))
        examples = [_encode(sources, rows, int(row), port, len(mapping.targets)) for row in _sample(len(rows))]
        mapping.eval()
        with torch.inference_mode():
            languages, *_ = target.rules.beginning
            if language is None:
                spoken = languages[int(_language_scores(mapping, port, examples, languages).argmax())]
            else:
                spoken = narrowed.opening[len(target.opening)]
            beginnings = target.beginnings(spoken, task)
            target.begin_transcripts(max(beginnings, key=partial(_likelihood, mapping, port, examples)))
        say(f"heard in {len(examples)} of the rows: {target.describe_beginning()} (--language, --task choose others)")
    mapping.train(is_training)


def _sample(count: int) -> Ints:
    """Return the indices of at most SAMPLE of `count` rows, evenly spread."""
    return np.linspace(0, count - 1, min(SAMPLE, count)).astype(np.int64)


def _encode(sources: Dict[str, Source], rows: Rows, row: int, port: int, num_ports: int) -> tuple[Example, Any]:
    """Return the pieces of a row as an example without answers, and its true answer at a target port."""
    pieces = []
    for place, (source_port, values) in enumerate(zip(rows.arrow.sources, rows.sources, strict=True)):
        source = sources[source_port.kind]
        (piece,) = source.encode([values[row]], place)
        limit = source.max_tokens or len(piece)
        pieces.append(source.cut(piece, limit) if len(piece) > limit else piece)
    return Example(tuple(pieces), (None,) * num_ports), rows.targets[port][row]


def _with_answer(example: Example, port: int, answer: Answer | None) -> Example:
    """Return an example with an answer at one port."""
    return replace(example, answers=(*example.answers[:port], answer, *example.answers[port + 1 :]))


def _outputs(mapping: Mapping, port: int, example: Example) -> Tensor:
    """Return the outputs (m, v) of the head of a port for one example, in fp32."""
    (batch,) = make_batches([example], len(example))
    batch = batch.to(next(mapping.parameters()).device)
    return mapping.read(mapping.hidden(batch), batch, port).float()


def _language_scores(
    mapping: Mapping, port: int, examples: Sequence[tuple[Example, Any]], languages: Sequence[int]
) -> Tensor:
    """Return the mean log-probability of each language as the first token of an answer, (languages,)."""
    target = mapping.targets[port]
    questions = [_with_answer(example, port, target.questions(example.pieces)) for example, _ in examples]
    logits = torch.stack([_outputs(mapping, port, question)[-1, list(languages)] for question in questions])
    return logits.log_softmax(-1).mean(0)


def _likelihood(
    mapping: Mapping, port: int, examples: Sequence[tuple[Example, Any]], beginning: Sequence[int]
) -> float:
    """Return the sum of the log-probabilities of the true answers if they follow the tokens `beginning`."""
    target = copy.copy(mapping.targets[port])
    assert isinstance(target, Transcriber)
    target.begin_transcripts(beginning)
    total = 0.0
    for example, answer in examples:
        encoded = target.encode(answer, example.pieces)
        output = _outputs(mapping, port, _with_answer(example, port, encoded))
        total -= float(target.validation_error(output, torch.from_numpy(encoded.values).to(output.device)))
    return total
