"""Real tokens a second of masked pretraining: ours against the padded reference loop of `transformers`, in one run.

The same shape (6 layers, width 384, 6 heads, vocabulary 30,522), sentences of the same lengths (43 tokens on average),
32 sentences a step for the reference, as many tokens as fill rows for ours.
"""

from __future__ import annotations

import random
import time

import numpy as np
import torch
from common import ratio, record, spread, take_turns
from transformers import BertConfig, BertForMaskedLM

from mapsto.arrow import Arrow, Port
from mapsto.corrupt import Corruption
from mapsto.device import choose_precision, keep_memory
from mapsto.examples import Examples
from mapsto.kinds.text import TextSource, TextTarget
from mapsto.loop import Plan, Training
from mapsto.mapping import Mapping, ModelConfig
from mapsto.sequence import Piece
from mapsto.tokenizer import Tokenizer
from mapsto.transformer import TransformerConfig

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, LONGEST = 30_522, 384, 6, 6, 1536, 128
STEPS, ROUNDS, BATCH = 6, 5, 32
rng = random.Random(0)
LENGTHS = [max(8, min(LONGEST, int(rng.lognormvariate(3.6, 0.6)))) for _ in range(8192)]
torch.manual_seed(0)
IDS = [torch.randint(1000, VOCABULARY, (n,)) for n in LENGTHS]


def reference(bf16: bool, by_length: bool, dropout: float) -> object:
    """A function that trains the padded reference for some steps and gives real tokens a second."""
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
    data = sorted(IDS, key=len) if by_length else IDS
    at = [0]

    def step() -> int:
        start = rng.randrange(0, len(data) - BATCH) if by_length else at[0] % (len(data) - BATCH)
        at[0] += BATCH
        part = data[start : start + BATCH]
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

    return timed(step)


def timed(step: object) -> object:
    """Real tokens a second over STEPS steps, the first of each round not counted."""
    assert callable(step)

    def run() -> float:
        step()
        began = time.perf_counter()
        tokens = sum(step() for _ in range(STEPS))
        return tokens / (time.perf_counter() - began)

    return run


def ours(optimizer: str) -> object:
    """The product's own loop over examples of the same lengths, with the default objective (30 % hidden)."""
    torch.manual_seed(0)
    source = TextSource(Tokenizer.train(["a b c"], 300), VOCABULARY)
    shape = TransformerConfig(width=WIDTH, layers=LAYERS, heads=HEADS, hidden=1024, max_positions=512)
    arrow = Arrow((Port("text", "text", True),), (Port("text", "text"),))
    mapping = Mapping(arrow, ModelConfig(transformer=shape), {"text": source}, [TextTarget()])
    mapping.computing_in(choose_precision("auto", torch.device("cpu"))).train()
    pieces = [(Piece("text", ids.numpy(), np.arange(len(ids))[:, None], np.zeros(len(ids), np.bool_)),) for ids in IDS]
    examples = Examples(
        arrow, mapping.sources, pieces, [(None,)] * len(pieces), np.arange(len(pieces)), 0, Corruption()
    )
    plan = Plan(steps=10_000, batch=190, rate=1e-4, optimizer=optimizer, seed=0, save_every=10**9)  # type: ignore[arg-type]
    training = Training(mapping, examples, plan, torch.device("cpu"), workers=1)

    def step() -> int:
        before = training.state.tokens
        training.step(training.state.step)
        return training.state.tokens - before

    return timed(step)


def main() -> None:
    keep_memory()  # as the command line does; the reference gains by it as well
    ways = {
        "ours, Muon (the default)": ours("muon"),
        "ours, AdamW": ours("adamw"),
        "reference, its defaults (fp32)": reference(False, False, 0.1),
        "reference, bf16": reference(True, False, 0.1),
        "reference, bf16, no dropout, sorted by length": reference(True, True, 0.0),
    }
    found = take_turns(ways, ROUNDS)  # type: ignore[arg-type]
    default = found["ours, Muon (the default)"]
    lines = ["| way | real tokens a second, median (range) | ours is × faster |", "|---|---|---|"]
    lines += [f"| {name} | {spread(values)} | {ratio(default, values)} |" for name, values in found.items()]
    record("Pretraining (benchmarks/pretraining.py)", lines)


if __name__ == "__main__":
    main()
