"""Convolutional starts as users have them: their sizes and names, fitted to answers, explained, and what they refuse."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("PIL", reason="the extra [image] is not here")

from models import CLOSE, NETWORKS
from runs import boxed, write_photos
from transformers import AutoModelForImageClassification
from vision_models import edit_json, make_processor, make_vision_model, pack_values, reference_pixels, smooth_pictures

import mapsto
from mapsto import zoo
from mapsto.cli.info import info
from mapsto.errors import CheckpointError, UsageError
from mapsto.explain.attribution import METHODS
from mapsto.fitting.trace import trace
from mapsto.kinds.image import ImageSource
from mapsto.model.mapping import SkipInit
from mapsto.pretrained import huggingface, model_folder
from mapsto.training import checkpoint
from mapsto.vision.image_io import decode_image
from mapsto.vision.resize import Resizer

RESNETS = {
    18: ("basic", [64, 128, 256, 512], [2, 2, 2, 2]),
    34: ("basic", [64, 128, 256, 512], [3, 4, 6, 3]),
    50: ("bottleneck", [256, 512, 1024, 2048], [3, 4, 6, 3]),
    101: ("bottleneck", [256, 512, 1024, 2048], [3, 4, 23, 3]),
    152: ("bottleneck", [256, 512, 1024, 2048], [3, 8, 36, 3]),
}
VGGS = {11: [1, 1, 2, 2, 2], 13: [2, 2, 2, 2, 2], 16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}
CONVNEXTS = {"tiny": ([96, 192, 384, 768], [3, 3, 9, 3]), "large": ([192, 384, 768, 1536], [3, 3, 27, 3])}
# Millions of weights as torchvision counts them, up to the classifier over 1,000 classes, whose size follows.
COUNTED = [
    *(
        ("resnet", {"layer_type": kind, "hidden_sizes": widths, "depths": depths}, count - 1000 * (widths[-1] + 1))
        for (kind, widths, depths), count in zip(
            RESNETS.values(), (11_689_512, 21_797_672, 25_557_032, 44_549_160, 60_192_808), strict=True
        )
    ),
    *(
        ("vgg", {"depths": depths}, count - 25_089 * 4096 - 4097 * 4096 - 4097 * 1000)
        for depths, count in zip(VGGS.values(), (132_863_336, 133_047_848, 138_357_544, 143_667_240), strict=True)
    ),
    *(
        ("convnext", {"hidden_sizes": widths, "depths": depths}, count - 1000 * (widths[-1] + 1) - 2 * widths[-1])
        for (widths, depths), count in zip(CONVNEXTS.values(), (28_589_128, 197_767_336), strict=True)
    ),
]


@pytest.mark.parametrize(("family", "given", "count"), COUNTED)
def test_published_networks_have_their_size_and_their_grid(family: str, given: dict[str, Any], count: int) -> None:
    config = zoo.get_family(family).read_config(given)
    assert config.backbone is not None and config.backbone.stride == 32
    with torch.device("meta"), SkipInit():
        network = config.backbone.network()
        assert network(torch.zeros(1, 3, 224, 160)).shape == (1, config.transformer.width, 7, 5)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count
    assert zoo.get_family(family).read_config(zoo.get_family(family).write_config(config)) == config


@pytest.mark.parametrize("shape", NETWORKS)
def test_every_stage_gives_what_it_gives_there(shape: str, tmp_path: Path) -> None:
    reference = make_vision_model(shape, "body", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    given: list[torch.Tensor] = []
    for stage in mapping.get_submodule("embedders.image.network.blocks").children():
        stage.register_forward_hook(lambda module, inputs, output: given.append(output))
    mapping.embed(pack_values(mapping, smooth_pictures()))
    _, *expected = reference(reference_pixels(tmp_path, smooth_pictures()), output_hidden_states=True)["hidden_states"]
    assert len(given) == len(expected) > 1
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_pictures_of_several_grids_are_read_together(tmp_path: Path) -> None:
    """Compute images of several sizes in one batch as one by one, in their order."""
    make_vision_model("resnet", "body", tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", mapsto_fit="inside")
    model = mapsto.load(tmp_path, device="cpu", precision="fp32")
    values = smooth_pictures(((32, 32), (16, 32), (32, 32), (24, 16), (16, 32)))
    together = model.embed(values)
    assert np.allclose(together, np.concatenate([model.embed([value]) for value in values]), atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-3


def test_places_lie_between_the_cells(tmp_path: Path) -> None:
    """Read the cells of the network's own grid; in another grid each cell is the mean of the cells around it."""
    make_vision_model("resnet", "body", tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", mapsto_fit="inside")
    source = model_folder.load_mapping(tmp_path).sources["image"]
    for piece in source.encode([source.read(value) for value in smooth_pictures(((32, 32), (16, 32), (24, 16)))], 0):
        grid = tuple(map(int, piece.tokens[0, 3:5]))
        at, shares = source.tokens_around(piece, grid)
        assert (at[np.arange(len(piece)), shares.argmax(1)] == np.arange(len(piece))).all() and (
            shares.max(1) == 1
        ).all()
        at, shares = source.tokens_around(piece, (3, 5))
        where = (piece.positions[at] * shares[..., None]).sum(1) + 0.5
        wanted = (np.indices((3, 5)).reshape(2, -1).T + 0.5) / (3, 5) * grid
        assert np.allclose(shares.sum(1), 1) and np.allclose(where, wanted.clip(0.5, np.array(grid) - 0.5), atol=1e-6)


def test_pictures_are_read_in_their_own_shape_of_whole_cells(photos: Path, tmp_path: Path) -> None:
    make_vision_model("resnet", "body", tmp_path / "start", "middle")
    given: dict[str, Any] = {"steps": 2, "size": 20, "device": "cpu", "precision": "fp32"}
    clf = mapsto.fit("image -> label", str(photos), tmp_path / "clf", start=tmp_path / "start", **given)
    source = model_folder.load_mapping(tmp_path / "clf").sources["image"]
    assert isinstance(source, ImageSource) and source.resizer == Resizer(8, 16, "inside")
    pieces = source.encode([source.read(value) for value in smooth_pictures(((32, 32), (20, 44)))], 0)
    assert [piece.tokens[0, 3:5].tolist() for piece in pieces] == [[2, 2], [1, 2]]
    assert mapsto.load(tmp_path / "clf", device="cpu", precision="fp32")(smooth_pictures()[2]) == clf(
        smooth_pictures()[2]
    )


def torchvision(name: str) -> str:
    """Return torchvision's name of a weight of a ResNet."""
    kinds = {"convolution": "conv", "normalization": "bn"}
    name = re.sub(r"resnet\.encoder\.stages\.(\d)\.layers", lambda m: f"layer{int(m[1]) + 1}", name)
    name = re.sub(r"resnet\.embedder\.embedder\.(\w+)", lambda m: f"{kinds[m[1]]}1", name)
    name = re.sub(r"\.layer\.(\d)\.(\w+)", lambda m: f".{kinds[m[2]]}{int(m[1]) + 1}", name)
    name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    return name.replace("classifier.1.", "fc.")


def test_resnets_open_under_the_names_of_torchvision(tmp_path: Path) -> None:
    make_vision_model("resnet:bottleneck", "label", tmp_path)
    before = huggingface.open_pretrained(str(tmp_path)).tensors
    held = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors = {torchvision(name): tensor for name, tensor in held.items()}
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer2.0.downsample.0.weight",
        "layer3.1.conv3.weight",
        "fc.bias",
    } <= set(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    after = huggingface.open_pretrained(str(tmp_path)).tensors
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_of_a_vgg_the_classifier_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    make_vision_model("vgg", "body", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file({**tensors, "classifier.0.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    page = (Path(__file__).parents[2] / "docs" / "picture-models.md").read_text(encoding="utf-8")
    (tmp_path / "preprocessor_config.json").write_text(page.split("```text\n")[1].split("```")[0])
    start = huggingface.open_pretrained(str(tmp_path))
    assert start.labels is None and "left out (1 in all): classifier.0.weight" in start.notes[0]
    assert start.sources["image"].max_tokens == (224 // 8) ** 2
    safetensors.torch.save_file({**tensors, "features.99.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not know: features\.99"):
        huggingface.open_pretrained(str(tmp_path))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "photos"
    write_photos(folder, 40)
    return folder


def told(photos: Path) -> list[dict[str, Any]]:
    """Return photos with a label and a box."""
    box = {"label": "sun", "box": [1, 2, 9, 8]}
    paths = sorted(photos.rglob("*.png"))
    return [{"image": str(path), "label": path.parent.name, "boxes": [box]} for path in paths]


@pytest.mark.parametrize("shape", ["resnet", "convnext", "vgg:normed"])
def test_from_a_start_to_answers(shape: str, photos: Path, tmp_path: Path) -> None:
    make_vision_model(shape, "body", tmp_path / "start")
    given: dict[str, Any] = {"epochs": 12, "rate": 1e-2, "layer_decay": 0.9, "method": "full", "device": "cpu"}
    mapsto.fit("image -> label", str(photos), tmp_path / "clf", start=tmp_path / "start", precision="fp32", **given)
    before, after = (model_folder.load_mapping(tmp_path / name) for name in ("start", "clf"))
    for (name, one), (_, other) in zip(before.named_parameters(), after.named_parameters(), strict=False):
        assert torch.equal(one, other) == ("running_" in name), name
    paths = sorted(photos.rglob("*.png"))
    clf = mapsto.load(tmp_path / "clf", device="cpu", precision="fp32")
    scores = clf.evaluate([{"image": str(path), "label": path.parent.name} for path in paths]).scores
    assert scores["accuracy"].value > 0.9
    if shape != "vgg:normed":  # which transformers does not have
        theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "clf").eval()
        pixels = reference_pixels(tmp_path / "clf", [decode_image(path.read_bytes()) for path in paths])
        pooled = theirs.base_model(pixels).pooler_output.flatten(1)
        torch.testing.assert_close(torch.from_numpy(clf.embed([str(path) for path in paths])), pooled, **CLOSE)
        shares = torch.softmax(theirs(pixels).logits, -1)
        answers = clf.predict([str(path) for path in paths])
        ours = torch.tensor([[answer["scores"][theirs.config.id2label[i]] for i in range(2)] for answer in answers])
        torch.testing.assert_close(ours, shares, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_cells_that_decided_are_told(method: str, tmp_path: Path) -> None:
    """Explain all cells of the grid in pixels of the picture; integrated gradients sum to the score that they explain."""
    make_vision_model("convnext", "label", tmp_path)
    (why,) = mapsto.load(tmp_path, device="cpu", precision="fp32").explain([smooth_pictures()[2]], method)
    assert len(why.parts) == 16 and len({part.weight for part in why.parts}) == 16
    regions = np.array([part.region for part in why.parts])
    assert regions.min() == 0 and regions[:, 0].max() == 50 and regions[:, 1].max() == 31
    if method == "integrated":
        total = sum(part.weight for part in why.parts)
        assert total == pytest.approx(why.score - why.baseline_score, abs=1e-2 * abs(why.score - why.baseline_score))


@pytest.mark.parametrize("arrow", ["image -> label", "image -> boxes"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(arrow: str, photos: Path, tmp_path: Path) -> None:
    make_vision_model("resnet", "body", tmp_path / "start")
    given: dict[str, Any] = {"start": tmp_path / "start", "steps": 6, "save_every": 3, "device": "cpu"}
    rows = told(photos)
    mapsto.fit(arrow, rows, tmp_path / "whole", **given)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (tmp_path / "stopped" / model_folder.MANIFEST_FILE).unlink()
    (tmp_path / "stopped" / "model.safetensors").unlink()
    shutil.rmtree(checkpoint.checkpoint_folder(tmp_path / "stopped", 6))
    mapsto.fit(arrow, rows, tmp_path / "stopped", **given)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert one == other


def test_what_is_left_out_of_a_picture_is_painted_over(tmp_path: Path) -> None:
    make_vision_model("resnet", "label", tmp_path)
    source = model_folder.load_mapping(tmp_path).sources["image"]
    (piece,) = source.encode([source.read(smooth_pictures()[0])], 0)
    left, blank = source.remove_tokens(piece, np.array([2, 5])), source.blank(piece)
    changed = (left.tokens != piece.tokens).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [2, 5]
    assert np.array_equal(left.tokens[[2, 5], 5:], blank.tokens[[2, 5], 5:])


def test_a_comparison_and_a_probe_run_from_such_starts(photos: Path, tmp_path: Path) -> None:
    make_vision_model("resnet", "body", tmp_path / "resnet")
    found = mapsto.compare(
        "image -> label", str(photos), tmp_path / "cmp", starts=["scratch", str(tmp_path / "resnet")], labels=[8],
        seeds=1, methods=["full", "probe"], epochs=1, device="cpu", precision="fp32",
    )  # fmt: skip
    assert {"scratch, full", "resnet, full", "resnet, probe"} <= set(found.curves)


@pytest.mark.parametrize(
    ("arrow", "given", "said"),
    [
        ("~image -> image", {}, "no part of a picture can be hidden or read alone"),
        ("~image -> image, label", {}, "no part of a picture can be hidden or read alone"),
        ("~image -> image", {"objective": "mae"}, "no part of a picture can be hidden or read alone"),
        ("~image -> image", {"objective": "simclr"}, "no part of a picture can be hidden or read alone"),
        ("~image -> image", {"size": 50}, "reads pictures up to 48 × 48 pixels"),
        ("image -> label", {"lora": 2}, "the start has none"),
        ("image -> label", {"freeze": "1"}, "more than the 0 layers"),
        ("image -> label", {"length": 8}, "reads its values whole"),
    ],
)
def test_what_such_a_start_cannot_do_is_said(
    arrow: str, given: dict[str, Any], said: str, photos: Path, tmp_path: Path
) -> None:
    make_vision_model("resnet", "body", tmp_path)
    with pytest.raises(UsageError, match=said) as raised:
        mapsto.fit(arrow, told(photos), start=tmp_path, device="cpu", **given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arrow", ["image -> label", "image -> label, boxes"])
def test_frozen_as_a_whole_only_what_is_new_learns(arrow: str, photos: Path, tmp_path: Path) -> None:
    make_vision_model("convnext", "body", tmp_path)
    before = model_folder.load_mapping(tmp_path)
    clf = mapsto.fit(
        arrow,
        told(photos),
        start=tmp_path,
        steps=2,
        freeze="all",
        method="full",
        device="cpu",
        precision="fp32",
    )
    after = dict(clf.mapping.named_parameters())
    for name, weight in before.named_parameters():
        assert torch.equal(weight, after[name]), name
    new = {name for name in after if name not in dict(before.named_parameters())}
    assert {name.split(".")[0] for name in new} == {"heads"}


def both(start: int, end: int) -> list[dict[str, Any]]:
    """Return pictures with boxes, and the number of boxes."""
    shown = map(boxed, range(start, end))
    return [{"image": pixels, "boxes": boxes, "label": str(len(boxes))} for pixels, boxes in shown]


@pytest.mark.parametrize(
    "shape", ["resnet:bottleneck", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext", "vgg:normed"))]
)
def test_boxes_are_learnt_behind_a_network(shape: str, tmp_path: Path) -> None:
    """Train a detector from random weights; its precision is far above that of random boxes."""
    make_vision_model(shape, "body", tmp_path / "start")
    how: dict[str, Any] = {"size": 48, "hold_out": 0, "device": "cpu", "precision": "fp32"}
    model = mapsto.fit(
        "image -> label, boxes", both(0, 24), tmp_path / "det", start=tmp_path / "start", steps=150, batch=24, rate=2e-3,
        augment="none", **how,
    )  # fmt: skip
    assert model.evaluate(both(0, 24)).scores["boxes: map50"].value > 0.25
    again, shown = mapsto.load(tmp_path / "det", "cpu", "fp32"), [{"image": row["image"]} for row in both(24, 28)]
    assert again.predict(shown) == model.predict(shown)
    if shape != "vgg:normed":  # which transformers does not have
        theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "det").eval()
        source = again.mapping.sources["image"]
        assert isinstance(source, ImageSource)
        pixels = torch.stack([torch.from_numpy(row["image"]) for row in shown]) / 255
        logits = theirs(((pixels - torch.tensor(source.mean)) / torch.tensor(source.std)).permute(0, 3, 1, 2)).logits
        ours = torch.tensor([list(answer["label"]["scores"].values()) for answer in again.predict(shown)])
        torch.testing.assert_close(ours, torch.softmax(logits, -1), atol=1e-4, rtol=1e-4)
    for start in (tmp_path / "det", model):  # goes on, in another size; and without the boxes
        mapsto.fit("image -> boxes", both(0, 8), start=start, steps=1, **{**how, "size": 32})
        mapsto.fit("image -> label", both(0, 8), start=start, steps=1, method="full", **how)


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [
        ("resnet", {"layer_type": "wide"}, "layer_type must be"),
        ("resnet", {"hidden_act": "gelu"}, "only 'relu'"),
        ("resnet", {"hidden_sizes": [8, 16, 32]}, "different numbers of stages"),
        ("resnet", {"hidden_sizes": 8}, "must list"),
        ("resnet", {"hidden_sizes": [8, -1]}, "whole number"),
        ("resnet", {"depths": [2, 10**6]}, "up to 256"),
        ("resnet", {"depths": [200, 200]}, "does not fit"),
        ("resnet", {"depths": [2, 2]}, "lacks the weight"),
        ("resnet", {"embedding_size": 16}, "has shape"),
        ("resnet", {"num_channels": 1}, "three channels"),
        ("convnext", {"num_stages": 4}, "num_stages is 4"),
        ("convnext", {"layer_scale_init_value": "x"}, "must be a number"),
        ("vgg", {"batch_norm": True}, "lacks the weight|has shape"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(shape: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    make_vision_model(shape, "body", tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=said):
        model_folder.load_mapping(tmp_path)


def test_pictures_of_other_sizes_than_whole_cells_are_refused(tmp_path: Path) -> None:
    make_vision_model("resnet", "body", tmp_path)
    for how in ("squash", "middle", "convnext", "deit"):
        make_processor(how, 36).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="whole cells of 8 pixels, not 36"):
            model_folder.load_mapping(tmp_path)


def test_trace_and_info_tell_of_the_network(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_vision_model("resnet", "label", tmp_path)
    info(str(tmp_path))
    assert "a convolutional network of 2, 1 layers" in capsys.readouterr().out
    traced = "\n".join(trace("image -> label", photos, str(tmp_path), 1))
    assert "tokens   image: 16, of which 0 are the frame" in traced and "a convolutional network of 2, 1" in traced
    with pytest.raises(UsageError, match="no part of a picture"):
        list(trace("~image -> image", photos, str(tmp_path), 1))
