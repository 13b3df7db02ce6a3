"""Laws over the published families that read pictures and videos: they prepare, compute and save what `transformers` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from models import LABELS, NETWORKS, VIDEOS, VISION, Vgg
from torch import Tensor

pytest.importorskip("PIL", reason="the extra [image] is not here")

from models import CLOSE
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    DeiTForImageClassificationWithTeacher,
)
from vision_models import (
    ALL_VISION,
    POOLERS,
    VISION_CLASSES,
    edit_json,
    kind_of,
    make_processor,
    make_vision_model,
    pack_values,
    reference_pixels,
    sample_values,
    smooth_pictures,
    weights_of,
)

import mapsto
from mapsto import zoo
from mapsto.errors import CheckpointError
from mapsto.kinds.image import ImageSource
from mapsto.pretrained import huggingface, model_folder, weight_names
from mapsto.sequence.batch import Answer
from mapsto.vision.patch_embedding import HEADER_BYTES
from mapsto.vision.patch_source import PixelScale
from mapsto.vision.resize import Resizer, split_patches


def states_of(reference: torch.nn.Module, values: Tensor) -> list[Tensor]:
    """Return the states (n, l, d) before each layer and at the end; for a convolutional network, its last grid cell by cell."""
    outputs = reference(values, output_hidden_states=True)
    last = outputs["last_hidden_state"]
    return [last.flatten(2).transpose(1, 2)] if last.ndim == 4 else [*outputs["hidden_states"][:-1], last]


def to_file_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of files: `transformers` splits the gated map in memory, and writes it as one."""
    outputs = {}
    for name, tensor in tensors.items():
        if ".gate_proj." in name:
            up_projection = tensors[name.replace("gate", "up")]
            outputs[name.replace("gate_proj", "weights_in")] = torch.cat([tensor, up_projection])
        elif ".up_proj." not in name:
            outputs[name.replace("down_proj", "weights_out")] = tensor
    return outputs


PREPROCESSING: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("squash", "middle", "clip", "siglip", "deit", "convnext")),
    ("convnext", {"size": {"shortest_edge": 384}}),  # at this size and above nothing is cropped
    # In the format of old folders.
    ("clip", {"size": 35, "crop_size": 32, "image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"}),
    ("deit", {"size": 35, "crop_size": 32, "image_processor_type": None, "feature_extractor_type": "DeiTFeatureExtractor"}),
    ("convnext", {"size": 32, "image_processor_type": None, "feature_extractor_type": "ConvNextFeatureExtractor"}),
    ("squash", {"size": 32, "image_processor_type": None}),
]  # fmt: skip


@pytest.mark.parametrize(("preprocessing", "changes"), PREPROCESSING)
def test_pictures_are_preprocessed_alike(preprocessing: str, changes: dict[str, Any], tmp_path: Path) -> None:
    make_vision_model("dinov2", "body", tmp_path, preprocessing)
    processor = type(make_processor(preprocessing, 32))
    edit_json(tmp_path / "preprocessor_config.json", **changes)
    source = model_folder.load_mapping(tmp_path).sources["image"]
    assert isinstance(source, ImageSource)
    values = smooth_pictures()
    expected_pixels = processor.from_pretrained(tmp_path)(values, return_tensors="pt")["pixel_values"]
    for value, expected in zip(values, expected_pixels, strict=True):
        (piece,) = source.encode([source.read(value)], 0)
        pixels = (expected * torch.tensor(source.std)[:, None, None] + torch.tensor(source.mean)[:, None, None]) * 255
        expected_patches = split_patches(pixels.permute(1, 2, 0).round().numpy().astype(np.uint8), source.resizer.patch)
        assert int(np.abs(piece.tokens[1:, HEADER_BYTES:].astype(int) - expected_patches.astype(int)).max()) <= 1


@pytest.mark.parametrize("shape", ALL_VISION)
@pytest.mark.parametrize("preprocessing", ["squash", "middle"])
def test_hidden_states_and_count_of_parameters(shape: str, preprocessing: str, tmp_path: Path) -> None:
    reference = make_vision_model(shape, "body", tmp_path, preprocessing)
    mapping = model_folder.load_mapping(tmp_path)
    expected_weights = {name: p for name, p in weights_of(reference).items() if not name.startswith(POOLERS)}
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in expected_weights.values())
    batch = pack_values(mapping, sample_values(shape))
    states = mapping.states(mapping.embed(batch), batch, every_layer=True)
    expected = states_of(reference, reference_pixels(tmp_path, sample_values(shape)))
    assert len(states) == len(expected)
    for states_rld, reference_nld in zip(states, expected, strict=True):
        for i, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
            torch.testing.assert_close(states_rld.flatten(0, 1)[start : start + length], reference_nld[i], **CLOSE)


@pytest.mark.parametrize("shape", ALL_VISION)
def test_logits_and_every_gradient(shape: str, tmp_path: Path) -> None:
    reference = make_vision_model(shape, "label", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    assert str(mapping.arrow) == f"{kind_of(shape)} -> label"
    truth = np.array([2, 0, 1])
    batch = pack_values(mapping.train(), sample_values(shape), [(Answer(np.asarray(t)),) for t in truth])
    logits = reference(reference_pixels(tmp_path, sample_values(shape)))["logits"]
    torch.testing.assert_close(mapping(batch)[0], logits, **CLOSE)
    expected_loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth), reduction="sum")
    (_, loss), *_ = mapping.losses(batch)
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    renamed = weight_names.to_mapsto_names(mapping.config, to_file_names(gradients), 99, tmp_path, [])
    trainable = {
        weight_names.weight_name(mapping, name): p for name, p in mapping.named_parameters() if p.grad is not None
    }
    trainable.pop("embedders.image.mask_token", None)  # nothing is hidden
    renamed.pop("embedders.image.mask_token", None)
    assert set(trainable) == set(renamed)
    for name, parameter in trainable.items():
        assert parameter.grad is not None
        scale = max(1.0, float(renamed[name].abs().max()))
        torch.testing.assert_close(
            parameter.grad / scale, renamed[name] / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", ALL_VISION)
@pytest.mark.parametrize("task", ["body", "label"])
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, task: str, tmp_path: Path) -> None:
    reference = make_vision_model(shape, task, tmp_path / "theirs", "middle")
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    for (name, original), (_, current) in zip(mapping.named_parameters(), reloaded.named_parameters(), strict=True):
        assert torch.equal(original, current), name
    model_folder.save_mapping(reloaded, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    model_class = Vgg if shape.startswith("vgg") else VISION_CLASSES[kind_of(shape)][task]
    loaded, report = model_class.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not {name for name in report["missing_keys"] if not name.startswith(POOLERS)}
    assert not report["unexpected_keys"]
    values = reference_pixels(tmp_path / "ours", sample_values(shape))
    torch.testing.assert_close(values, reference_pixels(tmp_path / "theirs", sample_values(shape)))
    key = "last_hidden_state" if task == "body" else "logits"
    torch.testing.assert_close(loaded.eval()(values)[key], reference(values)[key], **CLOSE)


@pytest.mark.parametrize("shape", [*VISION, *VIDEOS])
@pytest.mark.parametrize("objective", ["masked", "mae"])
def test_every_family_is_pretrained_further_and_then_fitted(shape: str, objective: str, tmp_path: Path) -> None:
    make_vision_model(shape, "body", tmp_path / "start")
    options: dict[str, Any] = {"steps": 2, "device": "cpu", "precision": "fp32"}
    kind, values = kind_of(shape), sample_values(shape)
    rows = [{kind: value, "label": LABELS[i % 3]} for i, value in enumerate(values * 3)]
    pretrained = mapsto.pretrain(
        kind, [{kind: row[kind]} for row in rows], start=tmp_path / "start", objective=objective, **options
    )
    original, current = model_folder.load_mapping(tmp_path / "start"), dict(pretrained.mapping.named_parameters())
    unchanged = {name for name, parameter in original.named_parameters() if torch.equal(parameter, current[name])}
    assert unchanged == original.fixed
    pretrained.save(tmp_path / "further")
    reloaded = dict(model_folder.load_mapping(tmp_path / "further").named_parameters())
    assert reloaded.keys() == current.keys() and all(
        torch.equal(parameter, current[name]) for name, parameter in reloaded.items()
    )
    fitted = mapsto.fit(f"{kind} -> label", rows, start=pretrained, method="full", **options)
    fitted.save(tmp_path / "fitted")
    published, report = VISION_CLASSES[kind]["label"].from_pretrained(tmp_path / "fitted", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = torch.softmax(published.eval()(reference_pixels(tmp_path / "fitted", values)).logits, -1)
    answers = fitted.predict([{kind: value} for value in values])
    probabilities = torch.tensor(
        [[answer["scores"][published.config.id2label[i]] for i in range(3)] for answer in answers]
    )
    torch.testing.assert_close(probabilities, expected, **CLOSE)


FULL_MODELS = sorted(
    {tower.full_model_type for name in zoo.family_names() if (tower := zoo.get_family(name).tower) is not None}
)


@pytest.mark.parametrize("full_model", FULL_MODELS)
def test_the_picture_tower_of_a_full_model_opens(full_model: str, tmp_path: Path) -> None:
    tower = zoo.get_family(full_model).tower
    assert tower is not None
    words = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 9,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(full_model, text_config=words, **{tower.config_key: VISION[full_model]})
    reference = AutoModel.from_config(config).eval()
    reference.save_pretrained(tmp_path / "whole")
    make_processor("squash", VISION[full_model]["image_size"]).save_pretrained(tmp_path / "whole")
    loaded = huggingface.open_pretrained(str(tmp_path / "whole"))
    ignored = [name for name, _ in reference.named_parameters() if not name.startswith("vision_model.")]
    assert loaded.notes[0].startswith(f"weights of another task were left out ({len(ignored)} in all): logit_")
    model_folder.save_mapping(model_folder.load_mapping(tmp_path / "whole"), tmp_path / "tower", {})
    tower_model = AutoModel.from_pretrained(tmp_path / "tower").eval()
    values = reference_pixels(tmp_path / "tower", smooth_pictures())
    assert tower_model.config.model_type == tower.model_type
    outputs, expected = tower_model(values), reference.vision_model(values)
    torch.testing.assert_close(outputs.last_hidden_state, expected.last_hidden_state, **CLOSE)
    edit_json(tmp_path / "whole" / "config.json", **{tower.config_key: None})
    with pytest.raises(CheckpointError, match=f"no configuration of {full_model}: KeyError.*{tower.config_key}"):
        huggingface.open_pretrained(str(tmp_path / "whole"))
    # Published files of full models list only what differs from the defaults.
    read_config = zoo.get_family(full_model).read_config
    assert read_config({}) == read_config(AutoConfig.for_model(tower.model_type).to_dict())


@pytest.mark.parametrize("shape", ["clip", "dinov2", "deit"])
def test_the_vector_of_a_body_is_the_published_one(shape: str, tmp_path: Path) -> None:
    """DeiT and ViT give the first token, before the dense layer that their publication adds."""
    reference = make_vision_model(shape, "body", tmp_path)
    outputs = reference(reference_pixels(tmp_path, smooth_pictures()))
    expected = outputs.last_hidden_state[:, 0] if shape == "deit" else outputs.pooler_output
    vectors = torch.from_numpy(mapsto.load(tmp_path, precision="fp32").embed(smooth_pictures()))
    torch.testing.assert_close(vectors[:, : expected.shape[1]], expected, **CLOSE)


def test_a_folder_with_two_heads_opens_without_them(tmp_path: Path) -> None:
    config = AutoConfig.for_model("deit", **VISION["deit"], id2label=dict(enumerate(LABELS)))
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
    make_processor("squash", config.image_size).save_pretrained(tmp_path)
    loaded = huggingface.open_pretrained(str(tmp_path))
    assert loaded.labels is None and any("another task" in note for note in loaded.notes)


@pytest.mark.parametrize("shape", ["dinov2", "clip"])
def test_low_rank_updates_are_merged_and_peft_is_not_promised(shape: str, tmp_path: Path) -> None:
    make_vision_model(shape, "label", tmp_path / "start")
    rows = [{"image": value, "label": LABELS[i % 3]} for i, value in enumerate(smooth_pictures() * 3)]
    options = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit("image -> label", rows, tmp_path / "run", lora=4, steps=10, rate=1e-2, **options)
    assert not (tmp_path / "run" / "adapter").exists()
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    shares = torch.softmax(merged(reference_pixels(tmp_path / "run", smooth_pictures())).logits, -1)
    answers = clf.predict([{"image": value} for value in smooth_pictures()])
    probabilities = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers])
    torch.testing.assert_close(probabilities, shares, **CLOSE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"height": 32, "width": 16}}, "square"),
        ({"size": {"height": 4096, "width": 4096}}, "at most 255"),
        ({"do_resize": False}, "resized"),
        ({"size": None}, "prepare pictures"),
        ({"size": {"shortest_edge": 32}}, "shorter side alone"),
        ({"size": 32, "do_center_crop": True, "crop_size": 24, "image_processor_type": None}, "both sides"),
        ({"size": 4}, "a patch at least"),
        ({"rescale_factor": 1.0}, "from 0 to 1"),
    ],
)
def test_unknown_preprocessing_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    make_vision_model("vit", "body", tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        model_folder.load_mapping(tmp_path)


def test_pictures_larger_than_positions_were_learned_on_are_read_whole(tmp_path: Path) -> None:
    make_vision_model("dinov2", "label", tmp_path)
    make_processor("squash", 96).save_pretrained(tmp_path)
    model = mapsto.load(tmp_path, precision="fp32")
    batch = pack_values(model.mapping, smooth_pictures())
    assert batch.lengths.tolist() == [145] * 3 and model.mapping.config.max_tokens == 145
    reference = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    answers = model.predict([{"image": value} for value in smooth_pictures()])
    probabilities = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers])
    torch.testing.assert_close(
        probabilities, torch.softmax(reference(reference_pixels(tmp_path, smooth_pictures())).logits, -1), **CLOSE
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("projection.weight", (64, 192), "in other shapes"),
        ("projection.weight", (64, 3, 8, 300), "patches of 300 pixels"),
        ("projection.weight", (64, 3, 16, 8), "has shape"),
        ("cls_token", (3, 1, 64), "behind 3 tokens"),
        ("cls_token", (64,), "in other shapes"),
        ("position_embeddings", (1, 0, 64), "lacks the weights of its patches"),
        ("position_embeddings", (1, 19, 64), "has shape"),
    ],
)
def test_weights_of_patches_in_other_shapes_are_refused(
    name: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    make_vision_model("vit", "body", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (key,) = (key for key in tensors if key.endswith(name))
    safetensors.torch.save_file({**tensors, key: torch.zeros(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        huggingface.open_pretrained(str(tmp_path))


def test_sources_of_other_settings_have_other_fingerprints() -> None:
    """A resumed run reuses stored pieces only if the fingerprint is the same."""
    settings: list[dict[str, Any]] = [
        {},
        {"table": (3, 3)},
        {"table": (3, 4)},
        {"queries": 2},
        {"layer_positions": 2},
        {"registers": 1},
        {"masked": False},
        {"placed": 2},
        {"bias": False},
        {"scale": PixelScale(group="patch")},
    ]
    settings += [
        {"placed": 0, "front": zoo.get_family(shape.split(":")[0]).read_config(NETWORKS[shape]).backbone}
        for shape in NETWORKS
    ]
    frames = [Resizer(8, 32, fit) for fit in ("inside", "squash")]
    sources = [ImageSource(frame, [0.5] * 3, [0.5] * 3, **fields) for frame in frames for fields in settings]
    assert len({source.fingerprint for source in sources}) == len(sources)


def test_a_folder_without_preprocessing_is_refused(tmp_path: Path) -> None:
    make_vision_model("vit", "body", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="how to resize"):
        model_folder.load_mapping(tmp_path)
