"""Translate English to German (Multi30k) from random weights, against a MarianMT of the same size by the Trainer; and decode.

Part `training`: each model is trained for the same minutes and translates the 1,000 test sentences greedily: mapsto's
encoder–decoder, mapsto's prefix architecture, and MarianMT with the tokens of mapsto's vocabulary, AdamW, label smoothing 0.1 and
linear decay, whose number of steps is the minutes divided by the time of one step. BLEU is sacrebleu's; its intervals resample
sentences, and so does the difference of mapsto's architectures.
Part `pretraining`: with 4,000 pairs, a model pretrained on the sentences of both languages (hybrid) for the same minutes is
compared with random weights by `mapsto.compare`.
Part `decoding`: a published T5 (--decode FOLDER) translates the test sentences greedily, by mapsto, `transformers` and
CTranslate2, in turns. An engine counts only where its texts are as good.
Part `stream`: one answer after another of a published decoder (--stream FOLDER), in turns, each engine in a process of its own.
Part `beginnings`: prompts that share an instruction, by the same decoder, with the instruction read once and for each prompt.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, Kept, OwnProcess, ratio, record, spread, take_turns
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import mapsto
from mapsto.data.table import Table, read_table
from mapsto.inference import generation
from mapsto.metrics.generated_text import bleu, bleu_statistics
from mapsto.metrics.intervals import with_interval
from mapsto.text.pairs.metric_tokens import tokenize_13a

ARROW, BATCH, WIDTH = "en:text -> de:text", 64, 256
# Steps of the reference that are timed, the first ones left out.
TIMED_STEPS, WARM_UP_STEPS = 12, 3
DRAWS = 1000
PROMPTS = (
    "The capital of France is",
    "Once upon a time there was",
    "The three states of matter are",
    "My favourite book is",
    "Why is the sky blue?",
    "Name three uses of a hammer.",
    "How do I boil an egg?",
    "Write one sentence about the sea.",
)
STREAMED_TOKENS, SHARED_PROMPTS, FEW_PAIRS = 32, 64, 4000
# What FLAN-T5 was taught to translate by, the longest translation in tokens, and the sentences of a batch of the reference.
PROMPT, DECODED_TOKENS, REFERENCE_BATCH = "translate English to German: ", 64, 32


def counts_of(texts: Sequence[str], references: Sequence[str]) -> Any:
    """Return the counts from which BLEU is computed, a row for each sentence."""
    return bleu_statistics(list(map(tokenize_13a, texts)), list(map(tokenize_13a, references)))


def train_ours(architecture: str, train: Table, minutes: float, folder: Path) -> dict[str, Any]:
    """Fit with `mapsto.fit` with nothing set but architecture and minutes; return steps and seconds."""
    began = time.perf_counter()
    mapsto.fit(ARROW, train, folder, minutes=minutes, architecture=architecture, bad_rows="skip")
    return {"seconds": time.perf_counter() - began}


def train_reference(train: Table, minutes: float, folder: Path, tokens_of: Path) -> dict[str, Any]:
    """Train a MarianMT of about the same size with the Trainer for as many steps as fit into the minutes, and save it.

    tokens_of: a folder of mapsto with the vocabulary to use.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokens_of)
    torch.manual_seed(0)
    pad, end = tokenizer.pad_token_id, tokenizer.sep_token_id
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=WIDTH, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH, max_position_embeddings=512,
        pad_token_id=pad, eos_token_id=end, bos_token_id=pad, decoder_start_token_id=pad, forced_eos_token_id=None,
        scale_embedding=True, activation_function="swish", dropout=0.1,
    )  # fmt: skip
    rows = [
        {"input_ids": source + [end], "labels": target + [end], "attention_mask": [1] * (len(source) + 1)}
        for source, target in zip(
            *(tokenizer(list(train.column(name)), add_special_tokens=False)["input_ids"] for name in ("en", "de")),
            strict=True,
        )
    ]
    model = MarianMTModel(config)

    def trainer(steps: int, network: Any) -> Seq2SeqTrainer:
        arguments = Seq2SeqTrainingArguments(
            tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3, warmup_steps=0.06,
            label_smoothing_factor=0.1, adam_beta2=0.98, lr_scheduler_type="linear", save_strategy="no", report_to=[],
            disable_tqdm=True, logging_strategy="no", use_cpu=True, seed=0, train_sampling_strategy="group_by_length",
        )  # fmt: skip
        return Seq2SeqTrainer(
            network, arguments, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, network)
        )

    times = []
    for steps in (WARM_UP_STEPS, WARM_UP_STEPS + TIMED_STEPS):
        start = time.perf_counter()
        trainer(steps, MarianMTModel(config)).train()
        times.append(time.perf_counter() - start)
    # The time of the timed steps is not taken from the minutes of training.
    per_step = (times[1] - times[0]) / TIMED_STEPS
    began = time.perf_counter()
    steps = max(1, int(60 * minutes / per_step))
    trainer(steps, model).train()
    seconds = time.perf_counter() - began
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"seconds": seconds, "steps": steps}


def translate_reference(folder: Path, sources: Sequence[str], dtype: torch.dtype, batch: int) -> tuple[list[str], int]:
    """Return greedy translations by `transformers`, in batches of sources sorted by length, and the number of new tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = MarianMTModel.from_pretrained(folder, dtype=dtype).eval()
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    texts, count = [""] * len(sources), 0
    with torch.inference_mode():
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            encoded = [
                tokenizer(sources[row], add_special_tokens=False)["input_ids"] + [tokenizer.sep_token_id]
                for row in rows
            ]
            inputs = tokenizer.pad({"input_ids": encoded}, return_tensors="pt")
            output = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                num_beams=1,
                do_sample=False,
                max_new_tokens=100,
            )
            for row, tokens in zip(rows, output, strict=True):
                texts[row] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
                count += int((tokens[1:] != tokenizer.pad_token_id).sum())
    return texts, count


def score(texts: Sequence[str], references: Sequence[str]) -> str:
    """Return BLEU with its interval."""
    value = with_interval(bleu, counts_of(texts, references))
    return f"{value.value:.1f} ({value.low:.1f}–{value.high:.1f})"


def difference(one: Sequence[str], other: Sequence[str], references: Sequence[str]) -> str:
    """Return the difference in BLEU of two models on the same sentences, with an interval that resamples these sentences."""
    counts = [counts_of(texts, references) for texts in (one, other)]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        rows = rng.integers(len(references), size=len(references))
        draws.append(bleu(counts[0][rows]) - bleu(counts[1][rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{bleu(counts[0]) - bleu(counts[1]):+.1f} ({low:+.1f} to {high:+.1f})"


def measure_training(minutes: float, names: Sequence[str], kept: Kept, root: Path) -> list[str]:
    """Train the models named, and return the lines of the table of their translations."""
    train, test = (read_table(DATA / "multi30k" / f"{part}.csv") for part in ("train", "test"))
    sources, references = list(test.column("en")), list(test.column("de"))
    lines = ["| model | minutes | seconds | BLEU |", "|---|---|---|---|"]
    for name in names:
        folder, key = root / f"{name}-{minutes:g}", f"{name} {minutes:g}"
        if name == "MarianMT, Trainer":
            tokens_of = root / f"encoder-decoder-{minutes:g}"
            facts = kept.once(key, lambda: train_reference(train, minutes, folder, tokens_of))
            texts = kept.once(f"{key} texts", lambda: translate_reference(folder, sources, torch.float32, 32)[0])
        else:
            facts = kept.once(key, lambda: train_ours(name, train, minutes, folder))
            texts = kept.once(
                f"{key} texts",
                lambda: [row["text"] for row in mapsto.load(folder).predict([{"en": text} for text in sources])],
            )
        lines.append(f"| {name} | {minutes:g} | {facts['seconds']:.0f} | {score(texts, references)} |")
        print(lines[-1], flush=True)
    done = [kept.found.get(f"{name} {minutes:g} texts") for name in ("encoder-decoder", "prefix")]
    if all(done):
        lines += ["", f"Encoder–decoder minus prefix, {minutes:g} minutes: {difference(*done, references)} BLEU."]  # type: ignore[misc]
    return lines


def measure_pretraining(minutes: float, seeds: int, epochs: float | None, root: Path) -> list[str]:
    """Return the lines of the comparison of a pretrained start with random weights, from FEW_PAIRS pairs.

    epochs: of each fit; None for its own number.
    """
    train, test = (read_table(DATA / "multi30k" / f"{part}.csv") for part in ("train", "test"))
    pairs, test_pairs = (
        [{"en": en, "de": de} for en, de in zip(table.column("en"), table.column("de"), strict=True)]
        for table in (train, test)
    )
    base = root / f"hybrid-{minutes:g}"
    sentences = [{"text": text} for name in ("en", "de") for text in train.column(name)]
    if not (base / "mapsto.json").exists():  # of an interrupted benchmark
        mapsto.pretrain("text", sentences, base, minutes=minutes, objective="hybrid")
    comparison = mapsto.compare(
        ARROW, pairs, root / f"compared-{minutes:g}", test=test_pairs, starts=["scratch", str(base)], labels=[FEW_PAIRS],
        seeds=seeds, jobs=1, bad_rows="skip", epochs=epochs,
    )  # fmt: skip
    return ["```", *comparison.lines(), "```"]


def measure_decoding(folder: Path, num_sources: int, rounds: int, threads: int) -> list[str]:
    """Return the lines of the table of greedy decoding of the test sentences by a saved T5, all engines with the same tokens."""
    test = read_table(DATA / "multi30k" / "test.csv")
    sources = [PROMPT + text for text in test.column("en")[:num_sources]]
    references = list(test.column("de")[:num_sources])
    model = mapsto.load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    token_ids = [piece.tokens.tolist() for piece in model.mapping.sources["text"].encode(sources, 0)]
    outputs: dict[str, list[str]] = {}
    counts: dict[str, int] = {}

    def put(name: str, texts: Sequence[str]) -> None:
        outputs[name] = [text.strip() for text in texts]
        counts[name] = sum(len(row) for row in tokenizer(outputs[name])["input_ids"])

    def ours() -> float:
        start = time.perf_counter()
        answers = model.predict(sources, decoding=mapsto.Decoding(longest=DECODED_TOKENS))
        took = time.perf_counter() - start
        put("mapsto fp32", [row["text"] for row in answers])
        return took

    def transformers(dtype: torch.dtype, name: str) -> Callable[[], float]:
        network = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype).eval()

        def run() -> float:
            start = time.perf_counter()
            texts = [""] * len(sources)
            # Sorted by length, as anyone would who cares for speed.
            order = sorted(range(len(sources)), key=lambda row: len(token_ids[row]))
            with torch.inference_mode():
                for first in range(0, len(order), REFERENCE_BATCH):
                    rows = order[first : first + REFERENCE_BATCH]
                    inputs = tokenizer.pad({"input_ids": [token_ids[row] for row in rows]}, return_tensors="pt")
                    output = network.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=DECODED_TOKENS)
                    for row, text in zip(rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
                        texts[row] = text
            took = time.perf_counter() - start
            put(name, texts)
            return took

        return run

    def ctranslate() -> Callable[[], float]:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        converted = tempfile.mkdtemp()
        TransformersConverter(str(folder)).convert(converted, force=True)
        engine = ctranslate2.Translator(converted, inter_threads=1, intra_threads=threads, compute_type="float32")
        tokens = [tokenizer.convert_ids_to_tokens(row) for row in token_ids]

        def run() -> float:
            start = time.perf_counter()
            results = engine.translate_batch(
                tokens, beam_size=1, max_batch_size=2048, batch_type="tokens", max_decoding_length=DECODED_TOKENS
            )
            texts = [tokenizer.decode(tokenizer.convert_tokens_to_ids(result.hypotheses[0])) for result in results]
            took = time.perf_counter() - start
            put("CTranslate2 fp32", texts)
            return took

        return run

    ways: dict[str, Callable[[], float]] = {"mapsto fp32": ours}
    for dtype, label in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        name = f"transformers {label}, batches of {REFERENCE_BATCH}"
        ways[name] = transformers(dtype, name)
    ways["CTranslate2 fp32"] = ctranslate()
    seconds = take_turns(ways, rounds)
    lines = ["| engine | tokens/s | equal texts | BLEU | mapsto is × faster |", "|---|---|---|---|---|"]
    for name in ways:
        rates = [counts[name] / took for took in seconds[name]]
        equal = statistics.fmean(a == b for a, b in zip(outputs[name], outputs["mapsto fp32"], strict=True))
        faster = ratio(seconds[name], seconds["mapsto fp32"])
        lines.append(
            f"| {name} | {spread(rates)} | {100 * equal:.1f} % | {score(outputs[name], references)} | {faster} |"
        )
        print(lines[-1], flush=True)
    return lines


# The seconds that all prompts took, and the texts of their answers.
Streamed = tuple[float, list[str]]


def stream_ours(folder: Path, precision: Any) -> Callable[[], Streamed]:
    """Return a function that answers each prompt by mapsto."""
    model, decoding = mapsto.load(folder, "cpu", precision), mapsto.Decoding(longest=STREAMED_TOKENS)

    def run() -> Streamed:
        start = time.perf_counter()
        texts = [model.predict([prompt], decoding=decoding)[0]["text"] for prompt in PROMPTS]
        return time.perf_counter() - start, texts

    return run


def stream_transformers(folder: Path, dtype: torch.dtype) -> Callable[[], Streamed]:
    """Return a function that answers each prompt by `transformers`."""
    tokenizer, network = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
    )
    network.eval()

    def run() -> Streamed:
        start, texts = time.perf_counter(), []
        for prompt in PROMPTS:
            # mapsto asks a chat model by its template too.
            turns = [{"role": "user", "content": prompt}]
            inputs = (
                tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
                if tokenizer.chat_template
                else tokenizer(prompt, return_tensors="pt")
            )
            with torch.inference_mode():
                output = network.generate(**inputs, max_new_tokens=STREAMED_TOKENS, do_sample=False)
            new = output[0, inputs["input_ids"].shape[1] :]
            texts.append(tokenizer.decode(new, skip_special_tokens=True).strip())
        return time.perf_counter() - start, texts

    return run


def stream_llama(gguf: str, threads: int) -> Callable[[], Streamed]:
    """Return a function that answers each prompt by llama.cpp. gguf: the model's file."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx = gguf, 512
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)

    def run() -> Streamed:
        start, texts = time.perf_counter(), []
        for prompt in PROMPTS:
            asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": STREAMED_TOKENS, "temperature": 0}
            texts.append(server.handle_chat_completions(asked)["choices"][0]["message"]["content"].strip())
        return time.perf_counter() - start, texts

    return run


def measure_stream(folder: Path, gguf: str | None, rounds: int) -> list[str]:
    """Return the lines of the table of single answers by a published decoder. gguf: the same model in 4 bits, for llama.cpp."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engines: dict[str, OwnProcess] = {}
    for precision in ("fp32", "bf16", "int4"):
        engines[f"mapsto, {precision}"] = OwnProcess(stream_ours, folder, precision)
    for name, dtype in (("transformers, fp32", torch.float32), ("transformers, bf16", torch.bfloat16)):
        engines[name] = OwnProcess(stream_transformers, folder, dtype)
    if gguf is not None:
        engines["llama.cpp, 4 bits"] = OwnProcess(stream_llama, gguf, torch.get_num_threads())
    texts: dict[str, list[str]] = {}

    def seconds_a_token(name: str) -> float:
        seconds, texts[name] = engines[name]()
        return seconds / sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts[name])

    ways = {name: partial(seconds_a_token, name) for name in engines}
    take_turns(ways, 1)  # the first answers of a process are slower
    each = take_turns(ways, rounds)
    lines = [
        "| engine | tokens/s | texts as in fp32 | its speed / that of transformers in bf16 | int4's speed / its speed |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in each.items():
        equal = statistics.fmean(a == b for a, b in zip(texts[name], texts["mapsto, fp32"], strict=True))
        rates = [1 / value for value in seconds]
        ratios = f"{ratio(each['transformers, bf16'], seconds)} | {ratio(seconds, each['mapsto, int4'])}"
        lines.append(f"| {name} | {spread(rates, 1)} | {100 * equal:.0f} % | {ratios} |")
    return lines


def measure_beginnings(folder: Path, num_prompts: int, rounds: int) -> list[str]:
    """Return the lines of the table of prompts that share an instruction, answered with a shared cache and without."""
    instruction = "Label a sentence with its mood, in one word: happy, sad, angry or neutral. " * 10
    prompts = [f"{instruction}{text}" for text in read_table(DATA / "multi30k" / "test.csv").column("en")[:num_prompts]]
    model, decoding = mapsto.load(folder), mapsto.Decoding(longest=4)
    texts: dict[str, list[str]] = {}

    def answer(name: str, min_shared: int) -> float:
        generation.MIN_SHARED_TOKENS = min_shared
        start = time.perf_counter()
        texts[name] = [row["text"] for row in model.predict(prompts, decoding=decoding)]
        return time.perf_counter() - start

    settings = {"read once": generation.MIN_SHARED_TOKENS, "read for each": 10**9}
    ways = {name: partial(answer, name, value) for name, value in settings.items()}
    seconds = take_turns(ways, rounds)
    lines = ["| the instruction is | seconds | equal texts | reading once is × faster |", "|---|---|---|---|"]
    for name, took in seconds.items():
        equal = statistics.fmean(a == b for a, b in zip(texts[name], texts["read once"], strict=True))
        lines.append(f"| {name} | {spread(took, 1)} | {100 * equal:.0f} % | {ratio(took, seconds['read once'])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="training,decoding,stream")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--models", default="encoder-decoder;prefix;MarianMT, Trainer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2, help="draws of the few pairs")
    parser.add_argument("--epochs", type=float, help="of each fit to the few pairs; by default its own number")
    parser.add_argument("--sources", type=int, default=1000, help="sentences that are decoded")
    parser.add_argument("--decode", help="folder of a published T5, for the part `decoding`")
    parser.add_argument("--stream", help="folder of a published decoder, for the part `stream`")
    parser.add_argument(
        "--gguf", help="the same model in 4 bits, for llama.cpp (package xllamacpp) in the part `stream`"
    )
    options = parser.parse_args()
    kept = Kept("translating")
    root = kept.path.parent / "translating"
    root.mkdir(parents=True, exist_ok=True)
    parts = options.parts.split(",")
    if "training" in parts:
        lines = [
            f"29,000 pairs, {torch.get_num_threads()} threads, fp32; 1,000 test sentences, greedy. BLEU with 95 % interval.",
            "",
        ]
        lines += measure_training(options.minutes, options.models.split(";"), kept, root)
        record(f"Translation from nothing, {options.minutes:g} minutes (benchmarks/translating.py)", lines)
    if "pretraining" in parts:
        length = "each fit at its own length" if options.epochs is None else f"{options.epochs:g} epochs a fit"
        facts = f"{options.seeds} draws, {length}, {torch.get_num_threads()} threads, fp32; 1,000 test sentences"
        lines = [f"{FEW_PAIRS:,} pairs, {options.minutes:g} minutes of pretraining on both languages, {facts}.", ""]
        lines += measure_pretraining(options.minutes, options.seeds, options.epochs, root)
        record(f"Translation from few pairs, {options.minutes:g} minutes (benchmarks/translating.py)", lines)
    if "decoding" in parts and options.decode:
        threads = torch.get_num_threads()
        facts = f"{options.sources:,} sources, {threads} threads; median (range) of {options.rounds} rounds"
        lines = [f"Greedy, FLAN-T5-small, {facts}.", ""]
        lines += measure_decoding(Path(options.decode), options.sources, options.rounds, threads)
        record("Decoding of many sources (benchmarks/translating.py)", lines)
    if "stream" in parts and options.stream:
        lines = [
            f"Greedy, one answer of at most {STREAMED_TOKENS} tokens at a time, {torch.get_num_threads()} threads; each engine "
            "in a process of its own.",
            "",
        ]
        lines += measure_stream(Path(options.stream), options.gguf, options.rounds)
        record("One stream of a published decoder (benchmarks/translating.py)", lines)
    if "beginnings" in parts and options.stream:
        lines = [f"{SHARED_PROMPTS} prompts, answers of at most 4 tokens, fp32, {torch.get_num_threads()} threads.", ""]
        lines += measure_beginnings(Path(options.stream), SHARED_PROMPTS, options.rounds)
        record("Prompts that begin alike (benchmarks/translating.py)", lines)


if __name__ == "__main__":
    main()
