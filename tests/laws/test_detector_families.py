"""Laws over the published detectors with learned queries: they preprocess, compute and save what `transformers` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="the extra [image] is not here")

from models import CLOSE, DETECTORS
from runs import boxed
from transformers import AutoConfig, AutoModel, AutoModelForObjectDetection, YolosImageProcessorPil
from vision_models import edit_json, smooth_pictures

import mapsto
from mapsto.errors import CheckpointError
from mapsto.inference.forward import make_questions
from mapsto.kinds.boxes import Boxes
from mapsto.kinds.image import ImageSource
from mapsto.model.mapping import Mapping
from mapsto.pretrained import huggingface, model_folder, weight_names
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import collate
from mapsto.vision.patch_embedding import HEADER_BYTES
from mapsto.vision.resize import split_patches

NAMES = ["N/A", "red", "N/A", "绿"]
CLASSES = {"body": AutoModel, "boxes": AutoModelForObjectDetection}
SIZES = ((32, 48), (40, 41), (90, 30), (25, 200), (48, 48), (31, 40))
OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def make(shape: str, task: str, folder: Path, **changes: Any) -> torch.nn.Module:
    """Make a reference model with random weights and save it with its image processor."""
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {}} if task == "boxes" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.split(":")[0], **{**DETECTORS[shape], **changes}, **labels)
    model: torch.nn.Module = CLASSES[task].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.eval().save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 160}).save_pretrained(folder)
    return model


def reference_pixels(folder: Path, value: Any) -> torch.Tensor:
    """Return the pixels of one picture; several would be padded to one size, and the padding read."""
    pixels: torch.Tensor = YolosImageProcessorPil.from_pretrained(folder)([value], return_tensors="pt")["pixel_values"]
    return pixels


def source_of(mapping: Mapping) -> ImageSource:
    source = mapping.sources["image"]
    assert isinstance(source, ImageSource)
    return source


def pack_pictures(mapping: Mapping, values: list[Any]) -> Any:
    source = source_of(mapping)
    pieces = source.encode([source.read(value) for value in values], 0, aligned=True)
    return collate([Example((piece,), make_questions(mapping, (piece,)), i) for i, piece in enumerate(pieces)]), pieces


@pytest.mark.parametrize("changes", [{}, {"size": 32, "max_size": 160}])
def test_pictures_are_preprocessed_alike(changes: dict[str, Any], tmp_path: Path) -> None:
    """In their own shape, and with the settings of old folders."""
    make("yolos", "body", tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", **changes)
    source = source_of(model_folder.load_mapping(tmp_path))
    std, mean = (torch.tensor(channels)[:, None, None] for channels in (source.std, source.mean))
    shapes = set()
    for value in smooth_pictures(SIZES):
        (expected,) = reference_pixels(tmp_path, value)
        (piece,) = source.encode([source.read(value)], 0)
        expected_patches = split_patches(
            ((expected * std + mean) * 255).permute(1, 2, 0).round().numpy().astype(np.uint8), 16
        )
        inner = piece.tokens[~piece.special]
        assert inner[0, 3:HEADER_BYTES].tolist() == [side // 16 for side in expected.shape[1:]]
        assert int(np.abs(inner[:, HEADER_BYTES:].astype(int) - expected_patches.astype(int)).max()) <= 1
        shapes.add(tuple(inner[0, 3:HEADER_BYTES].tolist()))
    assert len(shapes) > 3


@pytest.mark.parametrize("shape", DETECTORS)
def test_hidden_states_and_count_of_parameters(shape: str, tmp_path: Path) -> None:
    reference = make(shape, "body", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    expected_weights = {name: p for name, p in reference.named_parameters() if not name.startswith("pooler.")}
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in expected_weights.values())
    values = smooth_pictures(SIZES)
    batch, _ = pack_pictures(mapping, values)
    assert batch.segments.max() > 1, "the pictures must share rows"
    states = mapping.states(mapping.embed(batch), batch, every_layer=True)
    for i, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
        outputs = reference(reference_pixels(tmp_path, values[i]), output_hidden_states=True)
        expected = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
        assert len(states) == len(expected)
        for states_rld, reference_ld in zip(states, expected, strict=True):
            torch.testing.assert_close(states_rld.flatten(0, 1)[start : start + length], reference_ld[0], **CLOSE)


@pytest.mark.parametrize("shape", DETECTORS)
def test_logits_boxes_loss_and_every_gradient(shape: str, tmp_path: Path) -> None:
    """The published loss, picture by picture, where each has the usual number of boxes."""
    reference = make(shape, "boxes", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    (target,) = mapping.targets
    assert isinstance(target, Boxes) and str(mapping.arrow) == "image -> boxes"
    assert target.classes == ["N/A (0)", "red", "N/A (2)", "绿"]
    target.usual = 2.0
    values = [boxed(number) for number in (1, 3, 5)]
    batch, pieces = pack_pictures(mapping.train(), [pixels for pixels, _ in values])
    answers = [target.encode(target.read(boxes), (piece,)) for (_, boxes), piece in zip(values, pieces, strict=True)]
    batch = collate(
        [Example((piece,), (answer,), i) for i, (piece, answer) in enumerate(zip(pieces, answers, strict=True))]
    )
    (output,) = mapping(batch)
    expected = torch.zeros(())
    for i, (queries, answer) in enumerate(zip(output.view(3, target.queries, -1), answers, strict=True)):
        kinds, sides = torch.from_numpy(answer.values[:2]).split([1, 4], dim=1)
        labels = [{"class_labels": kinds[:, 0].long(), "boxes": sides}]
        outputs = reference(reference_pixels(tmp_path, values[i][0]), labels=labels)
        torch.testing.assert_close(queries[:, :-4], outputs.logits[0], **CLOSE)
        torch.testing.assert_close(queries[:, -4:], outputs.pred_boxes[0], **CLOSE)
        expected = expected + outputs.loss
    ((_, loss),) = mapping.losses(batch)
    torch.testing.assert_close(loss / target.queries, expected, **CLOSE)
    (loss / target.queries).backward()
    expected.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    renamed = weight_names.to_mapsto_names(mapping.config, gradients, 99, tmp_path, [])
    trainable = {
        weight_names.weight_name(mapping, name): p for name, p in mapping.named_parameters() if p.grad is not None
    }
    assert set(trainable) == set(renamed)
    for name, parameter in trainable.items():
        assert parameter.grad is not None
        scale = max(1.0, float(renamed[name].abs().max()))
        torch.testing.assert_close(
            parameter.grad / scale, renamed[name] / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", DETECTORS)
@pytest.mark.parametrize("task", CLASSES)
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, task: str, tmp_path: Path) -> None:
    reference = make(shape, task, tmp_path / "theirs")
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    assert reloaded.config == mapping.config
    for (name, original), (_, current) in zip(mapping.named_parameters(), reloaded.named_parameters(), strict=True):
        assert torch.equal(original, current), name
    model_folder.save_mapping(reloaded, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    loaded, report = CLASSES[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not {name for name in report["missing_keys"] if not name.startswith("pooler.")}
    assert not report["unexpected_keys"]
    for value in smooth_pictures(SIZES[:3]):
        pixels = reference_pixels(tmp_path / "ours", value)
        torch.testing.assert_close(pixels, reference_pixels(tmp_path / "theirs", value))
        for key in ("last_hidden_state",) if task == "body" else ("logits", "pred_boxes"):
            torch.testing.assert_close(loaded.eval()(pixels)[key], reference(pixels)[key], **CLOSE)


@pytest.mark.parametrize("shape", DETECTORS)
def test_answers_are_those_of_the_published_processor(shape: str, tmp_path: Path) -> None:
    """Boxes are in pixels of the original picture, and confident enough."""
    reference = make(shape, "boxes", tmp_path)
    with torch.no_grad():  # as confident as a trained one
        reference.class_labels_classifier.layers[2].weight.mul_(60)
        reference.class_labels_classifier.layers[2].bias[-1] = 0
    reference.save_pretrained(tmp_path)
    model, num_boxes = mapsto.load(tmp_path, **OPTIONS), 0
    for value in smooth_pictures(SIZES):
        outputs = reference(reference_pixels(tmp_path, value))
        (expected,) = YolosImageProcessorPil.from_pretrained(tmp_path).post_process_object_detection(
            outputs, threshold=0.5, target_sizes=[value.shape[:2]]
        )
        boxes = [box for box in model(value)["boxes"] if box["probability"] > 0.5]
        order = expected["scores"].argsort(descending=True)
        num_boxes += len(boxes)
        assert [box["label"] for box in boxes] == [
            model.mapping.targets[0].classes[label] for label in expected["labels"][order]
        ]
        assert [box["probability"] for box in boxes] == pytest.approx(expected["scores"][order].tolist(), abs=1e-4)
        for box, sides in zip(boxes, expected["boxes"][order].tolist(), strict=True):
            h, w = value.shape[:2]
            assert box["box"] == pytest.approx(np.clip(sides, 0, [w, h, w, h]).tolist(), abs=0.06)
    assert num_boxes > 3


def rows(count: int, names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    examples = []
    for pixels, boxes in map(boxed, range(count)):
        named_boxes = [{**box, "label": (names or {}).get(box["label"], box["label"])} for box in boxes]
        examples.append({"image": pixels, "boxes": named_boxes})
    return examples


@pytest.mark.parametrize("shape", DETECTORS)
def test_fitted_to_other_classes_it_keeps_the_other_weights_and_opens_elsewhere(shape: str, tmp_path: Path) -> None:
    make(shape, "boxes", tmp_path / "start")
    original = huggingface.open_pretrained(str(tmp_path / "start")).tensors
    mapsto.fit(
        "image -> boxes",
        rows(8, {"red": "rot"}),
        tmp_path / "run",
        start=tmp_path / "start",
        steps=2,
        rate=1e-6,
        augment="none",
        **OPTIONS,
    )
    model = mapsto.load(tmp_path / "run", **OPTIONS)
    current = {weight_names.weight_name(model.mapping, name): p for name, p in model.mapping.named_parameters()}
    assert set(original) == set(current)
    new = {name for name in original if original[name].shape != current[name].shape}
    assert new == {"box_head.named.weight", "box_head.named.bias"}
    for name in set(original) - new:
        assert float((original[name] - current[name]).detach().abs().max()) < 1e-4, name
    published = AutoModelForObjectDetection.from_pretrained(tmp_path / "run").eval()
    assert published.config.id2label == {0: "rot", 1: "绿"}
    for row in rows(3):
        batch, _ = pack_pictures(model.mapping, [row["image"]])
        outputs = published(reference_pixels(tmp_path / "run", row["image"]))
        expected = torch.cat([outputs.logits, outputs.pred_boxes], -1)[0]
        torch.testing.assert_close(model.mapping(batch)[0], expected, **CLOSE)


def test_with_the_same_classes_their_layer_is_kept_too(tmp_path: Path) -> None:
    """With as many other classes it is not, nor when the starting model was fitted here."""
    make("yolos", "boxes", tmp_path / "start")
    options: dict[str, Any] = {"steps": 1, "rate": 1e-6, **OPTIONS}
    start = mapsto.fit("image -> boxes", rows(8, {"red": "rot"}), tmp_path / "own", start=tmp_path / "start", **options)
    original_weight = dict(start.mapping.named_parameters())["heads.0.named.weight"]
    for names, is_kept in (({"red": "rot"}, True), ({"red": "blue"}, False)):
        for source in (start, tmp_path / "own"):
            reloaded = mapsto.fit("image -> boxes", rows(8, names), start=source, seed=1, **options)
            weight = dict(reloaded.mapping.named_parameters())["heads.0.named.weight"]
            assert (float((weight - original_weight).detach().abs().max()) < 1e-4) == is_kept


def test_boxes_are_learned_from_learned_queries(tmp_path: Path) -> None:
    make("yolos", "body", tmp_path / "start", num_detection_tokens=10, hidden_size=32)
    options: dict[str, Any] = {
        "steps": 250,
        "batch": 24,
        "rate": 3e-3,
        "hold_out": 0,
        "augment": "none",
        "size": 48,
        **OPTIONS,
    }
    model = mapsto.fit("image -> boxes", rows(12), tmp_path / "det", start=tmp_path / "start", **options)
    assert model.evaluate(rows(12)).scores["map50"].value > 0.5
    examples = [{"image": row["image"]} for row in rows(12)]
    assert mapsto.load(tmp_path / "det", **OPTIONS).predict(examples) == model.predict(examples)


def test_a_body_is_pretrained_further_and_fitted_to_labels(tmp_path: Path) -> None:
    make("yolos", "body", tmp_path / "start")
    examples = [{"image": row["image"], "label": "ab"[i % 2]} for i, row in enumerate(rows(8))]
    for objective in ("masked", "mae"):
        pretrained = mapsto.pretrain(
            "image", examples, start=tmp_path / "start", objective=objective, steps=2, **OPTIONS
        )
        pretrained.save(tmp_path / objective)
        assert not AutoModel.from_pretrained(tmp_path / objective, output_loading_info=True)[1]["missing_keys"] - {
            "pooler.dense.weight", "pooler.dense.bias"
        }  # fmt: skip
        clf = mapsto.fit(
            "image -> label",
            examples,
            tmp_path / f"{objective}-clf",
            start=pretrained,
            steps=2,
            method="full",
            **OPTIONS,
        )
        assert mapsto.load(tmp_path / f"{objective}-clf", **OPTIONS).predict(examples) == clf.predict(examples)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_detection_tokens": 7}, "says 7 learnt queries, .* have 6"),
        ({"num_detection_tokens": 0}, "num_detection_tokens must be"),
        ({"use_mid_position_embeddings": False}, "behind 0 layers; .* positions for 2"),
        ({"image_size": [16, 16]}, "has shape"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make("yolos", "boxes", tmp_path, image_size=[32, 80])
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        model_folder.load_mapping(tmp_path)


def test_more_queries_than_a_byte_can_number_are_refused(tmp_path: Path) -> None:
    make("yolos", "body", tmp_path, num_detection_tokens=201)
    with pytest.raises(CheckpointError, match="nor more than 200 queries"):
        model_folder.load_mapping(tmp_path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"shortest_edge": 32, "longest_edge": 8}, "from 32 to 8"),
        ({"shortest_edge": 32, "longest_edge": 9999}, "to 9999"),
    ],
)
def test_impossible_sizes_are_refused(size: dict[str, int], message: str, tmp_path: Path) -> None:
    make("yolos", "body", tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", size=size)
    with pytest.raises(CheckpointError, match=message):
        model_folder.load_mapping(tmp_path)
