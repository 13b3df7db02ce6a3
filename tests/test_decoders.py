"""Laws over models whose stack reads what is left of a value, and whose decoder puts the rest back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import DECODED, LABELS
from runs import run, write_photos
from torch import Tensor

pytest.importorskip("PIL", reason="the extra [image] is not here")

from test_laws import made
from test_vision import CLOSE, pictures, processor, seen
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

import mapsto
from mapsto import folder as folders
from mapsto import published, zoo
from mapsto.corrupt import Corruption, generator
from mapsto.errors import CheckpointError
from mapsto.kinds.image import ImageSource, ImageTarget
from mapsto.mapping import Mapping
from mapsto.patches import PLACES
from mapsto.sequence import Answer, Batch, Example, collate, shown

CLASSES = {"body": AutoModel, "image": AutoModelForPreTraining}
HIDES = Corruption.of("mae", 0.75, "token")


def make(family: str, task: str, folder: Path, **changes: Any) -> Any:
    """A reference model with random weights, saved with its image processor."""
    torch.manual_seed(0)
    given = {**DECODED[family], **changes}
    model = CLASSES[task].from_config(AutoConfig.for_model(family, **given), attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder)
    processor("squash", given["image_size"]).save_pretrained(folder)
    return model


def hidden(mapping: Mapping, values: list[Any]) -> tuple[Batch, Tensor]:
    """Three quarters of each picture hidden, packed; and the noise (n, patches) by which the reference hides the same."""
    source = mapping.sources["image"]
    examples, noises = [], []
    for row, piece in enumerate(source.encode([source.read(value) for value in values], 0)):
        left, at = source.corrupt(piece, HIDES, generator(0, row, 0), 0.0)
        examples.append(Example((left,), (Answer(piece.tokens[at], at),), row))
        noise = torch.arange(len(piece) - 1) / len(piece)
        noise[at - 1] += 1
        noises.append(noise)
    return collate(examples), torch.stack(noises)


@pytest.mark.parametrize("family", DECODED)
@pytest.mark.parametrize("normed", [False, True])
def test_pixels_loss_and_every_gradient(family: str, normed: bool, tmp_path: Path) -> None:
    reference = make(family, "image", tmp_path, norm_pix_loss=normed)
    mapping = folders.load(tmp_path)
    assert str(mapping.arrow) == "~image -> image" and mapping.targets[0].corruption == HIDES
    for ours, theirs in ((mapping, reference), (folders.load(tmp_path).train(), reference.train())):
        batch, noise = hidden(ours, pictures())
        said = theirs(seen(tmp_path, pictures()), noise=noise)
        readout = batch.answers[0]
        assert readout is not None
        expected = torch.cat([logits[mask > 0] for logits, mask in zip(said.logits, said.mask, strict=True)])
        torch.testing.assert_close(ours(batch)[0], expected, **CLOSE)
        (_, loss), *_ = ours.losses(batch)
        torch.testing.assert_close(loss / len(readout.values), said.loss, **CLOSE)
    for parameter in reference.parameters():
        parameter.requires_grad_(True)  # of fixed positions too
    mapping.requires_grad_(True)
    batch, noise = hidden(mapping, pictures())
    (_, loss), *_ = mapping.losses(batch)
    (loss / len(batch.answers[0].values)).backward()  # type: ignore[union-attr]
    reference(seen(tmp_path, pictures()), noise=noise).loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    renamed = published._ours(zoo.family(family), gradients, 99, tmp_path, [])
    learned = {published.start_name(mapping, name): p.grad for name, p in mapping.named_parameters()}
    assert set(learned) == set(renamed)
    for name, gradient in learned.items():
        assert gradient is not None and renamed[name].abs().max() > 0
        torch.testing.assert_close(gradient, renamed[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("normed", [False, True])
def test_what_is_wanted_of_hidden_patches_fills_in_the_picture(normed: bool, tmp_path: Path) -> None:
    make("vit_mae", "image", tmp_path, norm_pix_loss=normed)
    mapping = folders.load(tmp_path)
    source, target = mapping.sources["image"], mapping.targets[0]
    assert isinstance(source, ImageSource) and isinstance(target, ImageTarget) and source.normed == normed
    for picture in pictures():
        value = source.read(picture)
        (piece,) = source.encode([value], 0)
        _, at = source.corrupt(piece, HIDES, generator(0, 0, 0), 0.0)
        filled = target.completed(value, piece, at, target._wanted(torch.from_numpy(piece.tokens[at])))
        assert np.array_equal(filled, source.frame.framed(picture)[0])


@pytest.mark.parametrize("family", DECODED)
def test_hidden_states_of_what_is_left_and_count_of_parameters(family: str, tmp_path: Path) -> None:
    reference = make(family, "image", tmp_path)
    mapping = folders.load(tmp_path)
    assert sum(p.numel() for p in mapping.parameters()) == sum(p.numel() for p in reference.parameters())
    batch, noise = hidden(mapping, pictures())
    at = mapping.taken(batch)
    assert at is not None
    left, stood = shown(batch, at)
    states = mapping.transformer(
        mapping.embed(left), left.segments, left.roles, left.positions, left.places, every_layer=True
    )
    found = reference.vit(seen(tmp_path, pictures()), noise=noise, output_hidden_states=True)
    expected = [*found.hidden_states[:-1], found.last_hidden_state]
    assert len(states) == len(expected)
    for ours, reference_nld in zip(states, expected, strict=True):
        for i, (start, length) in enumerate(zip(left.starts.tolist(), left.lengths.tolist(), strict=True)):
            torch.testing.assert_close(ours.flatten(0, 1)[start : start + length], reference_nld[i], **CLOSE)
    whole = mapping.hidden(batch).flatten(0, 1)
    assert torch.equal(whole[stood], states[-1][left.segments > 0]) and not whole[at].any()


@pytest.mark.parametrize("family", DECODED)
@pytest.mark.parametrize("task", CLASSES)
def test_saved_again_is_the_same_and_opens_elsewhere(family: str, task: str, tmp_path: Path) -> None:
    reference = make(family, task, tmp_path / "theirs", norm_pix_loss=True)
    mapping = folders.load(tmp_path / "theirs")
    folders.save(mapping, tmp_path / "ours", {})
    again = folders.load(tmp_path / "ours")
    assert again.config == mapping.config
    for (name, before), (_, after) in zip(mapping.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(before, after), name
    opened, report = CLASSES[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    values, noise = seen(tmp_path / "ours", pictures()), torch.rand(3, 16, generator=torch.manual_seed(0))
    said = "last_hidden_state" if task == "body" else "loss"
    torch.testing.assert_close(opened.eval()(values, noise=noise)[said], reference(values, noise=noise)[said], **CLOSE)


@pytest.mark.parametrize("family", DECODED)
def test_fitted_it_reads_the_whole_picture_as_the_family_without_a_decoder(family: str, tmp_path: Path) -> None:
    make(family, "image", tmp_path / "start")
    rows = [{"image": value, "label": LABELS[i % 3]} for i, value in enumerate(pictures() * 3)]
    given = {"start": tmp_path / "start", "device": "cpu", "precision": "fp32", "method": "full"}
    clf = mapsto.fit("image -> label", rows, tmp_path / "run", steps=5, **given)
    assert clf.mapping.decoder is None and clf.mapping.config.family == zoo.family(family).undecoded
    opened = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    shares = torch.softmax(opened(seen(tmp_path / "run", pictures())).logits, -1)
    answers = mapsto.load(tmp_path / "run", "cpu", "fp32").predict([{"image": value} for value in pictures()])
    torch.testing.assert_close(
        torch.tensor([[answer["scores"][label] for label in LABELS] for answer in answers]), shares, **CLOSE
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mapsto_decoder": 3}, "says no sizes"),
        ({"mapsto_decoder": {"width": "wide"}}, "width must be a whole number"),
        ({"mapsto_decoder": {"width": 32, "layers": 2, "heads": 3, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 2**20, "heads": 1, "hidden": 128}}, "does not fit the weights"),
        ({"mapsto_decoder": {"width": 32, "layers": 3, "heads": 1, "hidden": 128}}, "lacks the weight decoder."),
        ({"mapsto_decoder": {"width": 64, "layers": 2, "heads": 1, "hidden": 128}}, "config.json says"),
    ],
)
def test_a_decoder_that_does_not_fit_its_weights_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folders.save(made("~image -> image", "mae")[0], tmp_path, {})
    (tmp_path / "mapsto.json").unlink()
    restored = folders.load(tmp_path)
    assert restored.decoder is not None and str(restored.arrow) == "~image -> image"
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        folders.load(tmp_path)


@pytest.mark.parametrize("arrow", ["~image -> image", "~image -> image, boxes"])
def test_what_is_left_is_moved_together(arrow: str) -> None:
    """Beside answers that are read between tokens."""
    mapping, examples = made(arrow, "mae")
    listed = [examples.example(i, 0, 0.0) for i in range(20)]
    batch = collate(listed)
    at = mapping.taken(batch)
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
    mapping, examples = made("~image -> image", "mae")
    mapping.eval()
    batch = collate([examples.example(i, 0, 0.0) for i in range(4)])
    before = mapping(batch)[0]
    what = batch.tokens["image"][:, 0]
    for kind, changes in ((1, False), (0, True)):
        tokens = batch.tokens["image"].clone()
        tokens[what == kind, PLACES:] ^= 255
        assert torch.equal(mapping(replace(batch, tokens={"image": tokens}))[0], before) != changes


def test_pooled_answers_are_those_of_what_is_left() -> None:
    mapping, examples = made("~image -> image, label", "mae")
    mapping.eval()
    batch = collate([examples.example(i, 0, 0.0) for i in range(12)])
    at = mapping.taken(batch)
    assert at is not None
    left, _ = shown(batch, at)
    torch.testing.assert_close(mapping.pool(mapping.hidden(batch), batch), mapping.pool(mapping.hidden(left), left))


def test_a_run_with_a_decoder_goes_on_fits_and_fills_in(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    base, photos = tmp_path / "base", str(tmp_path / "photos")
    small = ["--layers", "2", "--width", "64", "--steps", "60", "--device", "cpu", "--quiet", "--hold-out", "0.2"]
    done = run("pretrain", "image", photos, "--objective", "mae", *small, "--out", str(base))
    assert done.returncode == 0, done.stderr
    mapping = folders.load(base)
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
