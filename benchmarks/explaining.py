"""Measure the speed of explanations, compared with captum's integrated gradients, and how faithful each method is.

The model is MiniLM fitted to rows of SST-2; short texts of the test split are explained.
`python benchmarks/explaining.py --help`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients
from common import DATA, ratio, record, seconds, spread, take_turns
from transformers import AutoModelForSequenceClassification

import mapsto
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.device import keep_memory
from mapsto.explain.attribution import DEFAULT_STEPS, METHODS, Explainer
from mapsto.explain.faithfulness import measure_faithfulness
from mapsto.sequence.batch import Example

ROUNDS, TEXTS, CAPTUM_TEXTS, LONGEST = 5, 64, 8, 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="rows to fit with")
    given = parser.parse_args()
    keep_memory()
    out = Path(tempfile.mkdtemp()) / "clf"
    train, test = (read_table(DATA / "sst2" / f"{part}.csv") for part in ("train", "test"))
    mapsto.fit("text -> label", train.select(range(given.rows)), out, start=str(minilm()), method="probe+full")
    short = [at for at, text in enumerate(test.column("text")) if len(text) <= LONGEST][:TEXTS]
    mapping, cpu = mapsto.load(out, precision="fp32").mapping, torch.device("cpu")
    explainers = {method: Explainer(mapping, cpu, method) for method in METHODS}
    rows = explainers["relevance"].read(test.select(short))
    few = rows.select(np.arange(CAPTUM_TEXTS))
    examples = explainers["integrated"].examples(few)
    outputs = explainers["integrated"].outputs(examples)
    reference = AutoModelForSequenceClassification.from_pretrained(out).eval()

    def one(example: Example, output: torch.Tensor) -> np.ndarray:
        """Return captum's integrated gradients of one text, one number for each token."""

        def told(embedded: torch.Tensor) -> torch.Tensor:
            logits = reference(inputs_embeds=embedded).logits
            return explainers["integrated"].target.answer_score(logits, output[None].expand(len(logits), -1))

        table = reference.get_input_embeddings()
        here = torch.from_numpy(example.pieces[0].tokens)[None]
        base = torch.from_numpy(explainers["integrated"].blank(example).pieces[0].tokens)[None]
        found = IntegratedGradients(told).attribute(
            table(here), table(base), n_steps=DEFAULT_STEPS, method="gausslegendre"
        )
        return found.sum(-1)[0].detach().numpy()

    def captum() -> list[np.ndarray]:
        return [one(example, output) for example, output in zip(examples, outputs, strict=True)]

    apart = max(
        float(np.abs(ours - theirs).max())
        for ours, theirs in zip(explainers["integrated"].token_weights(examples, outputs), captum(), strict=True)
    )
    ways = {
        f"ours, {method}": lambda m=method, r=(rows if method != "integrated" else few): (
            len(r) / seconds(lambda: list(explainers[m].explain(r)))
        )
        for method in METHODS
    }
    ways["captum, integrated gradients, text by text"] = lambda: CAPTUM_TEXTS / seconds(captum)
    found = take_turns(ways, ROUNDS)
    lines = [
        f"MiniLM fitted to {given.rows:,} rows of SST-2; texts of at most {LONGEST} characters, fp32, {DEFAULT_STEPS} steps",
        f"of integrated gradients in both. Its token scores differ from captum's by at most {apart:.1e}.",
        "",
        "| method | texts a second, median (range) | against captum |",
        "|---|---|---|",
    ]
    theirs = found["captum, integrated gradients, text by text"]
    lines += [f"| {way} | {spread(speeds, 1)} | {ratio(speeds, theirs)} |" for way, speeds in found.items()]
    lines += [
        "",
        "Faithfulness on 100 texts of the test split: the answer's probability lost by deleting the highest-scored parts",
        "(comprehensiveness), the same minus a random order, and the mean probability left while all parts are deleted one by",
        "one (deletion, lower is better); mean (95 % interval).",
        "",
        "| method | comprehensiveness | better than random by | deletion |",
        "|---|---|---|---|",
    ]
    everything = explainers["relevance"].read(test)
    for method, explainer in explainers.items():
        measured = measure_faithfulness(explainer, everything)
        assert measured is not None
        shown = (measured.comprehensiveness.value, measured.comprehensiveness.over_random, measured.deletion.value)
        cells = " | ".join(f"{score.value:.3f} ({score.low:.3f}–{score.high:.3f})" for score in shown)
        lines.append(f"| {method} | {cells} |")
        print(lines[-1], flush=True)
    record("Explanations (benchmarks/explaining.py)", lines)


if __name__ == "__main__":
    main()
