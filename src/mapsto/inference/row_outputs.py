"""Outputs of target ports with one answer for each row: read from hidden states, or generated token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mapsto.inference.forward import Report, port_reader, read_rows
from mapsto.inference.generation import generate_rows
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.task.generation import Generated


def row_outputs(
    mapping: Mapping,
    examples: Iterable[Example],
    count: int,
    ports: Sequence[int],
    device: torch.device,
    report: Report = lambda count: None,
) -> list[Tensor]:
    """Return for each target port in `ports` its outputs (count, …) for all rows.

    A generated answer is the greedy one, as `Generated.pack` gives it.
    ports: indices of target ports with one answer per example.
    count: number of rows. A long row may be split into several examples (windows), see RowReader.
    report: called with numbers of examples, as they are computed.
    """
    generated = generated_ports(mapping, ports)
    read = [port for port in ports if port not in generated]
    # Both passes need the examples.
    examples = list(examples) if generated and read else examples
    outputs = dict(
        zip(
            read,
            read_rows(mapping, examples, count, [port_reader(mapping, port) for port in read], device, report),
            strict=True,
        )
    )
    for port in generated:
        outputs[port] = generate_rows(mapping, examples, count, port, device, report)
    return [outputs[port] for port in ports]


def generated_ports(mapping: Mapping, ports: Sequence[int]) -> list[int]:
    """Return those of the target ports whose answers are generated token by token."""
    return [port for port in ports if isinstance(mapping.targets[port], Generated)]
