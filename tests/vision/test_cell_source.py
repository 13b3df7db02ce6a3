"""Linear models of pictures: `--method linear`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="the extra [image] is not here")

from runs import require_better_than_constant, run

import mapsto
from mapsto.errors import CheckpointError
from mapsto.vision import image_io
from mapsto.vision.cell_source import CellSource

SIDE = 24


def make_rows(count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Return noisy pictures, half of them with stripes in the lower right corner, of 24 rows and 36 columns."""
    rng, rows = np.random.default_rng(seed), []
    for index in range(count):
        image = rng.integers(100, 140, (SIDE, SIDE * 3 // 2, 3)).astype(np.uint8)
        if index % 2:
            image[18:, 27::2] = 250
        words = {"number": float(index % 2), "labels": ["striped"] if index % 2 else ["plain"]}
        rows.append({"image": image, "label": ["plain", "striped"][index % 2], **words})
    return rows


ROWS, TEST = make_rows(), make_rows(20, seed=1)


@pytest.fixture(scope="module")
def model() -> mapsto.Model:
    return mapsto.fit("image -> label", ROWS, method="linear", hold_out=0)


def test_the_sum_of_the_tokens_is_the_linear_map_of_the_features() -> None:
    source = CellSource()
    values = [source.read(row["image"]) for row in ROWS[:3]]
    whole = source.encode(values, 0)
    pieces = [*whole, source.remove_tokens(whole[0], np.array([0, 7, 35])), source.blank(whole[1])]
    table = source.embedder(5)
    weight = table.get_parameter("weight")
    torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    sums = torch.stack([table(torch.from_numpy(piece.tokens)).sum(0) for piece in pieces])
    expected = torch.from_numpy(source.features(pieces)) @ weight
    assert weight.shape == (source.num_features, 5) and len(pieces[3]) == 33
    torch.testing.assert_close(sums, expected, atol=1e-5, rtol=1e-5)
    assert not expected[4].any() and (expected[3] - expected[0]).abs().max() > 0.01


def test_cells_cover_the_raw_picture() -> None:
    source = CellSource()
    (piece,) = source.encode([source.read(ROWS[0]["image"])], 0, aligned=True)
    assert piece.alignment is not None and piece.alignment.whole is not None
    assert piece.alignment.whole.tolist() == [[0, 24], [0, 36]]
    assert piece.alignment.regions[7].tolist() == [[4, 8], [6, 12]] and source.token_names(piece)[7] == "1,1"
    areas = np.prod(piece.alignment.regions[:, :, 1] - piece.alignment.regions[:, :, 0], axis=1)
    assert areas.sum() == pytest.approx(24 * 36)


def test_it_is_saved_and_opened(tmp_path: Path, model: mapsto.Model) -> None:
    folder = tmp_path / "saved"
    model.save(folder)
    images = [row["image"] for row in TEST]
    opened = mapsto.load(folder)
    assert opened.predict(images) == model.predict(images)
    assert opened.evaluate(TEST).scores["accuracy"].value == 1
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "cell_size": 4}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="'cell_size': 4"):
        CellSource.open(folder, {})


def test_the_parts_that_decided_are_highlighted(model: mapsto.Model) -> None:
    (explanation,) = model.explain([TEST[1]["image"]])
    (top, _), (left, _) = max(explanation.parts, key=lambda part: abs(part.weight)).region
    assert explanation.answer["label"] == "striped" and top >= 16 and left >= 24
    total = sum(part.weight for part in explanation.parts)
    assert total == pytest.approx(explanation.score - explanation.baseline_score, abs=1e-3)


@pytest.mark.parametrize("arrow", ["image -> number", "image -> labels", "image -> label, number"])
def test_other_answers(arrow: str, tmp_path: Path) -> None:
    model = mapsto.fit(arrow, ROWS, tmp_path / "run", method="linear", hold_out=0)
    require_better_than_constant(model, TEST)
    assert mapsto.load(tmp_path / "run").predict(TEST) == model.predict(TEST)


def test_from_the_command_line(tmp_path: Path) -> None:
    for index, row in enumerate(ROWS[:40]):
        path = tmp_path / "photos" / row["label"] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_io.encode_png(row["image"]))
    photos, out, page = tmp_path / "photos", str(tmp_path / "run"), tmp_path / "page.html"
    fitted = run("fit", "image -> label", str(photos), "--method", "linear", "--out", out)
    assert fitted.returncode == 0 and "edges and colours of 6 × 6 parts" in fitted.stderr, fitted.stderr
    striped = str(photos / "striped" / "1.png")
    explained = run("explain", out, striped, "--out", str(page))
    assert explained.returncode == 0, explained.stderr
    assert "<svg" in page.read_text(encoding="utf-8")
