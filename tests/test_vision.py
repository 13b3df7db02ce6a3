"""Laws over the published families that read pictures: they prepare, compute and save what `transformers` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LABELS, NETWORKS, VISION, Vgg
from torch import Tensor

pytest.importorskip("PIL", reason="the extra [image] is not here")

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    ViTImageProcessorPil,
)

import mapsto
from mapsto import folder as folders
from mapsto import published, zoo
from mapsto.errors import CheckpointError
from mapsto.kinds.image import PLACES, ImageSource
from mapsto.mapping import Mapping
from mapsto.pictures import patches
from mapsto.predict import questions
from mapsto.sequence import Answer, Example, collate

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
CLASSES = {"body": AutoModel, "label": AutoModelForImageClassification}
PROCESSORS = (BitImageProcessorPil, ConvNextImageProcessorPil, ViTImageProcessorPil)
ALL = {**VISION, **NETWORKS}
SIDE = 32


def pictures(sizes: tuple[tuple[int, int], ...] = ((32, 32), (20, 44), (50, 31))) -> list[Any]:
    """Smooth ones, so that resampling has something to do."""
    rng = np.random.default_rng(0)
    found = []
    for h, w in sizes:
        y, x = np.mgrid[:h, :w]
        waves = [np.sin(y * rng.uniform(0.1, 0.9) + x * rng.uniform(0.1, 0.9) + rng.uniform(0, 6)) for _ in range(3)]
        found.append(np.clip(127 + 90 * np.stack(waves, -1) + rng.normal(0, 20, (h, w, 3)), 0, 255).astype(np.uint8))
    return found


def processor(how: str, side: int) -> Any:
    normal = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    if how == "middle":
        crop = {"height": side, "width": side}
        return BitImageProcessorPil(size={"shortest_edge": side + 5}, crop_size=crop, resample=3, **normal)
    if how in ("cropped", "warped"):
        return ConvNextImageProcessorPil(size={"shortest_edge": side}, crop_pct=0.8, **normal)
    return ViTImageProcessorPil(size={"height": side, "width": side}, resample=2, **normal)


def make(shape: str, task: str, folder: Path, how: str = "squash") -> torch.nn.Module:
    """A reference model with random weights, saved with its image processor."""
    given = dict(ALL[shape])
    if task == "label":
        given |= {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    torch.manual_seed(0)
    model: torch.nn.Module
    if shape.startswith("vgg"):
        model = Vgg(**given)
    else:
        config = AutoConfig.for_model(shape.split(":")[0], **given)
        model = CLASSES[task].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in weights_of(model).values():  # variances stay above 0
            weight.add_(torch.randn_like(weight).abs() * 0.05 if weight.min() >= 1 else torch.randn_like(weight) * 0.05)
    model.eval().save_pretrained(folder)
    # A grid of another size than the positions were learnt on, for families that draw them over it.
    side = given["image_size"] - given["patch_size"] * (shape != "vit") if shape in VISION else SIDE
    processor(how, side).save_pretrained(folder)
    return model


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Its parameters, and the statistics of its batch norms."""
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: weight for name, weight in held.items() if weight.is_floating_point()}


def states_of(reference: torch.nn.Module, values: Tensor) -> list[Tensor]:
    """(n, l, d) before each layer and at the end; of a network its last grid, cell by cell."""
    found = reference(values, output_hidden_states=True)
    last = found["last_hidden_state"]
    return [last.flatten(2).transpose(1, 2)] if last.ndim == 4 else [*found["hidden_states"][:-1], last]


def seen(folder: Path, values: list[Any]) -> Tensor:
    kind = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    of = next(made for made in PROCESSORS if made.__name__.startswith(kind))
    found: Tensor = of.from_pretrained(folder)(values, return_tensors="pt")["pixel_values"]
    return found


def packed(mapping: Mapping, values: list[Any], answers: list[Any] | None = None) -> Any:
    source = mapping.sources["image"]
    pieces = source.encode([source.read(value) for value in values], 0)
    given = answers or [questions(mapping, (piece,)) for piece in pieces]
    return collate([Example((piece,), given[i], i) for i, piece in enumerate(pieces)])


@pytest.mark.parametrize("how", ["squash", "middle", "cropped", "warped"])
def test_pictures_are_prepared_alike(how: str, tmp_path: Path) -> None:
    make("dinov2", "body", tmp_path, how)
    if how == "warped":
        processor(how, 384).save_pretrained(tmp_path)
    source = folders.load(tmp_path).sources["image"]
    assert isinstance(source, ImageSource)
    values = pictures()
    theirs = seen(tmp_path, values)
    for value, expected in zip(values, theirs, strict=True):
        (piece,) = source.encode([source.read(value)], 0)
        pixels = (expected * torch.tensor(source.std)[:, None, None] + torch.tensor(source.mean)[:, None, None]) * 255
        wanted = patches(pixels.permute(1, 2, 0).round().numpy().astype(np.uint8), source.frame.patch)
        assert int(np.abs(piece.tokens[1:, PLACES:].astype(int) - wanted.astype(int)).max()) <= 1


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("how", ["squash", "middle"])
def test_hidden_states_and_count_of_parameters(shape: str, how: str, tmp_path: Path) -> None:
    reference = make(shape, "body", tmp_path, how)
    mapping = folders.load(tmp_path)
    theirs = {name: p for name, p in weights_of(reference).items() if not name.startswith("pooler.")}
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in theirs.values())
    batch = packed(mapping, pictures())
    states = mapping.transformer(
        mapping.embed(batch), batch.segments, batch.roles, batch.positions, batch.places, every_layer=True
    )
    expected = states_of(reference, seen(tmp_path, pictures()))
    assert len(states) == len(expected)
    for ours, reference_nld in zip(states, expected, strict=True):
        for i, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
            torch.testing.assert_close(ours.flatten(0, 1)[start : start + length], reference_nld[i], **CLOSE)


@pytest.mark.parametrize("shape", ALL)
def test_logits_and_every_gradient(shape: str, tmp_path: Path) -> None:
    reference = make(shape, "label", tmp_path)
    mapping = folders.load(tmp_path)
    assert str(mapping.arrow) == "image -> label"
    truth = np.array([2, 0, 1])
    batch = packed(mapping.train(), pictures(), [(Answer(np.asarray(t)),) for t in truth])
    logits = reference(seen(tmp_path, pictures()))["logits"]
    torch.testing.assert_close(mapping(batch)[0], logits, **CLOSE)
    expected_loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth), reduction="sum")
    (_, loss), *_ = mapping.losses(batch)
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    renamed = published._ours(zoo.family(shape.split(":")[0]), gradients, 99, tmp_path, [])
    learned = {published.start_name(mapping, name): p for name, p in mapping.named_parameters() if p.grad is not None}
    learned.pop("embedders.image.mask_token", None)  # nothing is hidden
    renamed.pop("embedders.image.mask_token", None)
    assert set(learned) == set(renamed)
    for name, parameter in learned.items():
        assert parameter.grad is not None
        scale = max(1.0, float(renamed[name].abs().max()))
        torch.testing.assert_close(
            parameter.grad / scale, renamed[name] / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("task", ["body", "label"])
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, task: str, tmp_path: Path) -> None:
    reference = make(shape, task, tmp_path / "theirs", "middle")
    mapping = folders.load(tmp_path / "theirs")
    folders.save(mapping, tmp_path / "ours", {})
    again = folders.load(tmp_path / "ours")
    for (name, before), (_, after) in zip(mapping.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(before, after), name
    folders.save(again, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    opened, report = (Vgg if shape.startswith("vgg") else CLASSES[task]).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not {name for name in report["missing_keys"] if not name.startswith("pooler.")}
    assert not report["unexpected_keys"]
    values = seen(tmp_path / "ours", pictures())
    torch.testing.assert_close(values, seen(tmp_path / "theirs", pictures()))
    said = "last_hidden_state" if task == "body" else "logits"
    torch.testing.assert_close(opened.eval()(values)[said], reference(values)[said], **CLOSE)


def test_low_rank_updates_are_merged_and_peft_is_not_promised(tmp_path: Path) -> None:
    make("dinov2", "label", tmp_path / "start")
    rows = [{"image": value, "label": LABELS[i % 3]} for i, value in enumerate(pictures() * 3)]
    given = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit("image -> label", rows, tmp_path / "run", lora=4, steps=10, rate=1e-2, **given)
    assert not (tmp_path / "run" / "adapter").exists()
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    shares = torch.softmax(merged(seen(tmp_path / "run", pictures())).logits, -1)
    answers = clf.predict([{"image": value} for value in pictures()])
    ours = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers])
    torch.testing.assert_close(ours, shares, **CLOSE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": {"height": 32, "width": 16}}, "square"),
        ({"size": {"height": 4096, "width": 4096}}, "at most 255"),
        ({"do_resize": False}, "resized"),
        ({"size": None}, "prepare pictures"),
        ({"rescale_factor": 1.0}, "from 0 to 1"),
    ],
)
def test_a_way_to_prepare_that_is_not_known_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    make("vit", "body", tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        folders.load(tmp_path)


def test_pictures_larger_than_positions_were_learnt_on_are_read_whole(tmp_path: Path) -> None:
    make("dinov2", "label", tmp_path)
    processor("squash", 96).save_pretrained(tmp_path)
    model = mapsto.load(tmp_path, precision="fp32")
    batch = packed(model.mapping, pictures())
    assert batch.lengths.tolist() == [145] * 3 and model.mapping.config.longest == 145
    reference = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    answers = model.predict([{"image": value} for value in pictures()])
    ours = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers])
    torch.testing.assert_close(ours, torch.softmax(reference(seen(tmp_path, pictures())).logits, -1), **CLOSE)


def test_a_folder_that_does_not_say_how_is_refused(tmp_path: Path) -> None:
    make("vit", "body", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="brought to the size"):
        folders.load(tmp_path)
