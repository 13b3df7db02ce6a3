"""Compare speed and memory of masked pretraining with a loop over the BERT model of `transformers` (the reference).

Speed is in real tokens per second, without padding. Both have the same shape (6 layers, width 384, 6 heads, vocabulary 30,522)
and sentences of the same lengths (43 tokens on average). The reference reads 32 sentences a step, ours 190 in packed rows. Also
measured: the share of a step that its matrix products would take alone.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import profiled, ratio, record, seconds, spread, take_turns
from transformers import BertConfig, BertForMaskedLM

from mapsto.data.examples import Examples
from mapsto.device import choose_precision, keep_memory
from mapsto.kinds.text import TextSource
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mapping import Mapping
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import Arrow, Port
from mapsto.text.masked_text import MaskedTextTarget
from mapsto.text.tokenizer import Tokenizer
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, LONGEST = 30_522, 384, 6, 6, 1536, 128
STEPS, ROUNDS, BATCH, SENTENCES = 4, 3, 32, 190
HELD = 64  # sentences of a step whose memory is measured: with more the reference does not fit into 16 GB
Step = Callable[[], int]
rng = random.Random(0)
LENGTHS = [max(8, min(LONGEST, int(rng.lognormvariate(3.6, 0.6)))) for _ in range(8192)]
torch.manual_seed(0)
IDS = [torch.randint(1000, VOCABULARY, (n,)) for n in LENGTHS]


def reference(bf16: bool, dropout: float, full: bool = False, batch: int = BATCH) -> Step:
    """Return a function that runs one step of the reference and returns its number of real tokens.

    full: whether the text is cut into rows of 128 tokens without padding, instead of padded sentences.
    """
    torch.manual_seed(0)
    shape = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
    }
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = BertForMaskedLM(
        BertConfig(vocab_size=VOCABULARY, max_position_embeddings=LONGEST, **shape, **dropouts)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    data = list(torch.cat(IDS).split(LONGEST)) if full else IDS
    at = [0]

    def step() -> int:
        start = at[0] % (len(data) - batch)
        at[0] += batch
        part = data[start : start + batch]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in part], batch_first=True)
        hidden = (torch.rand(ids.shape) < 0.15) & mask.bool()
        labels = ids.masked_fill(~hidden, -100)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids.masked_fill(hidden, 103), attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return sum(map(len, part))

    return step


def timed(step: Step) -> Callable[[], float]:
    """Return a function that runs STEPS steps after one to warm up, and returns the real tokens per second."""

    def run() -> float:
        step()
        began = time.perf_counter()
        tokens = sum(step() for _ in range(STEPS))
        return tokens / (time.perf_counter() - began)

    return run


def ours(optimizer: str, batch: int = SENTENCES) -> tuple[Step, Training]:
    """Return a function that runs one step of mapsto's loop and returns its number of real tokens; and the Training.

    The examples have the same lengths as the reference's. The objective is the default one (30 % hidden).
    """
    torch.manual_seed(0)
    source = TextSource(Tokenizer.train(["a b c"], 300), VOCABULARY)
    shape = TransformerConfig(width=WIDTH, layers=LAYERS, heads=HEADS, feed_forward_width=1024, max_positions=512)
    arrow = Arrow((Port("text", "text", True),), (Port("text", "text"),))
    mapping = Mapping(arrow, ModelConfig(transformer=shape), {"text": source}, [MaskedTextTarget()])
    mapping.compute_in(choose_precision("auto", torch.device("cpu"))).train()
    pieces = [(Piece("text", ids.numpy(), np.arange(len(ids))[:, None], np.zeros(len(ids), np.bool_)),) for ids in IDS]
    examples = Examples(arrow, mapping.sources, pieces, None, 0, Corruption())
    plan = Plan(steps=10_000, batch=batch, rate=1e-4, optimizer=optimizer, seed=0, save_every=10**9)  # type: ignore[arg-type]
    training = Training(mapping, examples, plan, RunContext(torch.device("cpu"), workers=1))

    def step() -> int:
        before = training.state.tokens
        training.step(training.state.step)
        return training.state.tokens - before

    return step, training


def products(training: Training) -> float:
    """Return the seconds that the matrix products of a step take alone, in bf16. Backward counts twice as much as forward."""
    made = training.loader.pack_batches(0)
    places, hidden = sum(b.segments.numel() for b in made), sum(len(b.answers[0].values) for b in made)  # type: ignore[union-attr]
    gated = training.mapping.config.transformer.feed_forward_width
    layer = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * gated), (gated, WIDTH)]
    shapes = [(places, *shape) for shape in layer] * LAYERS + [(hidden, WIDTH, WIDTH), (hidden, WIDTH, VOCABULARY)]
    total = 0.0
    for m, k, n in shapes:
        x, weight = torch.randn(m, k, dtype=torch.bfloat16), torch.randn(n, k, dtype=torch.bfloat16)
        total += 3 * min(seconds(lambda x=x, w=weight: torch.nn.functional.linear(x, w)) for _ in range(3))
    return total


def share(training: Training) -> float:
    """Return the share of a whole step that its matrix products would take alone, in %."""
    return 100 * products(training) / seconds(lambda: training.step(training.state.step))


def memory(way: str) -> float:
    """Return the megabytes that three steps add to the peak memory of a new process. way: "ours" or "reference"."""
    command = [sys.executable, __file__, "--memory", way]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def megabytes(way: str) -> float:
    """Return the megabytes that three steps add to the peak memory of this process."""
    step = ours("muon", HELD)[0] if way == "ours" else reference(False, 0.1, batch=HELD)
    before = peak()
    for _ in range(3):
        step()
    return (peak() - before) / 1024


def peak() -> int:
    """Return the peak memory of this process in kB. getrusage would start from the peak of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", choices=["ours", "reference"])
    if (way := parser.parse_args().memory) is not None:
        print(megabytes(way))
        return
    keep_memory()  # as the command line does; the reference gains by it as well
    step, training = ours("muon")
    ways = {
        "ours, Muon (the default)": timed(step),
        "ours, AdamW": timed(ours("adamw")[0]),
        "reference, defaults (fp32)": timed(reference(False, 0.1)),
        "reference, bf16": timed(reference(True, 0.1)),
        "reference, tuned: full rows of 128, bf16, no dropout": timed(reference(True, 0.0, full=True)),
    }
    taken = take_turns({way: lambda way=way: memory(way) for way in ("ours", "reference")}, 2)
    found = take_turns(ways, ROUNDS)
    default = found["ours, Muon (the default)"]
    lines = ["| method | real tokens a second, median (range) | ours is × faster |", "|---|---|---|"]
    lines += [f"| {name} | {spread(values)} | {ratio(default, values)} |" for name, values in found.items()]
    shares = [share(training) for _ in range(ROUNDS)]
    lines += [
        "",
        f"Of a step of ours, {spread(shares)} % is what its matrix products alone take in bf16 on this machine. {profiled(step)}",
        f"Three steps of {HELD} sentences take {spread(taken['ours'])} MB, the reference with its defaults "
        f"{spread(taken['reference'])} MB: {ratio(taken['ours'], taken['reference'])} ×.",
    ]
    record("Pretraining (benchmarks/pretraining.py)", lines)


if __name__ == "__main__":
    main()
