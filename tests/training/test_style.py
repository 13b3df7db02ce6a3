"""The style loss: predicted images compared by the features of a pretrained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("PIL", reason="the extra [image] is not here")

from images import IMAGE_PAIRS, SMALL_OPTIONS, check_judged_one_by_one, smooth_image
from mappings import small_mapping
from models import CLOSE, NETWORKS, VISION
from PIL import Image
from runs import run
from vision_models import make_vision_model, pack_values, smooth_pictures

import mapsto
from mapsto.errors import UsageError
from mapsto.fitting.build_model import open_feature_network
from mapsto.kinds.image import ImageSource
from mapsto.training.objectives.style import StyleLoss, feature_maps
from mapsto.vision.patch_embedding import HEADER_BYTES
from mapsto.vision.resize import join_patches


@pytest.mark.parametrize("shape", [*VISION, *NETWORKS])
def test_feature_maps_equal_the_networks_outputs(shape: str, tmp_path: Path) -> None:
    """The last map equals the output of the model without heads, and gradients reach the pixels from every depth."""
    make_vision_model(shape, "body", tmp_path)
    network = open_feature_network(str(tmp_path)).eval()
    source = network.sources["image"]
    assert isinstance(source, ImageSource)
    value = smooth_pictures(((40, 40),))[0]
    (piece,) = source.encode([source.read(value)], 0)
    inner, grid = ~piece.special, (int(piece.tokens[0, 3]), int(piece.tokens[0, 4]))
    patches = piece.tokens[inner, HEADER_BYTES:]
    image = torch.from_numpy(join_patches(patches, grid, source.resizer.patch))
    pixels = image.permute(2, 0, 1)[None] / 255
    pixels.requires_grad_(True)
    maps = feature_maps(network, pixels)
    expected = network.hidden(pack_values(network, [value])).flatten(0, 1)[: len(piece)][torch.from_numpy(inner)]
    last = F.max_pool2d(maps[-1], 2) if shape.startswith("vgg") else maps[-1]
    torch.testing.assert_close(last.flatten(2)[0].T, expected, **CLOSE)
    for features in maps:
        (gradient,) = torch.autograd.grad(features.square().sum(), pixels, retain_graph=True)
        assert (gradient != 0).float().mean() > 0.7, "but where a network with strides and rectifiers is blind"


def test_style_and_content_of_an_image_are_nearest_to_its_own(tmp_path: Path) -> None:
    """Zero for the image itself; mirrored, and for another image, above zero."""
    make_vision_model("resnet", "body", tmp_path)
    network = open_feature_network(str(tmp_path))
    one, other = (torch.from_numpy(smooth_image(32, 32, seed)).permute(2, 0, 1)[None] / 255 for seed in (1, 2))
    style_loss = StyleLoss(network, one, 1.0)
    mapping, _ = small_mapping("~image -> image")
    same, mirrored, apart = (
        float(style_loss(mapping, predicted, source, source))
        for predicted, source in ((one, one), (one.flip(3), one), (other, other))
    )
    assert same == pytest.approx(0, abs=1e-6) and apart > 0.01 and mirrored > 0.01


def test_packed_images_have_the_sum_of_their_losses(tmp_path: Path) -> None:
    """The loss of packed images of two shapes is the sum of their losses one by one."""
    mapping, examples = small_mapping("image:image -> clean:image")
    torch.nn.init.normal_(mapping.heads[0].weight, std=0.02)
    make_vision_model("resnet", "body", tmp_path)
    check_judged_one_by_one(
        StyleLoss(open_feature_network(str(tmp_path)), torch.rand(1, 3, 16, 16), 2.0), mapping, examples
    )


# Through the public API


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vgg")
    make_vision_model("vgg", "body", folder)
    return str(folder)


def test_images_take_on_a_style(network: str, tmp_path: Path) -> None:
    """From a folder of images alone: grey ones become redder by the style of a red one."""
    (tmp_path / "photos").mkdir()
    for i in range(12):
        grey = smooth_image(16, 16, i).mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "photos" / f"{i:02}.png")
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = np.random.default_rng(0).integers(150, 255, (16, 16))
    Image.fromarray(red).save(tmp_path / "red.png")
    photos, red_file = str(tmp_path / "photos"), str(tmp_path / "red.png")
    style: dict[str, Any] = {"style": red_file, "features": network, "style_weight": 3.0}
    mapsto.fit("image -> image", photos, tmp_path / "run", steps=60, **style, **{**SMALL_OPTIONS, "layers": 1})
    done = run("predict", str(tmp_path / "run"), photos, "--out", str(tmp_path / "made"))
    assert done.returncode == 0 and "wrote 12 files" in done.stderr
    redder = []
    for before, after in zip(
        sorted((tmp_path / "photos").iterdir()), sorted((tmp_path / "made").iterdir()), strict=True
    ):
        of = [np.asarray(Image.open(path)).astype(float).mean((0, 1)) for path in (before, after)]
        redder.append((of[1][0] - of[1][1:].mean()) - (of[0][0] - of[0][1:].mean()))
    assert np.mean(redder) > 10
    for wrong, reason in (
        ({"features": None}, "name its folder with features="),
        ({"style": None}, "without style="),
        ({"features": str(tmp_path / "nowhere")}, "no such folder"),
        ({"style": str(tmp_path / "none.png")}, "no such file"),
        ({"style": str(tmp_path / "run" / "config.json")}, "no picture of a known format"),
        ({"style_weight": 0.0}, "above 0"),
    ):
        with pytest.raises(UsageError, match=reason):
            mapsto.fit("image -> image", photos, steps=1, **{**SMALL_OPTIONS, **style, **wrong})


@pytest.mark.parametrize(
    ("arrow", "given", "message"),
    [
        ("image:image -> clean:image", {"style": "x.png", "features": "f"}, "needs no pairs"),
        ("image -> label", {"style": "x.png", "features": "f"}, "needs no pairs"),
        ("~image:image -> image", {"style": "x.png", "features": "f"}, "would change nothing"),
        ("image -> label", {"adversarial": 0.1}, "predict one image"),
    ],
)
def test_unsuitable_arrows_are_errors(arrow: str, given: dict[str, Any], message: str) -> None:
    rows = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(IMAGE_PAIRS)]
    with pytest.raises(UsageError, match=message):
        (mapsto.pretrain if "~" in arrow else mapsto.fit)(arrow, rows, steps=1, **given, **SMALL_OPTIONS)
