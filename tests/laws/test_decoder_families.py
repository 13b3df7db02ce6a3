"""Laws over masked autoencoders: the Transformer reads the visible patches, the decoder restores the hidden ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import DECODED, LABELS
from runs import run, write_photos
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("PIL", reason="the extra [image] is not here")

from mappings import small_mapping
from models import CLOSE
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
)
from vision_models import kind_of, make_processor, reference_pixels, sample_values

import mapsto
from mapsto import zoo
from mapsto.errors import CheckpointError
from mapsto.model.mapping import Mapping
from mapsto.pretrained import model_folder, weight_names
from mapsto.sequence.batch import Answer, Batch, Example
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.packing import collate, drop_tokens
from mapsto.vision.patch_embedding import HEADER_BYTES, HIDDEN
from mapsto.vision.patch_reconstruction import MaskedPatches
from mapsto.vision.patch_source import PatchSource

CLASSES = {"body": AutoModel, "restored": AutoModelForPreTraining}
FITTED = {"image": AutoModelForImageClassification, "video": AutoModelForVideoClassification}
CORRUPTION = Corruption.of("mae", 0.75, "token")


def make(shape: str, task: str, folder: Path, **changes: Any) -> Any:
    """Make a reference model with random weights and save it with its image processor."""
    torch.manual_seed(0)
    settings = {**DECODED[shape], **changes}
    config = AutoConfig.for_model(shape.split(":")[0], **settings)
    model = CLASSES[task].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder)
    preprocessing = "video, squash" if kind_of(shape) == "video" else "squash"
    make_processor(preprocessing, settings["image_size"]).save_pretrained(folder)
    return model


def mask_values(mapping: Mapping, values: list[Any]) -> tuple[Batch, Tensor]:
    """Hide three quarters of each value; return the packed batch and the mask of hidden patches, (n, patches)."""
    (source,) = mapping.sources.values()
    examples, masks = [], []
    for row, piece in enumerate(source.encode([source.read(value) for value in values], 0)):
        masked, positions = source.mask(piece, CORRUPTION, make_generator(0, row, 0), 0.0)
        examples.append(Example((masked,), (Answer(piece.tokens[positions], positions),), row))
        masks.append(torch.from_numpy(masked.tokens[~masked.special, 0] == HIDDEN))
    return collate(examples), torch.stack(masks)


def faint_samples(shape: str) -> list[Any]:
    """Return sample values of which the last has almost no deviation, to test the division of a patch by its own."""
    *values, last = sample_values(shape)
    return [*values, last // 32 + 100]


def norm_epsilons(model: torch.nn.Module) -> list[float]:
    """Return the epsilons of all norms, which are too small to show in the outputs."""
    return sorted(part.eps for part in model.modules() if isinstance(part, torch.nn.LayerNorm))


def mask_arguments(reference: Any, mask: Tensor) -> dict[str, Tensor]:
    """Return the arguments that make a reference hide these patches; ViT-MAE hides the patches with the largest noise."""
    noise = mask + torch.arange(mask.shape[1]) / mask.shape[1]
    return {"noise": noise} if kind_of(reference.config.model_type) == "image" else {"bool_masked_pos": mask}


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("normed", [False, True])
def test_pixels_loss_and_every_gradient(shape: str, normed: bool, tmp_path: Path) -> None:
    reference, kind = make(shape, "restored", tmp_path, norm_pix_loss=normed), kind_of(shape)
    mapping = model_folder.load_mapping(tmp_path)
    hides = Corruption.of("mae", mapping.sources[kind].objectives["mae"], "token")
    assert str(mapping.arrow) == f"~{kind} -> {kind}" and mapping.targets[0].corruption == hides
    for model, peer in ((mapping, reference), (model_folder.load_mapping(tmp_path).train(), reference.train())):
        batch, mask = mask_values(model, faint_samples(shape))
        outputs = peer(reference_pixels(tmp_path, faint_samples(shape)), **mask_arguments(peer, mask))
        answers = batch.answers[0]
        assert answers is not None
        # For pictures the reference has an output for every patch.
        expected = outputs.logits[mask] if outputs.logits.shape[1] == mask.shape[1] else outputs.logits.flatten(0, 1)
        torch.testing.assert_close(model(batch)[0], expected, **CLOSE)
        (_, loss), *_ = model.losses(batch)
        torch.testing.assert_close(loss / len(answers.values), outputs.loss, **CLOSE)
    for parameter in reference.parameters():
        parameter.requires_grad_(True)  # fixed positions too
    mapping.requires_grad_(True)
    batch, mask = mask_values(mapping, faint_samples(shape))
    (_, loss), *_ = mapping.losses(batch)
    (loss / len(batch.answers[0].values)).backward()  # type: ignore[union-attr]
    reference(reference_pixels(tmp_path, faint_samples(shape)), **mask_arguments(reference, mask)).loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    renamed = weight_names.to_mapsto_names(mapping.config, gradients, 99, tmp_path, [])
    trained = {weight_names.weight_name(mapping, name): p.grad for name, p in mapping.named_parameters()}
    assert set(trained) == set(renamed)
    for name, gradient in trained.items():
        assert gradient is not None and renamed[name].abs().max() > 0
        torch.testing.assert_close(gradient, renamed[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("normed", [False, True])
def test_the_targets_of_hidden_patches_fill_in_the_value(shape: str, normed: bool, tmp_path: Path) -> None:
    make(shape, "restored", tmp_path, norm_pix_loss=normed)
    mapping = model_folder.load_mapping(tmp_path)
    (source,), (target,) = mapping.sources.values(), mapping.targets
    assert isinstance(source, PatchSource) and isinstance(target, MaskedPatches)
    for sample in faint_samples(shape):
        value = source.read(sample)
        (piece,) = source.encode([value], 0)
        _, positions = source.mask(piece, CORRUPTION, make_generator(0, 0, 0), 0.0)
        expected = target._truth(torch.from_numpy(piece.tokens[positions]))
        assert np.array_equal(target.complete(value, piece, positions, expected), source._resize(value)[0])
        truth, mean = (torch.from_numpy(each_piece.tokens[positions]) for each_piece in (piece, source.blank(piece)))
        nothing, _ = target.evidence(expected, truth).T
        flat = torch.zeros_like(expected) if source.scale.group else target._truth(mean)
        error, mean_error = target.evidence(flat, truth).T
        assert not nothing.any()
        torch.testing.assert_close(error, mean_error, rtol=0.1, atol=0.0)  # the mean is rounded to bytes


@pytest.mark.parametrize("shape", DECODED)
def test_hidden_states_of_visible_patches_and_count_of_parameters(shape: str, tmp_path: Path) -> None:
    reference = make(shape, "restored", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in reference.parameters())
    assert norm_epsilons(mapping) == norm_epsilons(reference)
    batch, mask = mask_values(mapping, faint_samples(shape))
    masked = mapping.decoded_places(batch)
    assert masked is not None
    visible, visible_places = drop_tokens(batch, masked)
    states = mapping.transformer(mapping.embed(visible), visible, every_layer=True)
    body = reference.base_model
    outputs = body(
        reference_pixels(tmp_path, faint_samples(shape)), **mask_arguments(reference, mask), output_hidden_states=True
    )
    expected = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
    assert len(states) == len(expected)
    for states_rld, reference_nld in zip(states, expected, strict=True):
        for i, (start, length) in enumerate(zip(visible.starts.tolist(), visible.lengths.tolist(), strict=True)):
            torch.testing.assert_close(states_rld.flatten(0, 1)[start : start + length], reference_nld[i], **CLOSE)
    hidden_states = mapping.hidden(batch).flatten(0, 1)
    assert (
        torch.equal(hidden_states[visible_places], states[-1][visible.segments > 0]) and not hidden_states[masked].any()
    )


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("task", CLASSES)
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, normed: bool, task: str, tmp_path: Path) -> None:
    reference = make(shape, task, tmp_path / "theirs", norm_pix_loss=normed)
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    reloaded = model_folder.load_mapping(tmp_path / "ours")
    assert reloaded.config == mapping.config
    (original,), (current,) = mapping.sources.values(), reloaded.sources.values()
    assert original.fingerprint == current.fingerprint
    model_folder.save_mapping(reloaded, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    published, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    renamed_weights = {
        weight_names._modern_name(name, zoo.family_of(mapping.config)): tensor for name, tensor in published.items()
    }
    assert renamed_weights.keys() == saved.keys() and all(
        torch.equal(tensor, saved[name]) for name, tensor in renamed_weights.items()
    )
    loaded, report = CLASSES[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(loaded) is type(reference) and loaded.config.norm_pix_loss == normed
    assert not report["missing_keys"] and not report["unexpected_keys"]
    _, mask = mask_values(mapping, faint_samples(shape))
    values, key = (
        reference_pixels(tmp_path / "ours", faint_samples(shape)),
        "last_hidden_state" if task == "body" else "loss",
    )
    outputs, expected = (model(values, **mask_arguments(reference, mask))[key] for model in (loaded.eval(), reference))
    torch.testing.assert_close(outputs, expected, **CLOSE)


def test_biases_open_under_the_names_of_the_first_published_videomae(tmp_path: Path) -> None:
    make("videomae", "restored", tmp_path)
    original, file = model_folder.load_mapping(tmp_path), tmp_path / "model.safetensors"
    old = {re.sub(r"(query|value)\.bias$", lambda m: f"{m[1][0]}_bias", n): t for n, t in load_file(file).items()}
    assert sum(name.endswith((".q_bias", ".v_bias")) for name in old) == 2 * (3 + 4)
    save_file(old, file)
    current = dict(model_folder.load_mapping(tmp_path).named_parameters())
    assert all(torch.equal(parameter, current[name]) for name, parameter in original.named_parameters())


@pytest.mark.parametrize("shape", DECODED)
def test_a_fitted_model_reads_the_whole_value_as_the_family_without_a_decoder(shape: str, tmp_path: Path) -> None:
    make(shape, "restored", tmp_path / "start")
    kind, values = kind_of(shape), faint_samples(shape)
    rows = [{kind: value, "label": LABELS[i % 3]} for i, value in enumerate(values * 3)]
    options = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit(f"{kind} -> label", rows, tmp_path / "run", steps=5, **options)
    assert clf.mapping.decoder is None
    assert clf.mapping.config.family == zoo.get_family(shape.split(":")[0]).without_decoder
    loaded = FITTED[kind].from_pretrained(tmp_path / "run").eval()
    shares = torch.softmax(loaded(reference_pixels(tmp_path / "run", values)).logits, -1)
    answers = mapsto.load(tmp_path / "run", "cpu", "fp32").predict([{kind: value} for value in values])
    torch.testing.assert_close(
        torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers]), shares, **CLOSE
    )


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("other_target", ["", ", label"])
def test_a_published_decoder_is_trained_further(shape: str, other_target: str, tmp_path: Path) -> None:
    """Alone and beside another target; only with `--objective mae`."""
    make(shape, "restored", tmp_path / "start", norm_pix_loss=True)
    kind, values = kind_of(shape), faint_samples(shape)
    rows = [{kind: value, "label": LABELS[i % 3]} for i, value in enumerate(values * 3)]
    options: dict[str, Any] = {"start": tmp_path / "start", "steps": 2, "device": "cpu", "precision": "fp32"}
    arrow = f"~{kind} -> {kind}{other_target}"
    with pytest.raises(mapsto.MapstoError, match='objective="mae"'):
        mapsto.fit(arrow, rows, **options)
    continued = mapsto.fit(arrow, rows, tmp_path / "further", objective="mae", **options)
    reloaded, current = model_folder.load_mapping(tmp_path / "further"), dict(continued.mapping.named_parameters())
    assert (
        reloaded.config == continued.mapping.config and reloaded.targets[0].scale == continued.mapping.targets[0].scale
    )
    assert all(torch.equal(parameter, current[name]) for name, parameter in reloaded.named_parameters())
    original = dict(model_folder.load_mapping(tmp_path / "start").decoder.named_parameters())  # type: ignore[union-attr]
    fixed = {name for name, parameter in original.items() if not parameter.requires_grad}
    trained = dict(continued.mapping.decoder.named_parameters())  # type: ignore[union-attr]
    assert original.keys() == trained.keys()
    assert {name for name, parameter in original.items() if torch.equal(parameter, trained[name])} == fixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapsto_decoder": 3}, "says no sizes"),
        ({"mapsto_decoder": {"width": "wide"}}, "width must be a whole number"),
        ({"mapsto_decoder": {"width": 32, "layers": 2, "heads": 3, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 2, "heads": 32, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 1, "heads": 1, "hidden": 128}}, "that is not in config.json"),
        ({"mapsto_decoder": {"width": 32, "layers": 2**20, "heads": 1, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 3, "heads": 1, "hidden": 128}}, "lacks the weight decoder."),
        ({"mapsto_decoder": {"width": 64, "layers": 2, "heads": 1, "hidden": 128}}, "config.json says"),
    ],
)
def test_a_decoder_that_does_not_fit_its_weights_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model_folder.save_mapping(small_mapping("~image -> image", "mae")[0], tmp_path, {})
    (tmp_path / "mapsto.json").unlink()
    restored = model_folder.load_mapping(tmp_path)
    assert restored.decoder is not None and str(restored.arrow) == "~image -> image"
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        model_folder.load_mapping(tmp_path)


@pytest.mark.parametrize("arrow", ["~image -> image", "~image -> image, boxes"])
def test_visible_tokens_are_packed_without_gaps(arrow: str) -> None:
    """Also beside queries, which are read between tokens."""
    mapping, examples = small_mapping(arrow, "mae")
    batch_examples = [examples.example(i, 0, 0.0) for i in range(20)]
    batch = collate(batch_examples)
    masked = mapping.decoded_places(batch)
    assert masked is not None
    visible, visible_places = drop_tokens(batch, masked)
    assert visible.segments.shape[1] < batch.segments.shape[1] and visible.real_tokens == len(visible_places)
    assert visible.real_tokens == batch.real_tokens - len(masked)
    assert torch.equal(
        torch.cat([visible_places, masked]).sort().values, (batch.segments.flatten() > 0).nonzero()[:, 0]
    )
    for i, example in enumerate(batch_examples):
        (piece,), (answer, *other_answers) = example.pieces, example.answers
        assert answer is not None and answer.at is not None
        kept_tokens = np.setdiff1d(np.arange(len(piece)), answer.at)
        places = slice(int(visible.starts[i]), int(visible.starts[i] + visible.lengths[i]))
        assert visible.lengths[i] == len(kept_tokens) and (visible.owner.flatten()[places] == i).all()
        assert np.array_equal(visible.positions.flatten(0, 1)[places], piece.positions[kept_tokens])
        is_inside = torch.isin(visible.slots["image"], torch.arange(places.start, places.stop))
        assert np.array_equal(visible.tokens["image"][is_inside], piece.tokens[kept_tokens])
        row, end = places.start // visible.segments.shape[1], places.stop
        for queries in (other.piece for other in other_answers if other is not None and other.piece is not None):
            query_places = torch.arange(end, end + len(queries))
            assert (visible.roles.flatten()[query_places] == queries.role).all()
            assert np.array_equal(
                visible.tokens["image"][torch.isin(visible.slots["image"], query_places)], queries.tokens
            )
            end += len(queries)
        assert (visible.segments[row] == visible.segments.flatten()[places.start]).sum() == end - places.start
    assert (visible.owner == len(batch_examples)).sum() == visible.owner.numel() - visible.lengths.sum()


def test_the_stack_does_not_see_hidden_patches_and_the_decoder_sees_visible_ones() -> None:
    """Other pixels in hidden patches change nothing; other pixels in visible ones change the restored patches."""
    mapping, examples = small_mapping("~image -> image", "mae")
    mapping.eval()
    batch = collate([examples.example(i, 0, 0.0) for i in range(4)])
    original = mapping(batch)[0]
    token_kinds = batch.tokens["image"][:, 0]
    for kind, changes in ((1, False), (0, True)):
        tokens = batch.tokens["image"].clone()
        tokens[token_kinds == kind, HEADER_BYTES:] ^= 255
        assert torch.equal(mapping(replace(batch, tokens={"image": tokens}))[0], original) != changes


def test_pooled_answers_read_visible_tokens_only() -> None:
    mapping, examples = small_mapping("~image -> image, label", "mae")
    mapping.eval()
    batch = collate([examples.example(i, 0, 0.0) for i in range(12)])
    masked = mapping.decoded_places(batch)
    assert masked is not None
    visible, _ = drop_tokens(batch, masked)
    torch.testing.assert_close(
        mapping.pool(mapping.hidden(batch), batch), mapping.pool(mapping.hidden(visible), visible)
    )


def test_a_model_with_a_decoder_is_trained_further_fitted_and_fills_in(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    base, photos = tmp_path / "base", str(tmp_path / "photos")
    small = ["--layers", "2", "--width", "64", "--steps", "60", "--device", "cpu", "--quiet", "--hold-out", "0.2"]
    result = run("pretrain", "image", photos, "--objective", "mae", *small, "--out", str(base))
    assert result.returncode == 0, result.stderr
    mapping = model_folder.load_mapping(base)
    assert mapping.decoder is not None and mapping.decoder.embed.weight.shape == (32, 64)
    assert mapping.targets[0].corruption == CORRUPTION
    scores = mapsto.load(base).evaluate(photos).scores
    assert scores["explained"].value > 0.3
    _, report = AutoModel.from_pretrained(base, output_loading_info=True)
    assert not report["missing_keys"] and all(name.startswith("mapsto.") for name in report["unexpected_keys"])
    model = mapsto.load(base)
    names = [str(path) for path in sorted((tmp_path / "photos").rglob("*.png"))]
    assert all(picture.shape[2] == 3 for picture in model.complete(names[:4], 0.75))
    for start in (base, model):
        reloaded = mapsto.pretrain("image", photos, start=start, objective="mae", size=48, steps=2)
        assert reloaded.mapping.config.decoder == mapping.config.decoder
        compared = mapsto.pretrain("image", photos, start=start, objective="simclr", steps=2)
        assert compared.mapping.decoder is None and compared.mapping.config.decoder is None
        with pytest.raises(mapsto.MapstoError, match='objective="mae"'):
            mapsto.pretrain("image", photos, start=start, steps=2)
        clf = mapsto.fit("image -> label", photos, start=start, steps=2, method="full")
        assert clf.mapping.decoder is None and clf.mapping.config.decoder is None
