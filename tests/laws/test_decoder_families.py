"""Laws over models whose stack reads what is left of a value, and whose decoder puts the rest back."""

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
from mapsto.sequence.corruption import Corruption, generator
from mapsto.sequence.packing import collate, shown
from mapsto.vision.patch_embedding import HEADER_BYTES, HIDDEN
from mapsto.vision.patch_reconstruction import MaskedPatches
from mapsto.vision.patch_source import PatchSource

CLASSES = {"body": AutoModel, "restored": AutoModelForPreTraining}
FITTED = {"image": AutoModelForImageClassification, "video": AutoModelForVideoClassification}
HIDES = Corruption.of("mae", 0.75, "token")


def make(shape: str, task: str, folder: Path, **changes: Any) -> Any:
    """A reference model with random weights, saved with its image processor."""
    torch.manual_seed(0)
    given = {**DECODED[shape], **changes}
    config = AutoConfig.for_model(shape.split(":")[0], **given)
    model = CLASSES[task].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder)
    how = "video, squash" if kind_of(shape) == "video" else "squash"
    make_processor(how, given["image_size"]).save_pretrained(folder)
    return model


def hidden(mapping: Mapping, values: list[Any]) -> tuple[Batch, Tensor]:
    """Three quarters of each value hidden, packed; and which patches that are, (n, patches)."""
    (source,) = mapping.sources.values()
    examples, masks = [], []
    for row, piece in enumerate(source.encode([source.read(value) for value in values], 0)):
        left, at = source.mask(piece, HIDES, generator(0, row, 0), 0.0)
        examples.append(Example((left,), (Answer(piece.tokens[at], at),), row))
        masks.append(torch.from_numpy(left.tokens[~left.special, 0] == HIDDEN))
    return collate(examples), torch.stack(masks)


def samples(shape: str) -> list[Any]:
    """Values of which the last is so faint that it tells how patches without any deviation are kept from being divided by it."""
    *others, last = sample_values(shape)
    return [*others, last // 32 + 100]


def norms(model: torch.nn.Module) -> list[float]:
    """What norms add to the variance, too little to be seen in what they give."""
    return sorted(part.eps for part in model.modules() if isinstance(part, torch.nn.LayerNorm))


def asked(reference: Any, mask: Tensor) -> dict[str, Tensor]:
    """What tells a reference to hide these patches: those of a picture are hidden whose noise is the most."""
    noise = mask + torch.arange(mask.shape[1]) / mask.shape[1]
    return {"noise": noise} if kind_of(reference.config.model_type) == "image" else {"bool_masked_pos": mask}


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("normed", [False, True])
def test_pixels_loss_and_every_gradient(shape: str, normed: bool, tmp_path: Path) -> None:
    reference, kind = make(shape, "restored", tmp_path, norm_pix_loss=normed), kind_of(shape)
    mapping = model_folder.load_mapping(tmp_path)
    hides = Corruption.of("mae", mapping.sources[kind].objectives["mae"], "token")
    assert str(mapping.arrow) == f"~{kind} -> {kind}" and mapping.targets[0].corruption == hides
    for ours, theirs in ((mapping, reference), (model_folder.load_mapping(tmp_path).train(), reference.train())):
        batch, mask = hidden(ours, samples(shape))
        said = theirs(reference_pixels(tmp_path, samples(shape)), **asked(theirs, mask))
        readout = batch.answers[0]
        assert readout is not None
        # Of pictures they say something for every patch.
        expected = said.logits[mask] if said.logits.shape[1] == mask.shape[1] else said.logits.flatten(0, 1)
        torch.testing.assert_close(ours(batch)[0], expected, **CLOSE)
        (_, loss), *_ = ours.losses(batch)
        torch.testing.assert_close(loss / len(readout.values), said.loss, **CLOSE)
    for parameter in reference.parameters():
        parameter.requires_grad_(True)  # of fixed positions too
    mapping.requires_grad_(True)
    batch, mask = hidden(mapping, samples(shape))
    (_, loss), *_ = mapping.losses(batch)
    (loss / len(batch.answers[0].values)).backward()  # type: ignore[union-attr]
    reference(reference_pixels(tmp_path, samples(shape)), **asked(reference, mask)).loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    renamed = weight_names.to_mapsto_names(zoo.family_of(mapping.config), gradients, 99, tmp_path, [])
    learned = {weight_names.weight_name(mapping, name): p.grad for name, p in mapping.named_parameters()}
    assert set(learned) == set(renamed)
    for name, gradient in learned.items():
        assert gradient is not None and renamed[name].abs().max() > 0
        torch.testing.assert_close(gradient, renamed[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("normed", [False, True])
def test_what_is_wanted_of_hidden_patches_fills_in_the_value(shape: str, normed: bool, tmp_path: Path) -> None:
    make(shape, "restored", tmp_path, norm_pix_loss=normed)
    mapping = model_folder.load_mapping(tmp_path)
    (source,), (target,) = mapping.sources.values(), mapping.targets
    assert isinstance(source, PatchSource) and isinstance(target, MaskedPatches)
    for given in samples(shape):
        value = source.read(given)
        (piece,) = source.encode([value], 0)
        _, at = source.mask(piece, HIDES, generator(0, 0, 0), 0.0)
        wanted = target._truth(torch.from_numpy(piece.tokens[at]))
        assert np.array_equal(target.complete(value, piece, at, wanted), source._resize(value)[0])
        truth, mean = (torch.from_numpy(one.tokens[at]) for one in (piece, source.blank(piece)))
        nothing, _ = target.evidence(wanted, truth).T
        flat = torch.zeros_like(wanted) if source.scale.group else target._truth(mean)
        error, blind = target.evidence(flat, truth).T
        assert not nothing.any()
        torch.testing.assert_close(error, blind, rtol=0.1, atol=0.0)  # the mean is rounded to bytes


@pytest.mark.parametrize("shape", DECODED)
def test_hidden_states_of_what_is_left_and_count_of_parameters(shape: str, tmp_path: Path) -> None:
    reference = make(shape, "restored", tmp_path)
    mapping = model_folder.load_mapping(tmp_path)
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in reference.parameters())
    assert norms(mapping) == norms(reference)
    batch, mask = hidden(mapping, samples(shape))
    at = mapping.decoded_places(batch)
    assert at is not None
    left, stood = shown(batch, at)
    states = mapping.transformer(mapping.embed(left), left, every_layer=True)
    body = reference.base_model
    found = body(reference_pixels(tmp_path, samples(shape)), **asked(reference, mask), output_hidden_states=True)
    expected = [*found.hidden_states[:-1], found.last_hidden_state]
    assert len(states) == len(expected)
    for ours, reference_nld in zip(states, expected, strict=True):
        for i, (start, length) in enumerate(zip(left.starts.tolist(), left.lengths.tolist(), strict=True)):
            torch.testing.assert_close(ours.flatten(0, 1)[start : start + length], reference_nld[i], **CLOSE)
    whole = mapping.hidden(batch).flatten(0, 1)
    assert torch.equal(whole[stood], states[-1][left.segments > 0]) and not whole[at].any()


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("task", CLASSES)
def test_saved_again_is_the_same_and_opens_elsewhere(shape: str, normed: bool, task: str, tmp_path: Path) -> None:
    reference = make(shape, task, tmp_path / "theirs", norm_pix_loss=normed)
    mapping = model_folder.load_mapping(tmp_path / "theirs")
    model_folder.save_mapping(mapping, tmp_path / "ours", {})
    again = model_folder.load_mapping(tmp_path / "ours")
    assert again.config == mapping.config
    (before,), (after,) = mapping.sources.values(), again.sources.values()
    assert before.fingerprint == after.fingerprint
    model_folder.save_mapping(again, tmp_path / "twice", {})
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    mended = {weight_names._modern_name(name, zoo.family_of(mapping.config)): tensor for name, tensor in theirs.items()}
    assert mended.keys() == ours.keys() and all(torch.equal(tensor, ours[name]) for name, tensor in mended.items())
    opened, report = CLASSES[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(opened) is type(reference) and opened.config.norm_pix_loss == normed
    assert not report["missing_keys"] and not report["unexpected_keys"]
    _, mask = hidden(mapping, samples(shape))
    values, said = (
        reference_pixels(tmp_path / "ours", samples(shape)),
        "last_hidden_state" if task == "body" else "loss",
    )
    found, expected = (model(values, **asked(reference, mask))[said] for model in (opened.eval(), reference))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_biases_open_under_the_names_of_the_first_published_videomae(tmp_path: Path) -> None:
    make("videomae", "restored", tmp_path)
    before, file = model_folder.load_mapping(tmp_path), tmp_path / "model.safetensors"
    old = {re.sub(r"(query|value)\.bias$", lambda m: f"{m[1][0]}_bias", n): t for n, t in load_file(file).items()}
    assert sum(name.endswith((".q_bias", ".v_bias")) for name in old) == 2 * (3 + 4)
    save_file(old, file)
    after = dict(model_folder.load_mapping(tmp_path).named_parameters())
    assert all(torch.equal(parameter, after[name]) for name, parameter in before.named_parameters())


@pytest.mark.parametrize("shape", DECODED)
def test_fitted_it_reads_the_whole_value_as_the_family_without_a_decoder(shape: str, tmp_path: Path) -> None:
    make(shape, "restored", tmp_path / "start")
    kind, values = kind_of(shape), samples(shape)
    rows = [{kind: value, "label": LABELS[i % 3]} for i, value in enumerate(values * 3)]
    given = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit(f"{kind} -> label", rows, tmp_path / "run", steps=5, **given)
    assert clf.mapping.decoder is None
    assert clf.mapping.config.family == zoo.get_family(shape.split(":")[0]).without_decoder
    opened = FITTED[kind].from_pretrained(tmp_path / "run").eval()
    shares = torch.softmax(opened(reference_pixels(tmp_path / "run", values)).logits, -1)
    answers = mapsto.load(tmp_path / "run", "cpu", "fp32").predict([{kind: value} for value in values])
    torch.testing.assert_close(
        torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers]), shares, **CLOSE
    )


@pytest.mark.parametrize("shape", DECODED)
@pytest.mark.parametrize("beside", ["", ", label"])
def test_a_published_decoder_goes_on(shape: str, beside: str, tmp_path: Path) -> None:
    """Also beside another answer; and it is asked to by its name."""
    make(shape, "restored", tmp_path / "start", norm_pix_loss=True)
    kind, values = kind_of(shape), samples(shape)
    rows = [{kind: value, "label": LABELS[i % 3]} for i, value in enumerate(values * 3)]
    given: dict[str, Any] = {"start": tmp_path / "start", "steps": 2, "device": "cpu", "precision": "fp32"}
    arrow = f"~{kind} -> {kind}{beside}"
    with pytest.raises(mapsto.MapstoError, match="--objective mae"):
        mapsto.fit(arrow, rows, **given)
    further = mapsto.fit(arrow, rows, tmp_path / "further", objective="mae", **given)
    again, after = model_folder.load_mapping(tmp_path / "further"), dict(further.mapping.named_parameters())
    assert again.config == further.mapping.config and again.targets[0].scale == further.mapping.targets[0].scale
    assert all(torch.equal(parameter, after[name]) for name, parameter in again.named_parameters())
    before = dict(model_folder.load_mapping(tmp_path / "start").decoder.named_parameters())  # type: ignore[union-attr]
    fixed = {name for name, parameter in before.items() if not parameter.requires_grad}
    learned = dict(further.mapping.decoder.named_parameters())  # type: ignore[union-attr]
    assert before.keys() == learned.keys()
    assert {name for name, parameter in before.items() if torch.equal(parameter, learned[name])} == fixed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mapsto_decoder": 3}, "says no sizes"),
        ({"mapsto_decoder": {"width": "wide"}}, "width must be a whole number"),
        ({"mapsto_decoder": {"width": 32, "layers": 2, "heads": 3, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 2, "heads": 32, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 1, "heads": 1, "hidden": 128}}, "that config.json does not say"),
        ({"mapsto_decoder": {"width": 32, "layers": 2**20, "heads": 1, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 3, "heads": 1, "hidden": 128}}, "lacks the weight decoder."),
        ({"mapsto_decoder": {"width": 64, "layers": 2, "heads": 1, "hidden": 128}}, "config.json says"),
    ],
)
def test_a_decoder_that_does_not_fit_its_weights_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    model_folder.save_mapping(small_mapping("~image -> image", "mae")[0], tmp_path, {})
    (tmp_path / "mapsto.json").unlink()
    restored = model_folder.load_mapping(tmp_path)
    assert restored.decoder is not None and str(restored.arrow) == "~image -> image"
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        model_folder.load_mapping(tmp_path)


@pytest.mark.parametrize("arrow", ["~image -> image", "~image -> image, boxes"])
def test_what_is_left_is_moved_together(arrow: str) -> None:
    """Beside answers that are read between tokens."""
    mapping, examples = small_mapping(arrow, "mae")
    listed = [examples.example(i, 0, 0.0) for i in range(20)]
    batch = collate(listed)
    at = mapping.decoded_places(batch)
    assert at is not None
    left, stood = shown(batch, at)
    assert left.segments.shape[1] < batch.segments.shape[1] and left.real_tokens == len(stood)
    assert left.real_tokens == batch.real_tokens - len(at)
    assert torch.equal(torch.cat([stood, at]).sort().values, (batch.segments.flatten() > 0).nonzero()[:, 0])
    for i, example in enumerate(listed):
        (piece,), (answer, *others) = example.pieces, example.answers
        assert answer is not None and answer.at is not None
        kept = np.setdiff1d(np.arange(len(piece)), answer.at)
        places = slice(int(left.starts[i]), int(left.starts[i] + left.lengths[i]))
        assert left.lengths[i] == len(kept) and (left.owner.flatten()[places] == i).all()
        assert np.array_equal(left.positions.flatten(0, 1)[places], piece.positions[kept])
        inside = torch.isin(left.slots["image"], torch.arange(places.start, places.stop))
        assert np.array_equal(left.tokens["image"][inside], piece.tokens[kept])
        row, end = places.start // left.segments.shape[1], places.stop
        for queries in (other.piece for other in others if other is not None and other.piece is not None):
            behind = torch.arange(end, end + len(queries))
            assert (left.roles.flatten()[behind] == queries.role).all()
            assert np.array_equal(left.tokens["image"][torch.isin(left.slots["image"], behind)], queries.tokens)
            end += len(queries)
        assert (left.segments[row] == left.segments.flatten()[places.start]).sum() == end - places.start
    assert (left.owner == len(listed)).sum() == left.owner.numel() - left.lengths.sum()


def test_the_stack_does_not_see_what_is_hidden_and_the_decoder_sees_what_is_left() -> None:
    """Other pixels in hidden places change nothing, others in the rest change what is put back."""
    mapping, examples = small_mapping("~image -> image", "mae")
    mapping.eval()
    batch = collate([examples.example(i, 0, 0.0) for i in range(4)])
    before = mapping(batch)[0]
    what = batch.tokens["image"][:, 0]
    for kind, changes in ((1, False), (0, True)):
        tokens = batch.tokens["image"].clone()
        tokens[what == kind, HEADER_BYTES:] ^= 255
        assert torch.equal(mapping(replace(batch, tokens={"image": tokens}))[0], before) != changes


def test_pooled_answers_are_those_of_what_is_left() -> None:
    mapping, examples = small_mapping("~image -> image, label", "mae")
    mapping.eval()
    batch = collate([examples.example(i, 0, 0.0) for i in range(12)])
    at = mapping.decoded_places(batch)
    assert at is not None
    left, _ = shown(batch, at)
    torch.testing.assert_close(mapping.pool(mapping.hidden(batch), batch), mapping.pool(mapping.hidden(left), left))


def test_a_run_with_a_decoder_goes_on_fits_and_fills_in(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    base, photos = tmp_path / "base", str(tmp_path / "photos")
    small = ["--layers", "2", "--width", "64", "--steps", "60", "--device", "cpu", "--quiet", "--hold-out", "0.2"]
    done = run("pretrain", "image", photos, "--objective", "mae", *small, "--out", str(base))
    assert done.returncode == 0, done.stderr
    mapping = model_folder.load_mapping(base)
    assert mapping.decoder is not None and mapping.decoder.embed.weight.shape == (32, 64)
    assert mapping.targets[0].corruption == HIDES
    scores = mapsto.load(base).evaluate(photos).scores
    assert scores["explained"].value > 0.3
    _, report = AutoModel.from_pretrained(base, output_loading_info=True)
    assert not report["missing_keys"] and all(name.startswith("mapsto.") for name in report["unexpected_keys"])
    model = mapsto.load(base)
    names = [str(path) for path in sorted((tmp_path / "photos").rglob("*.png"))]
    assert all(filled.shape[2] == 3 for filled in model.complete(names[:4], 0.75))
    for start in (base, model):
        again = mapsto.pretrain("image", photos, start=start, objective="mae", size=48, steps=2)
        assert again.mapping.config.decoder == mapping.config.decoder
        compared = mapsto.pretrain("image", photos, start=start, objective="simclr", steps=2)
        assert compared.mapping.decoder is None and compared.mapping.config.decoder is None
        with pytest.raises(mapsto.MapstoError, match="--objective mae"):
            mapsto.pretrain("image", photos, start=start, steps=2)
        clf = mapsto.fit("image -> label", photos, start=start, steps=2, method="full")
        assert clf.mapping.decoder is None and clf.mapping.config.decoder is None
