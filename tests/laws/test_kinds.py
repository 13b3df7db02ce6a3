"""Laws over all kinds, families and objectives: a new file is tested by being there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mappings import CPU, make_table, small_mapping, table_for
from runs import laid, overlapping_tokens, read_beside
from trainings import StepListener

from mapsto import kinds
from mapsto.distributed import Ranks
from mapsto.errors import BadCell, UsageError
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.fitting.freeze import freeze_weights
from mapsto.fitting.method import make_objective
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import possible_mixtures
from mapsto.fitting.starting_model import StartingModel
from mapsto.inference.forward import collect_evidence
from mapsto.metrics.calibration import Answered, fit_temperature
from mapsto.metrics.intervals import with_intervals
from mapsto.options import AUGMENTATIONS, MIXTURES, Options
from mapsto.sequence.corruption import Corruption, choose_hidden, make_generator
from mapsto.sequence.packing import collate
from mapsto.sequence.piece import MixturePart, Role
from mapsto.task.arrow import parse
from mapsto.task.source_capabilities import Augmentable, Explainable
from mapsto.task.target_capabilities import (
    Calibratable,
    Classes,
    Composed,
    Located,
    Mixable,
    gather_outputs,
    has_exclusive_classes,
)
from mapsto.training.loader import Loader
from mapsto.training.loop import Training
from mapsto.training.objectives import Objective
from mapsto.training.plan import Plan, RunContext
from mapsto.vision.detection_heads import assign_by_centre, grid_centres

SOURCES, TARGETS = kinds.names("source"), kinds.names("target")
ARROWS = [
    "~text -> text",
    "~en:text, ~de:text -> en:text, de:text",
    "~en:text, de:text -> en:text",
    "text:text -> label",
    "en:text, de:text -> label",
    "text:text -> label, other:label",
    "~text:text -> text, label",
    "~image -> image",
    "image -> label",
    "~image -> image, label",
    "text:text -> number",
    "text:text -> labels, number",
    "text:text -> tags",
    "text:text -> label, tags",
    "en:text, text:text -> answer:span",
    "en:text -> de:text",
    "en:text, text:text -> label, de:text",
    "image -> labels",
    "image -> boxes",
    "image -> label, boxes",
    "~video -> video",
    "video -> label",
    "image:image -> clean:image",
    "image:image -> clean:image, label",
    "~sound -> sound",
    "sound -> label",
    "sound -> labels, number",
    "sound:sound -> label:text",
    "sound:sound -> quiet:sound",
    "word:text -> spoken:sound",
    "word:text -> label, spoken:sound",
]
# An arrow, and how what stands behind `~` is put back.
OBJECTIVES = [
    *((arrow, "masked") for arrow in ARROWS),
    ("~text -> text", "causal"),
    ("~text -> text", "hybrid"),
    ("en:text, ~de:text -> de:text", "causal"),
    ("~image -> image", "mae"),
    ("~image -> image, label", "mae"),
    ("~image -> image, boxes", "mae"),
    ("~video -> video", "mae"),
]
# An arrow, and how its rows can be mixed.
MIXED = [(arrow, mixing) for arrow in ARROWS for mixing in possible_mixtures(parse(arrow))]


# A mapping's port of each kind of answers with a temperature.
CALIBRATED = [
    (arrow, port)
    for arrow in ARROWS
    for port, target in enumerate(kinds.answering(parse(arrow)))
    if issubclass(target, Calibratable)
]


@pytest.mark.parametrize(("arrow", "port"), CALIBRATED)
def test_a_temperature_makes_up_for_logits_that_are_too_large(arrow: str, port: int) -> None:
    """Logits times a factor have a temperature times the factor, and dividing the head's weights divides the logits."""
    mapping, examples = small_mapping(arrow)
    target = mapping.targets[port]
    assert isinstance(target, Calibratable)
    outputs = collect_evidence(mapping.eval(), scoring_examples(examples), CPU, of_windows=True)[port]
    values, num_logits = outputs.values, outputs.evidence.shape[1]
    if values.ndim == 1:
        right = 2.0 * torch.nn.functional.one_hot(values.long(), num_logits)
    else:
        right = 2.0 * values - 1 if values.shape == outputs.evidence.shape else 2.0 * values[:, :num_logits]
    # Right for the most part, with errors.
    logits = right + torch.from_numpy(np.random.default_rng(0).normal(size=outputs.evidence.shape))

    def fit(factor: float) -> float:
        return fit_temperature([Answered(target.calibration_loss, factor * logits, values)], deviation=1e3)

    temperature = fit(4)
    assert fit(1) == pytest.approx(temperature / 4, rel=0.01)
    losses = [target.calibration_loss(4 * logits / (temperature * change), values) for change in (0.8, 1, 1.25)]
    assert 0 < losses[1] < min(losses[0], losses[2])
    with torch.no_grad():
        for parameter in mapping.heads[port].parameters():
            parameter.div_(temperature)
    divided = collect_evidence(mapping, scoring_examples(examples), CPU, of_windows=True)[port].evidence
    assert torch.allclose(divided * temperature, outputs.evidence, atol=1e-5)


# Kinds


@pytest.mark.parametrize("kind", SOURCES)
class TestSource:
    def test_pieces_hold_together(self, kind: str) -> None:
        made_source = kinds.source(kind)
        values = [made_source.read(value) for value in made_source.samples()]
        source = made_source.new(values * 5)
        for place in (0, 1):
            bare, aligned = source.encode(values, place), source.encode(values, place, aligned=True)
            for one, other in zip(bare, aligned, strict=True):
                assert one.kind == kind and len(one) == len(one.special) == len(one.positions)
                assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.special, other.special)
                assert other.alignment is not None and other.units is not None
                assert isinstance(source, Explainable) and len(source.token_names(one)) == len(one)
                assert (other.units[other.special] == -1).all() and (other.units[~other.special] >= 0).all()

    def test_alignment_comes_back_to_the_same_tokens(self, kind: str) -> None:
        made_source = kinds.source(kind)
        values = [made_source.read(value) for value in made_source.samples()]
        for piece in made_source.new(values * 5).encode(values, 0, aligned=True):
            assert piece.alignment is not None
            for token in np.flatnonzero(~piece.special):
                region = piece.alignment.to_raw([int(token)])
                assert region is not None and token in overlapping_tokens(piece.alignment, region)
            assert all(piece.alignment.to_raw([int(token)]) is None for token in np.flatnonzero(piece.special))

    def test_cut_and_windows(self, kind: str) -> None:
        made_source = kinds.source(kind)
        values = [made_source.read(value) for value in made_source.samples()]
        source = made_source.new(values * 5)
        for piece in source.encode(values, 0, aligned=True):
            if len(piece) > 8:
                short = source.cut(piece, 8)
                assert len(short) == 8 and short.special.sum() == piece.special.sum()
                windows = source.windows(piece, 8)
                assert all(len(window) <= 8 for window in windows)
                inner = np.concatenate([window.tokens[~window.special] for window in windows])
                assert np.array_equal(inner, piece.tokens[~piece.special]), "windows hold all of it, in order"

    def test_corruption_is_a_function_of_its_key(self, kind: str) -> None:
        made_source = kinds.source(kind)
        values = [made_source.read(value) for value in made_source.samples()]
        source = made_source.new(values * 5)
        piece = max(source.encode(values, 0, aligned=True), key=len)
        for shape in ("token", "word", "span", "block"):
            corruption = Corruption(shape=shape)
            one, hidden = source.mask(piece, corruption, make_generator(3, 7, 11), 0.0)
            two, again = source.mask(piece, corruption, make_generator(3, 7, 11), 0.0)
            assert np.array_equal(one.tokens, two.tokens) and np.array_equal(hidden, again)
            untouched = np.setdiff1d(np.arange(len(piece)), hidden)
            assert np.array_equal(one.tokens[untouched], piece.tokens[untouched])
            assert not piece.special[hidden].any() and len(hidden)
            others = [source.mask(piece, corruption, make_generator(3, 7, step), 0.0)[1].tolist() for step in range(8)]
            assert len({tuple(other) for other in others}) > 1

    def test_augmentation_is_a_function_of_its_key(self, kind: str) -> None:
        """As many tokens, each still saying where in the value it comes from."""
        made_source = kinds.source(kind)
        if not issubclass(made_source, Augmentable):
            return
        values = [made_source.read(value) for value in made_source.samples()]
        source = made_source.new(values * 5)
        piece = max(source.encode(values, 0, aligned=True), key=len)
        for how in source.augmentations:
            found = [source.augment(piece, make_generator(3, 7, step), how) for step in (*range(8), 0)]
            assert np.array_equal(found[0].tokens, found[-1].tokens)
            assert len({one.tokens.tobytes() for one in found}) > 1
            for one in found:
                assert len(one) == len(piece) and np.array_equal(one.special, piece.special)
                assert one.alignment is not None and one.alignment.to_raw(np.flatnonzero(~one.special)) is not None

    def test_mixing_is_a_function_of_its_key(self, kind: str) -> None:
        """As long as the first, in shares that make a whole; what has a place is seen there, and says where it comes from."""
        made_source = kinds.source(kind)
        values = [made_source.read(value) for value in made_source.samples()]
        if not issubclass(made_source, Augmentable):
            return
        source = made_source.new(values * 5)
        pieces = source.encode(values, 0, aligned=True)
        for how, known in source.mixtures.items():
            given = [pieces[i % len(pieces)] for i in range(known.num_values)]
            found = [source.mix(given, make_generator(3, 7, step), how) for step in (*range(8), 0)]
            (first, (share, *_)), *_, (last, (same, *_)) = found
            assert np.array_equal(first.tokens, last.tokens) and share.share == same.share
            assert len({mixed.tokens.tobytes() for mixed, _ in found}) > 1
            for mixed, parts in found:
                assert np.array_equal(mixed.positions, given[0].positions) and len(parts) == known.num_values
                assert sum(part.share for part in parts) == pytest.approx(1) and all(part.share >= 0 for part in parts)
                shown = [part.piece for part in parts if part.piece is not None]
                assert (sum(map(len, shown)) == (~mixed.special).sum()) == (known.layout == "placed")
                for piece in shown:
                    there = (mixed.positions[~mixed.special][:, None] == piece.positions).all(-1).argmax(0)
                    assert np.array_equal(mixed.tokens[~mixed.special][there], piece.tokens)
                    assert piece.alignment is not None and piece.alignment.to_raw(np.arange(len(piece))) is not None

    def test_same_values_same_fingerprint(self, kind: str) -> None:
        made_source = kinds.source(kind)
        values = [made_source.read(value) for value in made_source.samples()]
        assert made_source.new(values * 5).fingerprint == made_source.new(values * 5).fingerprint

    def test_columns_are_told_apart(self, kind: str) -> None:
        made_source = kinds.source(kind)
        assert (
            made_source.fits(made_source.samples()) and not made_source.fits([]) and not made_source.fits([None, None])
        )
        for cell in (None, "", "  ", b"x", [1]):
            with pytest.raises(BadCell):
                made_source.read(cell)


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind not in SOURCES])
class TestTarget:
    def test_decode_is_the_inverse_of_encode(self, kind: str) -> None:
        target = kinds.target(kind)()
        answers = [target.read(answer) for answer in target.samples()]
        pieces, text = read_beside(target), kinds.source("text").samples()[0]
        if isinstance(target, Composed):
            answers = [target.place(answer, text) for answer in answers]
        target.learn(answers)
        values = laid(target, answers, pieces)
        head = target.head(16, None)
        outputs = certain(target, values, head(torch.zeros(1, 16)).shape[1])
        decoded = target.decode(gather_outputs(target, outputs, [pieces] * len(answers)))
        for found, answer in zip(decoded, answers, strict=True):
            if isinstance(target, Composed):
                target.add_excerpts(found, text)
            if isinstance(target, Composed) and not isinstance(target, Classes):
                assert target.brief(found[kind]) == target.brief(answer), "a text of its source, or none"
                continue
            said = target.read(found[kind])
            exact = isinstance(target, Classes)
            assert set(said) == set(answer) if exact else said == pytest.approx(answer, abs=1e-3)
        assert all(0.99 < found.get("probability", 1.0) <= 1 for found in decoded)
        assert float(target.loss(outputs, values)) < 1e-3
        scores = with_intervals(
            target.metrics(gather_outputs(target, outputs, [pieces] * len(answers)), answers)
        ).values()
        assert all(min(abs(score.value), abs(score.value - 1)) < 1e-3 for score in scores)

    def test_mixed_answers_lie_between(self, kind: str) -> None:
        """An answer mixed with itself costs what it costs alone, one with a share of 1 too; the shares of classes add up to 1."""
        target = kinds.target(kind)()
        answers = [target.read(answer) for answer in target.samples()]
        target.learn(answers)
        pieces = read_beside(target)
        layouts = target.mixture_layouts if isinstance(target, Mixable) else ()
        if "blended" not in layouts:
            assert layouts == (("placed",) if isinstance(target, Mixable) else ())
            return
        assert isinstance(target, Mixable)
        single = laid(target, answers, pieces)
        outputs = torch.randn(1, target.head(16, None)(torch.zeros(1, 16)).shape[1])

        def cost(listed: list[Any], shares: list[float]) -> float:
            values = torch.from_numpy(
                target.mix_answers(listed, pieces, [MixturePart(share) for share in shares]).values
            )
            assert values.dtype == torch.float32 and (
                not has_exclusive_classes(target) or float(values.sum()) == pytest.approx(1)
            )
            return float(target.loss(outputs, values[None]))

        for at, one in enumerate(answers):
            alone = float(target.loss(outputs, single[at : at + 1]))
            other = answers[at - 1]
            assert cost([one, one], [0.3, 0.7]) == pytest.approx(alone, rel=1e-5)
            assert cost([one, other], [1.0, 0.0]) == cost([other, one], [0.0, 1.0]) == pytest.approx(alone, rel=1e-5)
            assert cost([one, other], [0.5, 0.5]) != pytest.approx(alone, rel=1e-5)

    def test_state_makes_an_equal_target(self, kind: str) -> None:
        target = kinds.target(kind)()
        target.learn([target.read(answer) for answer in target.samples()])
        again = kinds.target(kind)(**target.state())
        assert again.state() == target.state()

    def test_loss_falls_when_the_head_learns(self, kind: str) -> None:
        torch.manual_seed(0)
        target = kinds.target(kind)()
        answers = [target.read(answer) for answer in target.samples()]
        target.learn(answers)
        values = laid(target, answers, read_beside(target))
        head, vectors = target.head(64, None), torch.randn(len(values), 64)
        optimizer = torch.optim.Adam(head.parameters(), 0.02)
        losses = []
        for _ in range(100):
            loss = target.loss(head(vectors), values)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.2 * losses[0]


def certain(target: Any, values: torch.Tensor, width: int) -> torch.Tensor:
    """Outputs that say these values and nothing else."""
    if isinstance(target, Located) and not isinstance(target, Composed):
        said = torch.full((len(values), width), -20.0)
        for grid, truth in zip(said.split(target.queries), values.split(target.queries), strict=True):
            true = truth[truth[:, 0] >= 0]
            at, which = assign_by_centre(grid_centres(target.grid), true[:, 1:], 1 / target.grid)
            grid[at, true[which, 0].long()], grid[at, -4:] = 20.0, true[which, 1:]
        return said
    if isinstance(target, Composed) and values.ndim == 2:
        return 40 * values[:, :2] - 20
    if not isinstance(target, Classes):
        return values.view(len(values), -1).float()
    if values.ndim == 2:
        return 40 * values - 20
    outputs = torch.full((len(values), width), -20.0)
    outputs[torch.arange(len(values)), values] = 20.0
    return outputs


# Mixing


def test_options_name_what_kinds_can() -> None:
    sources = [source for kind in SOURCES if issubclass(source := kinds.source(kind), Augmentable)]
    assert {way for source in sources for way in source.augmentations} == set(AUGMENTATIONS) - {"auto", "none"}
    assert {way for source in sources for way in source.mixtures} == set(MIXTURES)


@pytest.mark.parametrize(("arrow", "mixing"), MIXED)
def test_mixed_rows_are_a_function_of_seed_step_and_row(arrow: str, mixing: str) -> None:
    """Whoever makes them, before or after others; and other ones at every step."""
    _, examples = small_mapping(arrow, mixing=mixing)
    plan = Plan(10, 8, 1e-3, "adamw", seed=4, save_every=5)

    def made_by(rank: int, size: int, step: int) -> list[bytes]:
        batches = Loader(examples, plan, 0, Objective(), Ranks(rank, size)).pack_batches(step)
        values = [readout.values for batch in batches for readout in batch.answers if readout is not None]
        return [
            row.numpy().tobytes()
            for found in (*(t for b in batches for t in b.tokens.values()), *values)
            for row in found
        ]

    alone = made_by(0, 1, 3)
    assert alone != made_by(0, 1, 2) and alone == made_by(0, 1, 3)
    assert sorted(alone) == sorted([*made_by(0, 2, 3), *made_by(1, 2, 3)])


def test_rows_that_are_watched_are_as_they_are() -> None:
    rows, options = make_table(), Options(augment="crop+mixup", hold_out=0.3, device="cpu", layers=1, width=32, heads=1)
    work = prepare(FitRequest(parse("image -> label"), rows, options=options))
    assert (work.examples.augment, work.examples.mixing) == ("crop", "mixup")
    assert work.held_out is not None and (work.held_out.augment, work.held_out.mixing) == (None, None)
    plain = work.examples.without_augmentation()
    assert plain.answers is not None
    for row in range(len(plain)):
        one = plain.example(row, 3, 0.0)
        assert one.pieces is plain.pieces[row] and one.answers is plain.answers.encoded[row]


@pytest.mark.parametrize(("arrow", "mixing"), MIXED)
def test_ten_mixed_steps_equal_five_and_five_more(arrow: str, mixing: str, tmp_path: Path) -> None:
    goes_on(arrow, "masked", "adamw", {}, tmp_path, mixing)


REFUSED = [(arrow, mixing) for arrow in ARROWS for mixing in MIXTURES if (arrow, mixing) not in MIXED]


@pytest.mark.parametrize(("arrow", "mixing"), REFUSED)
def test_what_cannot_be_mixed_is_refused(arrow: str, mixing: str) -> None:
    options = Options(augment=f"none+{mixing}", vocabulary=300 if "text" in arrow else None, device="cpu")
    possible = ", ".join(possible_mixtures(parse(arrow)))
    instead = f"; there is: {possible}" if possible else ", nor is another mixing"
    with pytest.raises(UsageError, match=f"augment=.{mixing}. is not for .*{instead}$"):
        prepare(FitRequest(parse(arrow), table_for(arrow), options=options))


# Corruption


@given(size=st.integers(1, 200), seed=st.integers(0, 2**31), step=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_share_hidden_is_what_was_asked(size: int, seed: int, step: int) -> None:
    source = kinds.source("text").new(["a b c d e f g h"] * 5)
    (piece,) = source.encode([" ".join(["a", "b"] * (size // 2) + ["c"] * (size % 2)) or "c"], 0, aligned=True)
    free = int((~piece.special).sum())
    for shape, progress, rate in (("token", 0.0, 0.30), ("token", 1.0, 0.15), ("word", 0.5, 0.30), ("span", 0.0, 0.30)):
        hidden = choose_hidden(Corruption(shape=shape), piece, make_generator(seed, 1, step), progress)  # type: ignore[arg-type]
        assert len(set(hidden.tolist())) == len(hidden) and abs(len(hidden) - max(1, rate * free)) <= 1


# Objectives


@pytest.mark.parametrize("arrow", ARROWS)
def test_an_arrow_prints_as_it_parses(arrow: str) -> None:
    assert parse(str(parse(arrow))) == parse(arrow)


@pytest.mark.parametrize(("arrow", "objective"), OBJECTIVES)
def test_packed_equals_one_at_a_time(arrow: str, objective: str) -> None:
    """Nobody sees another example: outputs and losses do not depend on what else is in the row."""
    mapping, examples = small_mapping(arrow, objective)
    mapping.eval()
    listed = [examples.example(i, 0, 0.0) for i in range(12)]
    together = mapping.losses(collate(listed))
    alone: dict[int, float] = {}
    for example in listed:
        for port, loss in mapping.losses(collate([example])):
            alone[port] = alone.get(port, 0.0) + float(loss)
    assert {port for port, _ in together} == set(alone) and together
    for port, loss in together:
        assert float(loss) == pytest.approx(alone[port], rel=1e-5)


WAYS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "contrast": {"contrast": True},
    "lora": {"lora": 4},
    "contrast of updates": {"contrast": True, "lora": 4},
    "the upper layer": {"freeze": "1", "layer_decay": 0.8},
    "the head": {"freeze": "all"},
}


@pytest.mark.parametrize(("arrow", "objective"), OBJECTIVES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ten_steps_equal_five_and_a_fresh_start_and_five_more(
    arrow: str, objective: str, optimizer: Any, tmp_path: Path
) -> None:
    goes_on(arrow, objective, optimizer, {}, tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("arrow", "objective"), [("~text -> text", "replaced"), ("~image -> image", "simclr")])
def test_objectives_that_add_to_the_mapping_go_on(arrow: str, objective: str, optimizer: Any, tmp_path: Path) -> None:
    goes_on(arrow, objective, optimizer, {}, tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_opponent_goes_on(optimizer: Any, tmp_path: Path) -> None:
    goes_on("image:image -> clean:image", "masked", optimizer, {"adversarial": 0.3}, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_fitting_goes_on(way: str, tmp_path: Path) -> None:
    goes_on("text:text -> label", "masked", "adamw", WAYS[way], tmp_path)


def goes_on(
    arrow: str, hidden: str, optimizer: Any, way: dict[str, Any], tmp_path: Path, mixing: str | None = None
) -> None:
    """Ten steps, and five of them again from the checkpoint in the middle, give the same weights and losses."""
    decay = way.get("layer_decay", 1.0)
    plan = Plan(10, 8, 1e-3, optimizer, seed=4, save_every=5, average=True, layer_decay=decay)

    def train(folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
        mapping, examples = small_mapping(arrow, hidden, mixing=mixing)
        freeze_weights(mapping, Options(lora=way.get("lora"), freeze=way.get("freeze")), StartingModel(tensors={}))
        method = "contrast" if way.get("contrast") else "full"
        options = Options(objective=hidden, adversarial=way.get("adversarial", 0.0))  # type: ignore[arg-type]
        objective = make_objective(method, options, mapping, examples)
        losses: list[float] = []
        listener = StepListener(lambda report: losses.append(report.loss))
        before = [p.detach().clone() for p in mapping.parameters()]
        context = RunContext(CPU, folder, [listener])
        Training(mapping, examples, plan, context, objective).run()
        moved = [not torch.equal(p, was) for p, was in zip(mapping.parameters(), before, strict=True)]
        assert any(moved) and (not way or "adversarial" in way or not all(moved))
        return {name: p.detach().clone() for name, p in mapping.named_parameters()}, losses

    weights, losses = train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000010")
    again, rest = train(tmp_path / "half")
    assert rest == losses[5:] and len(losses) == 10
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(("arrow", "objective"), OBJECTIVES)
def test_every_objective_learns(arrow: str, objective: str) -> None:
    mapping, examples = small_mapping(arrow, objective)
    losses: list[float] = []
    # A quarter of a picture tells little at first, and the fixed places of a video are as strong as what is seen there.
    steps = 200 if objective == "mae" or arrow == "~video -> video" else 60
    plan = Plan(steps, batch=20, rate=5e-3, optimizer="muon", seed=0, save_every=steps)
    listener = StepListener(lambda report: losses.append(report.loss))
    Training(mapping, examples, plan, RunContext(CPU, loggers=[listener])).run()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_accumulation_is_exact_over_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step weighs every hidden token the same, in however many parts it is computed."""
    found = []
    for most in (10**6, 300, 100):
        monkeypatch.setattr("mapsto.training.loader.BATCH_TOKENS", most)
        mapping, examples = small_mapping("~text -> text")
        plan = Plan(steps=10, batch=24, rate=1e-3, optimizer="adamw", seed=0, save_every=100)
        training = Training(mapping, examples, plan, RunContext(CPU, workers=0))
        parts = len(training.loader.pack_batches(0))
        gradients: dict[str, torch.Tensor] = {}
        monkeypatch.setattr(
            training.optimizers,
            "step",
            lambda share, m=mapping, g=gradients: g.update({n: p.grad.clone() for n, p in m.named_parameters()}),
        )
        loss, _ = training.step(0)
        found.append((parts, loss, gradients))
    assert [parts for parts, _, _ in found] == sorted({parts for parts, _, _ in found}), "the parts must differ"
    for _, loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][1], rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][2][name], atol=1e-6, rtol=1e-4)


def test_translation_language_modelling_reads_the_other_language() -> None:
    """XLM's objective: the pieces of both languages are one segment, with the place of each told apart."""
    mapping, examples = small_mapping("~en:text, ~de:text -> en:text, de:text")
    batch = collate([examples.example(0, 0, 0.0)])
    assert set(batch.places[batch.segments > 0].tolist()) == {0, 1} and batch.segments.max() == 1
    assert batch.answers[0] is not None and batch.answers[1] is not None
    one, other = batch.answers[0].at, batch.answers[1].at
    assert one is not None and other is not None and one.max() < other.min()
    batch.tokens["text"][0] = batch.tokens["text"][0]
    before = mapping.losses(batch)[0][1].item()
    behind = int(other.max()) if int(other.max()) + 1 >= len(batch.tokens["text"]) else int(other.max()) + 1
    batch.tokens["text"][behind] = (batch.tokens["text"][behind] + 5) % 100 + 10
    assert mapping.losses(batch)[0][1].item() != before, "the German words change what is said of the English ones"


def test_a_causal_token_is_told_from_those_before_it_alone() -> None:
    """Changing a token changes what is said of those behind it, and nothing that is said before or at its own place."""
    mapping, examples = small_mapping("~text -> text", "causal")
    mapping.eval()
    example = max((examples.example(i, 0, 0.0) for i in range(len(examples))), key=len)
    (answer,) = example.answers
    assert answer is not None and answer.at is not None
    piece = example.pieces[0]
    assert np.array_equal(answer.values, piece.tokens[1:]) and np.array_equal(answer.at, np.arange(len(piece) - 1))
    batch = collate([example])
    before = mapping(batch)[0]
    place = len(piece) // 2
    batch.tokens["text"][place] = (batch.tokens["text"][place] + 7) % 100 + 10
    after = mapping(batch)[0]
    changed = (before - after).abs().amax(dim=1) > 1e-6
    assert not changed[:place].any() and changed[place:].all()


def test_a_text_that_is_read_on_behind_another_is_told_from_its_first_token() -> None:
    """A prefix language model: what stands before the first token of the answer is the end of the question."""
    mapping, examples = small_mapping("en:text, ~de:text -> de:text", "causal")
    example = examples.example(0, 0, 0.0)
    question, answer = example.pieces
    (told,) = example.answers
    assert told is not None and told.at is not None
    assert np.array_equal(told.values, answer.tokens) and told.at[0] == len(question) - 1
    batch = collate([example])
    before = mapping(batch)[0]
    batch.tokens["text"][len(question)] = (batch.tokens["text"][len(question)] + 7) % 100 + 10
    changed = (before - mapping(batch)[0]).abs().amax(dim=1) > 1e-6
    assert not changed[0] and changed[1:].all(), "and it does not see what it is to tell"


def test_a_hybrid_reads_few_examples_from_the_start_and_masks_the_others() -> None:
    _, examples = small_mapping("~text -> text", "hybrid")
    seen = [examples.example(i, step, 0.0) for step in range(20) for i in range(len(examples))]
    causal = [example.pieces[0].role == Role.CAUSAL for example in seen]
    assert 0.03 < np.mean(causal) < 0.11
    for example, whole in zip(seen, causal, strict=True):
        answer = example.answers[0]
        assert answer is not None and answer.at is not None
        told = examples.pieces[example.row][0].tokens[answer.at + 1]
        assert np.array_equal(told, answer.values), "each is told one place before it stands"
        assert len(answer.values) == len(example) - 1 if whole else len(answer.values) < len(example) / 2
