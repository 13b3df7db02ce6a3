"""The inference engines that prediction is compared with, set up as their documentation advises.

An engine classifies texts in batches of a given size, tokenization included, with as many threads as torch has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from common import seconds
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

Engine = Callable[[Sequence[str], int], list[int]]  # texts and the size of a batch → their classes
Way = Callable[[Sequence[str]], list[int]]
Reader = Callable[[Sequence[str]], Mapping[str, NDArray[np.int64]]]
EXAMPLE = ["Two texts of different lengths,", "so that there is padding."]
SIZES = (8, 16, 32, 64)


class Mean(torch.nn.Module):
    """Cheap replacement for the last layer of a saved classifier, which only computes the mean of the tokens.

    mapsto saves a classifier that reads the mean with such a layer, so that `transformers` can open it, but predicts
    without the layer. For a fair comparison the peers do not run it either.
    """

    def forward(self, hidden_bld: Tensor, mask_b1ll: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Return the normalised mean, (b, 1, d); the classifier reads it as the state of the first token."""
        seen_b1l = hidden_bld.new_ones(1, hidden_bld.shape[1]) if mask_b1ll is None else mask_b1ll[:, 0, :1]
        seen_b1l = seen_b1l.to(hidden_bld.dtype)
        mean = seen_b1l @ hidden_bld / seen_b1l.sum(-1, keepdim=True)
        return torch.nn.functional.layer_norm(mean, mean.shape[-1:], eps=1e-12)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the classifier in a folder of mapsto, without the layer that computes the mean (see Mean)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    if getattr(model.config, "mapsto_pooling", None) == "normed_mean":
        model.bert.encoder.layer[-1] = Mean()
    return model


def reader(folder: Path) -> Reader:
    """Return a function that turns texts into a padded batch, with the bare fast tokenizer of the folder."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(512)

    def read(texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        rows = tokenizer.encode_batch(list(texts))
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        return {name: np.array([getattr(row, part) for row in rows], np.int64) for name, part in parts.items()}

    return read


def onnxruntime_int8(model: PreTrainedModel, read: Reader) -> Engine:
    """Return the engine ONNX Runtime with dynamic int8 quantization.

    Each output channel has a scale of its own, which is as fast as one scale for all, and more accurate.
    """
    folder = Path(tempfile.mkdtemp())
    example = {name: torch.from_numpy(values) for name, values in read(EXAMPLE).items()}
    free = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        model,
        kwargs=example,
        f=folder / "fp32.onnx",
        dynamic_shapes=dict.fromkeys(example, free),
        external_data=False,
        verbose=False,
    )
    quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx", per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])

    def answer(texts: Sequence[str], size: int) -> list[int]:
        logits = [session.run(None, read(texts[at : at + size]))[0] for at in range(0, len(texts), size)]
        return np.concatenate(logits).argmax(-1).tolist()

    return answer


def compiled_bf16(model: PreTrainedModel, example: Mapping[str, Tensor]) -> openvino.CompiledModel:
    """Return the model compiled by OpenVINO in bf16, with all threads on one batch."""
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return openvino.compile_model(openvino.convert_model(model, example_input=dict(example)), "CPU", settings)


def openvino_bf16(model: PreTrainedModel, read: Reader) -> Engine:
    """Return the engine OpenVINO in bf16.

    It is converted from torch and not from ONNX, because attention then stays one operation, which is faster. All threads
    work on one batch. With the THROUGHPUT hint and a batch for each thread it was about 3 % faster, but three of five runs
    ended with a corrupted heap (version 2026.4.1, two streams, varying shapes).
    """
    compiled = compiled_bf16(model, {name: torch.from_numpy(values) for name, values in read(EXAMPLE).items()})

    def answer(texts: Sequence[str], size: int) -> list[int]:
        logits = [compiled(read(texts[at : at + size]))[0] for at in range(0, len(texts), size)]
        return np.concatenate(logits).argmax(-1).tolist()

    return answer


def by_length(engine: Engine, size: int) -> Way:
    """Return a function that classifies texts with an engine in batches of `size`, sorted by length.

    The answers are in the order of the texts.
    """

    def answer(texts: Sequence[str]) -> list[int]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        answers = engine([texts[i] for i in order], size)
        return [answers[i] for i in np.argsort(order)]

    return answer


def best_size(engine: Engine, texts: Sequence[str]) -> int:
    """Return the batch size at which an engine answers these texts fastest.

    Each size is timed twice after a warm-up, and the faster time counts.
    """

    def took(size: int) -> float:
        _, *others = [seconds(lambda: by_length(engine, size)(texts)) for _ in range(3)]
        return min(others)

    return min(SIZES, key=took)
