"""Pictures made of pictures: the answer lies on the grid of the source and moves with it, and what is learnt tells in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the extra [image] is not here")

from hypothesis import given, settings
from hypothesis import strategies as st
from images import SMALL_OPTIONS, smooth_image
from PIL import Image
from runs import run
from sklearn.datasets import load_digits

import mapsto
from mapsto import kinds
from mapsto.cli.predict import predict
from mapsto.data.table import write_rows
from mapsto.kinds.image import ImageSource
from mapsto.metrics import image_similarity
from mapsto.pretrained import model_folder
from mapsto.sequence.corruption import make_generator
from mapsto.vision import image_io, resize
from mapsto.vision.patch_embedding import HEADER_BYTES
from mapsto.vision.resize import Resizer


def digits(count: int) -> list[dict[str, Any]]:
    """Digits with noise of a deviation of 50 steps, and without."""
    rng = np.random.default_rng(0)
    found = []
    for grey in load_digits().images[:count]:
        clean = np.repeat((grey * 15.9).astype(np.uint8)[:, :, None], 3, axis=2)
        noisy = np.clip(clean + rng.normal(0, 50, clean.shape), 0, 255).astype(np.uint8)
        found.append({"noisy": noisy, "clean": clean})
    return found


# Where the answer lies


@pytest.mark.parametrize("how", ["", *kinds.source("image").augmentations])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_answer_moves_with_its_source(how: str, scale: int) -> None:
    """Of a picture as its own answer, also in twice its size, the same lies in each patch, however the source is varied."""
    source = kinds.source("image")(Resizer(4, 64), [0.5] * 3, [0.25] * 3)  # type: ignore[call-arg]
    target = kinds.target("image")()
    target.bind({"image": source}, None)
    pixels = smooth_image(40, 64)
    answer = source.read(smooth_image(40 * scale, 64 * scale))
    (piece,) = source.encode([source.read(pixels)], 0, aligned=True)
    moved = set()
    for seed in range(12):
        varied = source.augment(piece, make_generator(seed, 0, 0), how, recolour=False) if how else piece
        told = target.encode(answer, (varied,))
        assert told.at is not None and told.at.tolist() == list(range(1, 161))
        truth, own = (told.values[:, i].astype(int) for i in range(2))
        assert np.array_equal(own, varied.tokens[1:, 5:]), "beside it stands what is read"
        off = np.abs(truth - own)
        assert off.max() == 0 if how in ("", "move", "mirror") and scale == 1 else off.mean() < 3, (how, off.max())
        moved.add(own.tobytes())
    assert len(moved) > 5 if how else len(moved) == 1


def test_what_is_learnt_from_is_moved_and_not_recoloured() -> None:
    rows = [{"a": smooth_image(16, 16, i), "b": smooth_image(16, 16, i)} for i in range(8)]
    model = mapsto.fit("a:image -> b:image", rows, steps=3, augment="crop", **SMALL_OPTIONS)
    for name, weight in model.mapping.named_parameters():
        if name.startswith("heads."):
            assert float(weight.detach().abs().max()) < 0.02, "what is equal stays equal, and there is nothing to learn"


@given(h=st.integers(2, 20), w=st.integers(2, 20), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_likeness(h: int, w: int, seed: int) -> None:
    """As the definitions say, window by window."""
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for _ in range(2))
    error = np.mean((one.astype(float) - other) ** 2)
    assert image_similarity.psnr(one, other) == pytest.approx(20 * np.log10(255) - 10 * np.log10(error))
    windows, (a, b) = [], (min(7, h), min(7, w))
    for y in range(h - a + 1):
        for x in range(w - b + 1):
            for c in range(3):
                u, v = (side[y : y + a, x : x + b, c].astype(float).ravel() for side in (one, other))
                both = np.mean(u * v) - u.mean() * v.mean()
                like = (2 * u.mean() * v.mean() + 6.5025) * (2 * both + 58.5225)
                windows.append(like / ((u.mean() ** 2 + v.mean() ** 2 + 6.5025) * (u.var() + v.var() + 58.5225)))
    assert image_similarity.ssim(one, other) == pytest.approx(np.mean(windows))
    assert image_similarity.ssim(one, one) == pytest.approx(1) and image_similarity.psnr(one, one) > 58


# As a user has them


@pytest.mark.slow
def test_digits_are_cleaned(tmp_path: Path) -> None:
    rows = digits(500)
    model = mapsto.fit("noisy:image -> clean:image", rows[:400], tmp_path / "run", epochs=30, **SMALL_OPTIONS)
    found = model.evaluate(rows[400:]).scores
    assert found["psnr_gained"].low > 3 and found["psnr_gained"].n == 100
    assert found["psnr"].value - found["psnr_unchanged"].value == pytest.approx(found["psnr_gained"].value, abs=1e-4)
    assert found["ssim"].low > found["ssim_unchanged"].high
    said = model.predict([row["noisy"] for row in rows[400:]])
    by_hand = [
        image_similarity.psnr(answer["image"], row["clean"]) for answer, row in zip(said, rows[400:], strict=True)
    ]
    assert np.mean(by_hand) == pytest.approx(found["psnr"].value, abs=1e-3)
    opened = mapsto.load(tmp_path / "run", precision="fp32")
    assert np.array_equal(opened(rows[400]["noisy"])["image"], said[0]["image"])
    assert {"patch_head.weight", "patch_head.bias"}.isdisjoint(
        model_folder.open_model_folder(tmp_path / "run").pretrained.tensors
    )


def test_from_files_to_files(tmp_path: Path) -> None:
    """Names beside the table on both sides, answers of other sizes, and a picture that is none."""
    (tmp_path / "in").mkdir()
    listed = []
    for i in range(8):
        Image.fromarray(smooth_image(16, 24, i)).save(tmp_path / "in" / f"{i}.png")
        Image.fromarray(255 - smooth_image(32, 48, i)).save(tmp_path / "in" / f"{i}-negative.png")
        listed.append({"photo": f"{i}.png", "negative": f"{i}-negative.png"})
    write_rows(tmp_path / "in" / "pairs.csv", ["photo", "negative"], listed)
    arrow, out = "photo:image -> negative:image", str(tmp_path / "run")
    given = [arrow, str(tmp_path / "in" / "pairs.csv"), "--out", out, "--steps", "3", "--layers", "1", "--width", "64"]
    done = run("fit", *given)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "page.html"
    scored = run("evaluate", out, str(tmp_path / "in" / "pairs.csv"), "--json", "--out", str(page))
    assert scored.returncode == 0 and json.loads(scored.stdout)["scores"]["psnr_unchanged"]["n"] == 8
    shown = page.read_text(encoding="utf-8")
    assert "Outputs" in shown and shown.count("data:image/jpeg;base64,") == 3 * 8
    write_rows(tmp_path / "in" / "new.csv", ["photo"], [{"photo": "0.png"}, {"photo": "none.png"}])
    said = run("predict", out, str(tmp_path / "in" / "new.csv"), "--out", str(tmp_path / "made"))
    assert said.returncode == 0 and "new.csv, row 3: photo: " in said.stderr and "wrote 1 file to" in said.stderr
    (path,) = (tmp_path / "made").iterdir()
    assert image_io.decode_image(path.read_bytes()).shape == (16, 24, 3)
    new = tmp_path / "in" / "new.csv"
    for into, draw, reason in (
        (None, None, "name a folder"),
        (Path("a.csv"), None, "name a folder"),
        (tmp_path / "m", tmp_path / "d", "--draw is for"),
    ):
        with pytest.raises(mapsto.MapstoError, match=reason):
            predict(out, [new], out=into, device="cpu", precision="fp32", long="cut", draw=draw)


def test_pictures_beside_other_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": smooth_image(8, 8, i), "b": smooth_image(8, 8, i), "label": "xy"[i % 2]} for i in range(8)]
    model = mapsto.fit("a:image -> b:image, label", rows, tmp_path / "run", steps=2, **SMALL_OPTIONS)
    (answer,) = model.predict(rows[:1])
    assert answer["label"]["label"] in "xy" and answer["b"]["image"].shape == (8, 8, 3)
    found = model.evaluate(rows)
    assert {"b: psnr", "label: accuracy"} <= set(found.scores)
    Image.fromarray(rows[0]["a"]).save(tmp_path / "a.png")
    write_rows(tmp_path / "t.csv", ["a"], [{"a": "a.png"}])
    predict(
        str(tmp_path / "run"), [tmp_path / "t.csv"], out=tmp_path / "made", device="cpu", precision="fp32", json=True
    )
    assert Path(json.loads(capsys.readouterr().out)["b"]["image"]).parent == tmp_path / "made"


@pytest.mark.parametrize(
    ("arrow", "said"),
    [
        ("text -> image", "needs `image` among the sources"),
        ("image -> image", "say which"),
    ],
)
def test_what_cannot_be_made(arrow: str, said: str) -> None:
    rows = [{"text": f"row {i}", "image": smooth_image(8, 8, i), "more": smooth_image(8, 8, i)} for i in range(4)]
    kept = [{name: row[name] for name in row if "text" in arrow or name != "text"} for row in rows]
    if "text" in arrow:
        kept = [{"text": row["text"], "image": row["image"]} for row in kept]
    with pytest.raises(mapsto.MapstoError, match=said):
        mapsto.fit(arrow, kept, steps=1, device="cpu")


def test_one_column_is_not_both() -> None:
    with pytest.raises(mapsto.MapstoError, match="2 ports are left for the one column 'image'"):
        mapsto.fit("image -> image", [{"image": smooth_image(8, 8, i)} for i in range(4)], steps=1, device="cpu")


# Filled in where a mask says


def test_what_a_mask_marks_is_filled_in(tmp_path: Path) -> None:
    """Patches that it touches, in a picture read smaller than it is; the others stay."""
    rows = [{"image": smooth_image(32, 64, i)} for i in range(6)]
    model = mapsto.pretrain("image", rows, tmp_path / "base", steps=2, size=32, **SMALL_OPTIONS)
    source = model.mapping.sources["image"]
    assert isinstance(source, ImageSource) and source.resizer.patch == 8
    mask = np.zeros((32, 64), np.uint8)
    mask[15:17, 40] = 1  # of the rows of patches, 16 raw pixels each, both; of the columns one
    (filled,) = model.complete([rows[0]["image"]], mask=mask)
    (piece,) = source.encode([source.read(rows[0]["image"])], 0)
    before = resize.join_patches(piece.tokens[~piece.special, HEADER_BYTES:], (2, 4), 8)
    changed = (filled != before).any(axis=2).reshape(2, 8, 4, 8).any(axis=(1, 3))
    assert changed.tolist() == [[False, False, True, False]] * 2
    coloured = np.repeat(mask[:, :, None], 3, axis=2)
    for same in (coloured, [coloured], image_io.encode_png(coloured)):
        assert np.array_equal(model.complete([rows[0]["image"]], mask=same)[0], filled)


def test_masks_have_the_names_of_their_pictures(tmp_path: Path) -> None:
    model = mapsto.pretrain("image", [{"image": smooth_image(16, 16, i)} for i in range(6)], steps=2, **SMALL_OPTIONS)
    model.save(tmp_path / "base")
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for i in range(2):
        Image.fromarray(smooth_image(16, 16, i)).save(tmp_path / "photos" / f"{i}.bmp")
        mask = np.zeros((16, 16), np.uint8)
        mask[: 8 * (i + 1)] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    base, photos, filled = str(tmp_path / "base"), tmp_path / "photos", tmp_path / "filled"
    done = run("predict", base, str(photos), "--mask", str(tmp_path / "masks"), "--out", str(filled))
    assert done.returncode == 0, done.stderr
    for i, path in enumerate(sorted(filled.iterdir())):
        before, after = smooth_image(16, 16, i), image_io.decode_image(path.read_bytes())
        assert np.array_equal(after[8 * (i + 1) :], before[8 * (i + 1) :]) and not np.array_equal(after[:8], before[:8])
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "nothing.png")
    Image.fromarray(np.full((8, 16), 255, np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "masks" / "1.png").unlink()
    for mask, hide, said in (
        ("masks", None, "no mask for"),
        ("nowhere.png", None, "no such file"),
        ("nothing.png", None, "marks nothing"),
        ("small.png", None, "16 × 8 pixels"),
        ("base/README.md", None, "no picture of a known format"),
        ("small.png", 0.5, "not both"),
    ):
        with pytest.raises(mapsto.MapstoError, match=said):
            predict(base, [photos], out=filled, device="cpu", precision="fp32", hide=hide, mask=tmp_path / mask)


def test_texts_have_no_masks() -> None:
    model = mapsto.pretrain("text", [{"text": f"row {i}"} for i in range(20)], steps=1, vocabulary=300, **SMALL_OPTIONS)
    with pytest.raises(mapsto.MapstoError, match="'text' cannot be masked by a picture"):
        model.complete(["row 3"], mask="mask.png")
