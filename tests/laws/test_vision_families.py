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
    """(n, l, d) before each layer and at the end; of a network its last grid, cell by cell."""
    found = reference(values, output_hidden_states=True)
    last = found["last_hidden_state"]
    return [last.flatten(2).transpose(1, 2)] if last.ndim == 4 else [*found["hidden_states"][:-1], last]


def written(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of files where `transformers` holds in two what it writes as one."""
    found = {}
    for name, tensor in tensors.items():
        if ".gate_proj." in name:
            other = tensors[name.replace("gate", "up")]
            found[name.replace("gate_proj", "weights_in")] = torch.cat([tensor, other])
        elif ".up_proj." not in name:
            found[name.replace("down_proj", "weights_out")] = tensor
    return found


PREPARED: list[tuple[str, dict[str, Any]]] = [
    *((how, {}) for how in ("squash", "middle", "clip", "siglip", "deit", "convnext")),
    ("convnext", {"size": {"shortest_edge": 384}}),  # from there on nothing is cut off
    # As old folders say it.
    ("clip", {"size": 35, "crop_size": 32, "image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"}),
    ("deit", {"size": 35, "crop_size": 32, "image_processor_type": None, "feature_extractor_type": "DeiTFeatureExtractor"}),
    ("convnext", {"size": 32, "image_processor_type": None, "feature_extractor_type": "ConvNextFeatureExtractor"}),
    ("squash", {"size": 32, "image_processor_type": None}),
]  # fmt: skip


@pytest.mark.parametrize(("how", "changes"), PREPARED)
def test_pictures_are_prepared_alike(how: str, changes: dict[str, Any], tmp_path: Path) -> None:
    make_vision_model("dinov2", "body", tmp_path, how)
    of = type(make_processor(how, 32))
    edit_json(tmp_path / "preprocessor_config.json", **changes)
    source = model_folder.load_mapping(tmp_path).sources["image"]
    assert isinstance(source, ImageSource)
    values = smooth_pictures()
    theirs = of.from_pretrained(tmp_path)(values, return_tensors="pt")["pixel_values"]
    for value, expected in zip(values, theirs, strict=True):
        (piece,) = source.encode([source.read(value)], 0)
        pixels = (expected * torch.tensor(source.std)[:, None, None] + torch.tensor(source.mean)[:, None, None]) * 255
        wanted = split_patches(pixels.permute(1, 2, 0).round().numpy().astype(np.uint8), source.resizer.patch)
        assert int(np.abs(piece.tokens[1:, HEADER_BYTES:].astype(int) - wanted.astype(int)).max()) <= 1


@pytest.mark.parametrize("shape", ALL_VISION)
@pytest.mark.parametrize("how", ["squash", "middle"])
def test_hidden_states_and_count_of_parameters(shape: str, how: str, tmp_path: Path) -> None:
    reference = make_vision_model(shape, "body", tmp_path, how)
    mapping = model_folder.load_mapping(tmp_path)
    theirs = {name: p for name, p in weights_of(reference).items() if not name.startswith(POOLERS)}
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in theirs.values())
    batch = pack_values(mapping, sample_values(shape))
    states = mapping.states(mapping.embed(batch), batch, every_layer=True)
    expected = states_of(reference, reference_pixels(tmp_path, sample_values(shape)))
    assert len(states) == len(expected)
    for ours, reference_nld in zip(states, expected, strict=True):
        for i, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
            torch.testing.assert_close(ours.flatten(0, 1)[start : start + length], reference_nld[i], **CLOSE)


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
    renamed = weight_names.to_mapsto_names(zoo.family_of(mapping.config), written(gradients), 99, tmp_path, [])
    learned = {
        weight_names.weight_name(mapping, name): p for name, p in mapping.named_parameters() if p.grad is not None
    }
    learned.pop("embedders.image.mask_token", None)  # nothing is hidden
    renamed.pop("embedders.image.mask_token", None)
    assert set(learned) == set(renamed)
    for name, parameter in learned.items():
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
    again = model_folder.load_mapping(tmp_path / "ours")
    for (name, before), (_, after) in zip(mapping.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(before, after), name
    model_folder.save_mapping(again, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    made = Vgg if shape.startswith("vgg") else VISION_CLASSES[kind_of(shape)][task]
    opened, report = made.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not {name for name in report["missing_keys"] if not name.startswith(POOLERS)}
    assert not report["unexpected_keys"]
    values = reference_pixels(tmp_path / "ours", sample_values(shape))
    torch.testing.assert_close(values, reference_pixels(tmp_path / "theirs", sample_values(shape)))
    said = "last_hidden_state" if task == "body" else "logits"
    torch.testing.assert_close(opened.eval()(values)[said], reference(values)[said], **CLOSE)


@pytest.mark.parametrize("shape", [*VISION, *VIDEOS])
@pytest.mark.parametrize("objective", ["masked", "mae"])
def test_every_family_is_pretrained_further_and_then_fitted(shape: str, objective: str, tmp_path: Path) -> None:
    make_vision_model(shape, "body", tmp_path / "start")
    how: dict[str, Any] = {"steps": 2, "device": "cpu", "precision": "fp32"}
    kind, values = kind_of(shape), sample_values(shape)
    rows = [{kind: value, "label": LABELS[i % 3]} for i, value in enumerate(values * 3)]
    further = mapsto.pretrain(
        kind, [{kind: row[kind]} for row in rows], start=tmp_path / "start", objective=objective, **how
    )
    before, after = model_folder.load_mapping(tmp_path / "start"), dict(further.mapping.named_parameters())
    kept = {name for name, parameter in before.named_parameters() if torch.equal(parameter, after[name])}
    assert kept == before.fixed
    further.save(tmp_path / "further")
    again = dict(model_folder.load_mapping(tmp_path / "further").named_parameters())
    assert again.keys() == after.keys() and all(
        torch.equal(parameter, after[name]) for name, parameter in again.items()
    )
    fitted = mapsto.fit(f"{kind} -> label", rows, start=further, method="full", **how)
    fitted.save(tmp_path / "fitted")
    theirs, report = VISION_CLASSES[kind]["label"].from_pretrained(tmp_path / "fitted", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = torch.softmax(theirs.eval()(reference_pixels(tmp_path / "fitted", values)).logits, -1)
    answers = fitted.predict([{kind: value} for value in values])
    ours = torch.tensor([[answer["scores"][theirs.config.id2label[i]] for i in range(3)] for answer in answers])
    torch.testing.assert_close(ours, expected, **CLOSE)


WHOLE = sorted(
    {tower.full_model_type for name in zoo.family_names() if (tower := zoo.get_family(name).tower) is not None}
)


@pytest.mark.parametrize("whole", WHOLE)
def test_of_a_model_of_two_towers_the_one_for_pictures_is_opened(whole: str, tmp_path: Path) -> None:
    tower = zoo.get_family(whole).tower
    assert tower is not None
    words = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 9,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(whole, text_config=words, **{tower.config_key: VISION[whole]})
    reference = AutoModel.from_config(config).eval()
    reference.save_pretrained(tmp_path / "whole")
    make_processor("squash", VISION[whole]["image_size"]).save_pretrained(tmp_path / "whole")
    opened = huggingface.open_pretrained(str(tmp_path / "whole"))
    left = [name for name, _ in reference.named_parameters() if not name.startswith("vision_model.")]
    assert opened.notes[0].startswith(f"weights of another task were left out ({len(left)} in all): logit_")
    model_folder.save_mapping(model_folder.load_mapping(tmp_path / "whole"), tmp_path / "tower", {})
    alone = AutoModel.from_pretrained(tmp_path / "tower").eval()
    values = reference_pixels(tmp_path / "tower", smooth_pictures())
    assert alone.config.model_type == tower.model_type
    found, expected = alone(values), reference.vision_model(values)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, **CLOSE)
    edit_json(tmp_path / "whole" / "config.json", **{tower.config_key: None})
    with pytest.raises(CheckpointError, match=f"no configuration of {whole}: KeyError.*{tower.config_key}"):
        huggingface.open_pretrained(str(tmp_path / "whole"))
    # Published files of whole models name what is not usual alone.
    read = zoo.get_family(whole).read_config
    assert read({}) == read(AutoConfig.for_model(tower.model_type).to_dict())


@pytest.mark.parametrize("shape", ["clip", "dinov2", "deit"])
def test_the_vector_of_a_body_is_the_published_one(shape: str, tmp_path: Path) -> None:
    """Of families that have one; a DeiT and a ViT give the first token, before the layer that their publication adds."""
    reference = make_vision_model(shape, "body", tmp_path)
    found = reference(reference_pixels(tmp_path, smooth_pictures()))
    expected = found.last_hidden_state[:, 0] if shape == "deit" else found.pooler_output
    ours = torch.from_numpy(mapsto.load(tmp_path, precision="fp32").embed(smooth_pictures()))
    torch.testing.assert_close(ours[:, : expected.shape[1]], expected, **CLOSE)


def test_of_two_heads_none_is_taken(tmp_path: Path) -> None:
    config = AutoConfig.for_model("deit", **VISION["deit"], id2label=dict(enumerate(LABELS)))
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
    make_processor("squash", config.image_size).save_pretrained(tmp_path)
    opened = huggingface.open_pretrained(str(tmp_path))
    assert opened.labels is None and any("another task" in note for note in opened.notes)


@pytest.mark.parametrize("shape", ["dinov2", "clip"])
def test_low_rank_updates_are_merged_and_peft_is_not_promised(shape: str, tmp_path: Path) -> None:
    make_vision_model(shape, "label", tmp_path / "start")
    rows = [{"image": value, "label": LABELS[i % 3]} for i, value in enumerate(smooth_pictures() * 3)]
    given = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit("image -> label", rows, tmp_path / "run", lora=4, steps=10, rate=1e-2, **given)
    assert not (tmp_path / "run" / "adapter").exists()
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    shares = torch.softmax(merged(reference_pixels(tmp_path / "run", smooth_pictures())).logits, -1)
    answers = clf.predict([{"image": value} for value in smooth_pictures()])
    ours = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers])
    torch.testing.assert_close(ours, shares, **CLOSE)


@pytest.mark.parametrize(
    ("changes", "said"),
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
def test_a_way_to_prepare_that_is_not_known_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    make_vision_model("vit", "body", tmp_path)
    edit_json(tmp_path / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=said):
        model_folder.load_mapping(tmp_path)


def test_pictures_larger_than_positions_were_learnt_on_are_read_whole(tmp_path: Path) -> None:
    make_vision_model("dinov2", "label", tmp_path)
    make_processor("squash", 96).save_pretrained(tmp_path)
    model = mapsto.load(tmp_path, precision="fp32")
    batch = pack_values(model.mapping, smooth_pictures())
    assert batch.lengths.tolist() == [145] * 3 and model.mapping.config.max_tokens == 145
    reference = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    answers = model.predict([{"image": value} for value in smooth_pictures()])
    ours = torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers])
    torch.testing.assert_close(
        ours, torch.softmax(reference(reference_pixels(tmp_path, smooth_pictures())).logits, -1), **CLOSE
    )


@pytest.mark.parametrize(
    ("name", "shape", "said"),
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
    name: str, shape: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    make_vision_model("vit", "body", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (key,) = (key for key in tensors if key.endswith(name))
    safetensors.torch.save_file({**tensors, key: torch.zeros(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        huggingface.open_pretrained(str(tmp_path))


def test_sources_of_other_settings_are_told_apart() -> None:
    """By the fingerprint, after which shards of a corpus are taken up again."""
    others: list[dict[str, Any]] = [
        {},
        {"table": (3, 3)},
        {"table": (3, 4)},
        {"queries": 2},
        {"between": 2},
        {"registers": 1},
        {"masked": False},
        {"placed": 2},
        {"bias": False},
        {"scale": PixelScale(group="patch")},
    ]
    others += [
        {"placed": 0, "front": zoo.get_family(shape.split(":")[0]).read_config(NETWORKS[shape]).backbone}
        for shape in NETWORKS
    ]
    frames = [Resizer(8, 32, fit) for fit in ("inside", "squash")]
    sources = [ImageSource(frame, [0.5] * 3, [0.5] * 3, **other) for frame in frames for other in others]
    assert len({source.fingerprint for source in sources}) == len(sources)


def test_a_folder_that_does_not_say_how_is_refused(tmp_path: Path) -> None:
    make_vision_model("vit", "body", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="brought to the size"):
        model_folder.load_mapping(tmp_path)
