"""Several threads that use one model or train at the same time, and processes made by fork: the bits of one alone."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TINY, run, sentences, write_labelled
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto import device
from mapsto.errors import UsageError

ROWS = [{"text": text, "label": "cold" if "winter" in text else "暖"} for text in sentences(40)]
# Names of special tokens and accents in two characters take other ways through a tokenizer.
TEXTS = [f"{text} [MASK] cafe\u0301" if number % 3 else text for number, text in enumerate(sentences(12, 7))]

ARROWS: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "label": ("text -> label", ROWS, {"steps": 3, **TINY_OPTIONS}),
    "linear": ("text -> label", ROWS, {"method": "linear", "device": "cpu"}),
    "tags": (
        "text -> tags",
        [{"text": row["text"], "tags": [{"start": 0, "end": 2, "label": row["label"]}]} for row in ROWS],
        {"steps": 3, **TINY_OPTIONS},
    ),
    "text": (
        "question:text -> reply:text",
        [{"question": row["text"], "reply": row["label"]} for row in ROWS],
        {"steps": 3, **TINY_OPTIONS},
    ),
}


def run_together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each call in a thread of its own, all at once, and return their results; raise the first error."""
    barrier, results, errors = threading.Barrier(len(calls)), [None] * len(calls), list[BaseException]()

    def work(number: int) -> None:
        try:
            barrier.wait()
            results[number] = calls[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def answers(model: mapsto.Model) -> dict[str, Any]:
    """Return what a model answers, embeds and explains, with all digits."""
    first, is_linear = model.mapping.arrow.sources[0], model.mapping.config.is_linear
    explanations = model.explain(TEXTS[:4])
    return {
        "predict": repr(model.predict([{first.column or first.kind: text} for text in TEXTS])),
        "embed": None if is_linear else model.embed(TEXTS).tobytes(),
        "explain": [(part.text, part.weight) for explanation in explanations for part in explanation.parts],
    }


@pytest.mark.parametrize("name", ARROWS)
def test_eight_threads_get_the_bits_of_one(name: str) -> None:
    arrow, rows, options = ARROWS[name]
    mapping = mapsto.fit(arrow, rows, **options).mapping
    alone = answers(mapsto.Model(mapping, "cpu", "fp32"))
    # All threads begin on an unused model, so that they meet while it prepares what it keeps.
    shared = mapsto.Model(mapping, "cpu", "fp32")
    for together in run_together([lambda: answers(shared)] * 8):
        assert together == alone


def test_texts_are_encoded_literally_in_several_threads() -> None:
    source = mapsto.fit(*ARROWS["text"][:2], **ARROWS["text"][2]).mapping.sources["text"]
    tokenizer = source.tokenizer  # type: ignore[attr-defined]
    alone = [ids.tolist() for ids in tokenizer.encode_literally(TEXTS)]
    assert all(tokenizer.mask_id not in ids for ids in alone)

    def encode() -> list[list[list[int]]]:
        return [[ids.tolist() for ids in tokenizer.encode_literally(TEXTS)] for _ in range(20)]

    assert run_together([encode] * 8) == [[alone] * 20] * 8


def weights(model: mapsto.Model) -> dict[str, bytes]:
    """Return the bytes of all weights by name."""
    return {name: weight.detach().numpy().tobytes() for name, weight in model.mapping.named_parameters()}


def test_fits_in_two_threads_give_the_bits_of_each_alone() -> None:
    def fit(seed: int, progress: RecordingProgress | None = None) -> dict[str, bytes]:
        return weights(mapsto.fit("text -> label", ROWS, progress=progress, seed=seed, steps=6, **TINY_OPTIONS))

    alone = [fit(seed) for seed in (0, 1)]
    outputs = [RecordingProgress(), RecordingProgress()]
    assert run_together([lambda: fit(0, outputs[0]), lambda: fit(1, outputs[1])]) == alone
    assert sum("another thread of this process trains" in line for output in outputs for line in output.lines) == 1


def test_a_folder_belongs_to_one_of_two_fits(tmp_path: Path) -> None:
    def fit() -> str:
        try:
            mapsto.fit("text -> label", ROWS, tmp_path / "out", steps=3, **TINY_OPTIONS)
        except mapsto.errors.MapstoError as error:
            return str(error)
        return "fitted"

    fitted, refused = sorted(run_together([fit, fit]), key=lambda text: text != "fitted")
    assert fitted == "fitted" and str(tmp_path / "out") in refused


def test_a_fork_answers_trains_and_explains_with_one_thread() -> None:
    """The parent computes with two threads, which do not exist in the child; torch would wait for them for ever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = mapsto.fit("text -> label", ROWS, **{**TINY_OPTIONS, "steps": 1, "layers": 1, "width": 256})
        expected = model.predict(TEXTS)
        model.explain(TEXTS[:2])
        queue: Any = multiprocessing.get_context("fork").Queue()

        def work() -> None:
            fitted = mapsto.fit("text -> label", ROWS, steps=1, **TINY_OPTIONS)
            answered = (model.predict(TEXTS), len(model.explain(TEXTS[:2])), fitted.predict(TEXTS[:1]))
            queue.put((torch.get_num_threads(), *answered))

        # A training in another thread of the parent is none of the child's.
        with device.training_turn(lambda note: None):
            child = multiprocessing.get_context("fork").Process(target=work)
            run_together([child.start])
        try:
            child_threads, predicted, num_explained, refitted = queue.get(timeout=100)
        finally:
            child.kill()
        child.join()
    finally:
        torch.set_num_threads(threads)
    assert child_threads == 1 and num_explained == 2 and refitted[0]["label"] in {"cold", "暖"}
    assert [answer["label"] for answer in predicted] == [answer["label"] for answer in expected]
    probabilities = [[answer["probability"] for answer in part] for part in (predicted, expected)]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


def test_a_fork_of_a_process_that_used_a_gpu_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # The state in which torch finds itself in such a child.
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(UsageError, match="spawn"):
        device.choose_device("cuda")


@pytest.mark.slow
def test_two_commands_that_fit_into_one_folder(tmp_path: Path) -> None:
    table = str(write_labelled(tmp_path / "train.csv", 60))
    arguments = ["fit", "text -> label", table, "--out", str(tmp_path / "out"), "--steps", "20", *TINY]
    statuses = sorted(done.returncode for done in run_together([lambda: run(*arguments)] * 2))
    assert statuses[0] == 0 and statuses[1] in (1, 2)
