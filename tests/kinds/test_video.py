"""Videos as users have them: decoded by a process that may die, learnt from, explained and filled in."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the extra [video] is not here")

from mappings import small_mapping
from PIL import Image
from runs import clip, overlapping_tokens, write_clip, write_clips
from vision_models import edit_json

import mapsto
from mapsto import cli, kinds
from mapsto.data.table import write_rows
from mapsto.errors import BadCell, CheckpointError
from mapsto.kinds.video import Video, VideoSource
from mapsto.media import decoder_process
from mapsto.media.cells import Unreadable
from mapsto.media.decoder_process import DecoderProcess, is_missing
from mapsto.pretrained import model_folder
from mapsto.sequence.corruption import Corruption, choose_hidden, make_generator
from mapsto.vision import image_io, video_io
from mapsto.vision.patch_embedding import STACK_HEADER_BYTES
from mapsto.vision.patch_source import PixelScale, grid_neighbours
from mapsto.vision.resize import Resizer

DECODES = pytest.mark.skipif(is_missing("av"), reason="the extra [video] is not here: no PyAV")
SMALL = ["--layers", "1", "--width", "64", "--device", "cpu"]
FIT_OPTIONS: Any = {"layers": 2, "width": 64, "device": "cpu"}
read = kinds.source("video").read


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A command line, which must end well; what it prints."""

    def call(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["mapsto", *map(str, words)])
        try:
            cli.main()
        except SystemExit as stopped:
            assert not stopped.code, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def rows(start: int, count: int) -> list[dict[str, Any]]:
    found = [clip(i, frames=4, side=8) for i in range(start, start + count)]
    return [{"video": pixels, "label": label} for pixels, label in found]


# Decoding


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    """A decoding process of the test's own."""
    child = DecoderProcess(video_io.WORKER_CODE, "video", video_io.INSTALL_PYAV)
    monkeypatch.setattr(video_io, "DECODER", child)
    yield child
    child.close()


@DECODES
@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "mpeg4"), ("mkv", "ffv1"), ("avi", "mpeg4"), ("mpg", "mpeg2video")]
)
def test_frames_are_those_that_were_written(ending: str, codec: str, tmp_path: Path) -> None:
    pixels = np.stack([np.full((32, 48, 3), 20 + 20 * at, np.uint8) for at in range(10)])
    path = str(write_clip(tmp_path / f"a.{ending}", pixels, rate=25, codec=codec))
    facts = video_io.probe_video(path)
    assert (facts.frames, facts.height, facts.width) == (10, 32, 48) and facts.seconds == pytest.approx(0.4, abs=0.05)
    assert video_io.probe_video(None, Path(path).read_bytes()) == facts
    for count, expected in ((10, range(10)), (5, range(1, 10, 2)), (2, (2, 7)), (20, (at // 2 for at in range(20)))):
        shown = video_io.decode_frames(path, None, video_io.middle_times(0.4, count))
        assert shown.shape == (count, 32, 48, 3)
        assert [round((frame.mean() - 20) / 20) for frame in shown] == list(expected)


@DECODES
def test_a_video_held_upright_is_turned(tmp_path: Path) -> None:
    """As a telephone writes it: the picture lies on its side, and a matrix in the track's header says how it is turned."""
    pixels = np.zeros((4, 32, 48, 3), np.uint8)
    pixels[:, :8] = 255  # bright above
    content = write_clip(tmp_path / "a.mp4", pixels).read_bytes()
    at = content.index(b"tkhd") + 4 + 40
    turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)  # by a quarter to the right
    rotated = content[:at] + turn + content[at + 36 :]
    assert video_io.probe_video(None, rotated) == video_io.VideoInfo(4, 48, 32, 0.4)
    (shown,) = video_io.decode_frames(None, rotated, [0.1])
    assert shown.shape == (48, 32, 3) and shown[:, 28:].mean() > 200 and shown[:, :16].mean() < 50


def with_matrix(content: bytes, turn: tuple[float, float, float, float]) -> bytes:
    """Return an MP4 whose track is to be shown by the matrix (a, b, c, d)."""
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(65536 * value) for value in turn)
    return content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :]


@DECODES
@pytest.mark.parametrize(
    ("turn", "change"),
    [
        ((1, 0, 0, 1), lambda pixels: pixels),
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
        ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
        ((0, -1, 1, 0), lambda pixels: np.rot90(pixels, 1)),
        ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
        ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
        ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1)),
        ((0, 2, -2, 0), lambda pixels: np.rot90(pixels, -1)),  # turned and enlarged
        ((0.01, 1, -1, 0.01), lambda pixels: np.rot90(pixels, -1)),
        # No matrix of a turn: zeros, one direction lost, slanted, between two turns.
        *(
            (none, lambda pixels: pixels)
            for none in ((0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1), (1, 1, 0, 1), (0.7, 0.7, -0.7, 0.7), (1, 0, 0, 0))
        ),
    ],
)
def test_a_video_is_shown_by_its_matrix(turn: Any, change: Callable[[Any], Any], tmp_path: Path) -> None:
    """All eight orientations, as players show them; a matrix that is none of them changes nothing."""
    pixels = np.zeros((4, 32, 48, 3), np.uint8)
    pixels[:, :16, :16], pixels[:, 16:, 32:] = 255, 120
    content = with_matrix(write_clip(tmp_path / "a.mp4", pixels).read_bytes(), turn)
    (shown,) = video_io.decode_frames(None, content, [0.1])
    expected = change(pixels[0])
    info = video_io.probe_video(None, content)
    assert (info.height, info.width) == shown.shape[:2] == expected.shape[:2]
    assert np.abs(shown.astype(int) - expected).mean() < 8


@DECODES
@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov"])
def test_sound_may_be_longer_than_the_video(ending: str, tmp_path: Path) -> None:
    import av

    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
        for start in range(0, 48000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert video_io.probe_video(str(path)).frames == 10
    # What was cut off is still noticed: by the track's own length.
    if ending == "mkv":
        content = path.read_bytes()
        with pytest.raises(Unreadable, match="damaged"):
            video_io.probe_video(None, content[: content.index(b"\x1f\x43\xb6\x75") + 120])


@DECODES
def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    pixels, _ = clip(0)
    whole = write_clip(tmp_path / "a.mp4", pixels).read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    others = [
        write_clip(tmp_path / f"a.{ending}", noise, codec=codec)
        for ending, codec in (("mkv", "ffv1"), ("avi", "mpeg4"), ("mpg", "mpeg2video"))
    ]
    halves = [path.read_bytes()[: path.stat().st_size // 2] for path in others]
    still = io.BytesIO()
    Image.new("RGB", (8, 8)).save(still, "PNG")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n")
    (tmp_path / "join.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n")
    (tmp_path / "text.mp4").write_text("no video at all, and some more words\n" * 20)
    os.mkfifo(tmp_path / "pipe.mp4")
    for cell, message in (
        (b"plain text", "no video of a known format"),
        (still.getvalue(), "no video of a known format"),
        (str(tmp_path / "list.mp4"), "no video of a known format"),
        (str(tmp_path / "join.mp4"), "no video of a known format"),
        (str(tmp_path / "text.mp4"), "no video of a known format"),
        (whole[: len(whole) // 2], "no video"),
        *((cut, "damaged") for cut in halves),
        (str(tmp_path / "none.mp4"), "No such file"),
        (str(tmp_path / "pipe.mp4"), "this is no file"),
        (str(tmp_path), "this is no file"),
        ("https://example.org/cat.mp4", "nothing is fetched"),
        ({"bytes": None, "path": None}, "blank"),
        (np.zeros((2, 4, 4, 3)), "of bytes"),
        (np.zeros((4, 4, 3), np.uint8), "of bytes"),
        (3, "not int"),
    ):
        with pytest.raises(BadCell, match=message):
            read(cell)


def fuzz(count: int, tmp_path: Path) -> int:
    """Read `count` videos with some bytes changed, most near the start; return how many are still videos."""
    rng, whole = np.random.default_rng(22), 0
    endings = (
        ("mp4", "mpeg4"),
        ("mkv", "ffv1"),
        ("avi", "mpeg4"),
        ("mpg", "mpeg2video"),
        ("mov", "mpeg4"),
        ("webm", "libvpx"),
    )
    files = [
        write_clip(tmp_path / f"a.{end}", clip(0, frames=4, side=16)[0], codec=codec).read_bytes()
        for end, codec in endings
    ]
    for number in range(count):
        edited = bytearray(files[number % len(files)])
        for _ in range(rng.integers(1, 6)):
            at = int(len(edited) * rng.random() ** 2)
            edited[at : at + int(rng.integers(4))] = rng.bytes(int(rng.integers(1, 4)))
        try:
            value = read(bytes(edited))
        except BadCell:
            continue
        assert value.sample(3).shape[1:3] == (value.info.height, value.info.width)
        whole += 1
    return whole


@DECODES
def test_mutated_videos_raise_nothing_but_bad_cells(tmp_path: Path) -> None:
    assert 0 < fuzz(36, tmp_path) < 36


@DECODES
@pytest.mark.slow
def test_2_000_mutated_videos_raise_nothing_but_bad_cells(tmp_path: Path) -> None:
    assert 0 < fuzz(2000, tmp_path) < 2000


@DECODES
@pytest.mark.parametrize(
    ("name", "message"),
    [("MAX_PIXELS", "32 × 32 pixels are more than the 9"), ("MAX_FRAMES", "more than the 9 frames")],
)
def test_limits(
    name: str, message: str, fresh: DecoderProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "a.mp4", np.zeros((12, 32, 32, 3), np.uint8))
    fresh.program = f"from mapsto.vision import video_worker as d; d.{name} = 9; d.serve()"
    with pytest.raises(BadCell, match=message):
        read(str(path))


@DECODES
@pytest.mark.parametrize("end", ["killed", "hangs"])
def test_a_decoder_that_dies_costs_one_video(
    end: str, fresh: DecoderProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the next one is decoded by another."""
    path = str(write_clip(tmp_path / "a.mp4", clip(0)[0]))
    assert read(path).info.frames == 8 and fresh.process is not None
    first = fresh.process.pid
    os.kill(first, signal.SIGSTOP)
    if end == "killed":
        threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
    else:
        fresh.limit = 0.3
    begun = time.monotonic()
    with pytest.raises(BadCell, match="SIGKILL" if end == "killed" else "more than 0.3 s and was stopped"):
        read(path)
    assert time.monotonic() - begun < 20
    fresh.limit = 60.0
    assert read(path).info.frames == 8 and fresh.process.pid != first


@DECODES
def test_a_decoder_that_died_between_two_videos_costs_none(fresh: DecoderProcess, tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", clip(0)[0]))
    read(path)
    assert fresh.process is not None
    os.kill(fresh.process.pid, signal.SIGKILL)
    fresh.process.wait()
    assert read(path).info.frames == 8


@DECODES
@pytest.mark.parametrize(
    "answer",
    ["'x'", "'{\"shape\": [1, 9, 9, 3]}'", "'{\"shape\": [1, 99999, 99999, 3]}'", "'{\"shape\": [2, 1, 1, 3]}'"],
)
def test_an_answer_that_is_none_is_not_believed(
    answer: str, fresh: DecoderProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever a decoder was made to say, no more is read than was asked for."""
    path = str(write_clip(tmp_path / "a.mp4", clip(0)[0]))
    fresh.program = f"input(); print({answer})"
    with pytest.raises(Unreadable, match="broke off"):
        video_io.decode_frames(path, None, [0.0])


def test_a_path_is_read_from_where_we_are(
    fresh: DecoderProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not from where we were when the first video was decoded."""
    path = write_clip(tmp_path / "a.mp4", clip(0)[0])
    assert video_io.probe_video(str(path)) == video_io.probe_video(str(path))
    monkeypatch.chdir(tmp_path)
    assert video_io.probe_video("a.mp4") == video_io.probe_video(str(path))


def test_without_the_package_it_is_named(
    fresh: DecoderProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"something")
    monkeypatch.setattr(decoder_process, "is_missing", lambda package: True)
    with pytest.raises(mapsto.MapstoError, match=r"pip install .*\[video\]"):
        read(str(tmp_path / "a.mp4"))


@DECODES
def test_a_video_that_is_gone_is_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", clip(0)[0])
    video = read(str(path))
    path.unlink()
    with pytest.raises(mapsto.MapstoError, match="changed while it was read"):
        video.sample(2)


# Patches


def source(**how: Any) -> VideoSource:
    return VideoSource(Resizer(4, 16), [0.5] * 3, [0.25] * 3, **{"frames": 6, **how})


def test_patches_hold_the_frames_and_say_when_and_where() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 8, 3)).astype(np.uint8)
    of = source()
    (piece,) = of.encode([read(pixels)], 0, aligned=True)
    assert len(piece) == 3 * 4 * 2 and piece.alignment is not None
    assert np.array_equal(of.to_pixels(piece), pixels[1::2]), "the frame in the middle of each of six parts"
    at = overlapping_tokens(piece.alignment, [(4, 8), (4, 8), (0, 4)])
    assert [of.token_names(piece)[i] for i in at] == ["1,1,0"]
    assert np.array_equal(piece.alignment.to_raw(at), [(4, 8), (4, 8), (0, 4)])


def test_what_is_hidden_together() -> None:
    """Blocks over three axes; and, as whole words, one place in all frames."""
    of = source(frames=16)
    (piece,) = of.encode([read(np.zeros((16, 16, 16, 3), np.uint8))], 0, aligned=True)
    tubes = choose_hidden(Corruption(0.5, 0.5, "word"), piece, make_generator(0, 0, 0))
    hidden = np.isin(np.arange(len(piece)), tubes).reshape(8, 16)
    assert (hidden == hidden[0]).all() and hidden[0].sum() == 8
    block = piece.positions[choose_hidden(Corruption(0.05, 0.05, "block"), piece, make_generator(0, 0, 0))]
    assert len(block) == 6 and (np.ptp(block, axis=0) < [5, 4, 4]).all()


@pytest.mark.parametrize("how", VideoSource.augmentations)
def test_all_frames_are_moved_alike(how: str) -> None:
    """What stands still, still does; and the patches that show it say where it was."""
    pixels = np.zeros((6, 16, 16, 3), np.uint8)
    pixels[:, 4:8, 8:12] = 255
    of, seen = source(), set()
    (piece,) = of.encode([read(pixels)], 0, aligned=True)
    for seed in range(20):
        moved = of.augment(piece, make_generator(seed, 0, 0), how)
        shown = of.to_pixels(moved)
        assert (shown == shown[0]).all() and moved.alignment is not None
        light = moved.tokens[:, STACK_HEADER_BYTES:].mean(1)
        if light.max() > 150:
            _, (top, bottom), (left, right) = moved.alignment.to_raw([int(light.argmax())])  # type: ignore[misc]
            assert top < 8 and bottom > 4 and left < 12 and right > 8
            seen.add(light.argmax())
    assert seen


@pytest.mark.parametrize("how", VideoSource.mixtures)
def test_all_frames_are_mixed_alike(how: str) -> None:
    of = source()
    stills = [np.random.default_rng(n).integers(0, 256, (1, 16, 8 * n, 3)).astype(np.uint8) for n in (1, 2)]
    pieces = of.encode([read(np.repeat(still, 6, axis=0)) for still in stills], 0)
    for seed in range(5):
        shown = of.to_pixels(of.mix(pieces, make_generator(seed, 0, 0), how)[0])
        assert (shown == shown[0]).all() and shown.shape[1:3] == (16, 8)


def test_places_lie_between_the_patches_about_them() -> None:
    """In time as in rows and columns: in the grid of the patches they are these, in another the mean of eight."""
    (piece,) = source().encode([read(np.zeros((6, 16, 8, 3), np.uint8))], 0)
    at, shares = grid_neighbours((3, 4, 2), (3, 4, 2))
    assert (at[np.arange(24), shares.argmax(1)] == np.arange(24)).all() and (shares.max(1) == 1).all()
    at, shares = grid_neighbours((3, 4, 2), (2, 3, 5))
    where = (piece.positions[at] * shares[..., None]).sum(1) + 0.5
    expected = (np.indices((2, 3, 5)).reshape(3, -1).T + 0.5) / (2, 3, 5) * (3, 4, 2)
    assert np.allclose(where, expected.clip(0.5, np.array((3, 4, 2)) - 0.5), atol=1e-6)


def test_videos_are_not_made_of_others_nor_masked(tmp_path: Path) -> None:
    pairs = [{**row, "clean": row["video"]} for row in rows(0, 8)]
    with pytest.raises(mapsto.MapstoError, match="puts back what `~video` hides, and tells none of its own"):
        mapsto.fit("video:video -> clean:video", pairs, steps=1, **FIT_OPTIONS)
    model = mapsto.fit("~video -> video", [{"video": row["video"]} for row in pairs], steps=1, **FIT_OPTIONS)
    with pytest.raises(mapsto.MapstoError, match="'video' cannot be masked by a picture"):
        model.complete([pairs[0]["video"]], 0.5, mask=np.ones((8, 8)))


def test_sources_of_other_settings_are_told_apart() -> None:
    sources = [source(**how) for how in ({}, {"frames": 8}, {"depth": 3}, {"scale": PixelScale(group="colour")})]
    assert len({each.fingerprint for each in sources}) == len(sources)


def test_features_tell_what_changes_from_what_stands_still() -> None:
    still = np.full((8, 16, 16, 3), 100, np.uint8)
    brighter = still + np.arange(0, 80, 10, dtype=np.uint8)[:, None, None, None]
    one, other, back, again = video_io.video_features([still, brighter, brighter[::-1], still])
    assert np.array_equal(one, again) and np.abs(one - other).max() > 0.01 and np.abs(other - back).max() > 0.01
    assert np.allclose(np.linalg.norm(video_io.video_features([clip(0)[0]])), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 5}, "do not fit"),
        ({"image_size": [8, 16]}, "do not fit"),
        ({"image_size": 16}, "do not fit"),
        ({"num_frames": 1000}, "not supported"),
        ({"num_frames": "many"}, "no way to prepare videos"),
        ({"qv_bias": False}, "qv_bias false"),
        ({"norm_pix_loss": "yes"}, "norm_pix_loss must be true or false"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model_folder.save_mapping(small_mapping("~video -> video")[0], tmp_path, {})
    (tmp_path / "mapsto.json").unlink()
    assert str(model_folder.load_mapping(tmp_path).arrow) == "~video -> video"
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        model_folder.load_mapping(tmp_path)


# As a user has them


def test_which_way_a_square_moves_is_learnt() -> None:
    """No single frame tells; and what is explained is where it moves."""
    model = mapsto.fit("video -> label", rows(0, 160), hold_out=0, epochs=30, rate=2e-3, **FIT_OPTIONS)
    assert model.evaluate(rows(1000, 60)).scores["accuracy"].value > 0.9
    still = [{**row, "video": np.repeat(row["video"][:1], 4, axis=0)} for row in rows(1000, 60)]
    assert model.evaluate(still).scores["accuracy"].value < 0.7
    why = model.explain([rows(1000, 1)[0]["video"]])
    assert len(why[0].parts) == 2 * 4 * 4 and why[0].parts[0].text == "0.00–2.00 s, y 0–2, x 0–2"


@DECODES
def test_from_clips_to_answers(command: Any, tmp_path: Path) -> None:
    folder, base, clf = write_clips(tmp_path / "clips", 24), tmp_path / "base", tmp_path / "clf"
    command("pretrain", "video", folder, "--out", base, *SMALL, "--steps", "6", "--shape", "word")
    command("fit", "video -> label", folder, "--start", base, "--out", clf, "--steps", "2")
    names = [{"video": f"{p.parent.name}/{p.name}", "label": p.parent.name} for p in sorted(folder.rglob("*.mp4"))]
    write_rows(folder / "all.csv", ["video", "label"], names)
    message = command("evaluate", clf, folder / "all.csv", "--out", tmp_path / "page.html", "--json")
    assert json.loads(message)["scores"]["accuracy"]["n"] == 24
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page and "a video at 0.10 s" in page
    model = mapsto.load(base)
    assert model.embed([str(folder / names[0]["video"])]).shape == (1, 64)
    assert 0 < model.evaluate(str(folder)).scores["patch_loss"].value < 10
    command("predict", base, folder, "--hide", "0.5", "--out", tmp_path / "filled")
    first = sorted((tmp_path / "filled").iterdir())[0]
    with Image.open(first) as moving:
        assert moving.n_frames == 8 and moving.size == (16, 16)
    assert "0.0–2.0, 2.0–4.0" in command("trace", "~video -> video", folder)


@DECODES
def test_a_decoder_for_half_the_tokens_goes_on_and_fits(tmp_path: Path) -> None:
    given: Any = {"objective": "mae", "steps": 2, **FIT_OPTIONS}
    shown = [{"video": row["video"]} for row in rows(0, 12)]
    base = mapsto.pretrain("video", shown, tmp_path / "base", **given)
    assert base.mapping.decoder is not None
    again = mapsto.pretrain("video", shown, start=tmp_path / "base", objective="mae", steps=2)
    assert again.mapping.config.decoder == model_folder.load_mapping(tmp_path / "base").config.decoder
    clf = mapsto.fit("video -> label", rows(0, 12), start=tmp_path / "base", steps=2)
    assert clf.mapping.decoder is None
    assert base.complete([row["video"] for row in shown], 0.75)[0].shape == (4, 8, 8, 3)


@DECODES
def test_bad_videos_are_named_and_cost_one_answer(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "clips", 12)
    model = mapsto.fit("video -> label", str(folder), steps=1, **FIT_OPTIONS)
    (folder / "left" / "000-bad.mp4").write_bytes(b"no video")
    with pytest.raises(mapsto.MapstoError, match="000-bad.mp4.*known format"):
        mapsto.fit("video -> label", str(folder), steps=1, **FIT_OPTIONS)
    answers = model.predict(str(folder))
    assert ["error" in answer for answer in answers] == [True] + [False] * 12
    assert "known format" in answers[0]["error"]


def test_videos_are_compared(tmp_path: Path) -> None:
    mapsto.pretrain(
        "video", [{"video": row["video"]} for row in rows(0, 20)], tmp_path / "base", steps=2, **FIT_OPTIONS
    )
    found = mapsto.compare(
        "video -> label", rows(0, 40), tmp_path / "cmp", starts=[str(tmp_path / "base")], labels=[8], seeds=2, epochs=1,
        methods=["probe"],
    )  # fmt: skip
    assert "colours and changes, linear" in found.curves
    assert set(found.curves["base, probe"][0].changes) == {"noise", "blurred", "darker"}


def test_arrays_of_three_and_of_four_axes_are_told_apart() -> None:
    still, moving = [np.zeros((4, 4, 3), np.uint8)], [np.zeros((2, 4, 4, 3), np.uint8)]
    assert [kinds.source(kind).fits(values) for kind in ("image", "video") for values in (still, moving)] == [
        1,
        0,
        0,
        1,
    ]


def test_a_video_says_what_it_is() -> None:
    assert str(Video.from_frames(np.zeros((5, 4, 8, 3), np.uint8))) == "a video of 5 frames of 8 × 4 pixels"
    moving = video_io.animate(np.stack([np.full((4, 4, 3), 50 * at, np.uint8) for at in range(3)]))
    assert image_io.decode_image(moving).shape == (4, 4, 3)
    with Image.open(io.BytesIO(moving)) as image:
        assert image.n_frames == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 300}, "videos have none"),
        ({"size": 64}, "cannot be resized: size= is for pictures"),
        ({"augment": "mosaic"}, "there is: mixup, cutmix"),
    ],
)
def test_options_that_are_not_for_videos_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(mapsto.MapstoError, match=message):
        mapsto.fit("video -> label", rows(0, 8), steps=1, **FIT_OPTIONS, **options)
