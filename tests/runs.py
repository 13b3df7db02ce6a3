"""Small runs of the real command line, killed and continued."""

from __future__ import annotations

import hashlib
import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mapsto import kinds
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.capabilities import Located

WORDS = [
    "river",
    "mill",
    "old",
    "past",
    "wise",
    "foolish",
    "times",
    "age",
    "light",
    "season",
    "hope",
    "winter",
    "spring",
    "今天",
    "天气",
    "真好",
    "服务",
    "房间",
    "干净",
]
TINY = ["--layers", "2", "--width", "64", "--vocabulary", "300", "--device", "cpu", "--quiet"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of 4 to 20 words."""
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(4, 20))) for i in range(count)]


def write_corpus(path: Path, count: int = 300) -> Path:
    """A text file of one sentence a line."""
    path.write_text("\n".join(sentences(count)) + "\n", encoding="utf-8")
    return path


def write_labelled(path: Path, count: int = 120, seed: int = 0) -> Path:
    """A csv with a label that the words decide."""
    rows = [f"{text},{'cold' if 'winter' in text else 'warm'}" for text in sentences(count, seed)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def start(*arguments: str, threads: int = 1, group: bool = False) -> subprocess.Popen[str]:
    """The command line in a process of its own; as a terminal has it, in a group of its own with those that it starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mapsto", *arguments]
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=group, **piped)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def steps_done(folder: Path) -> int:
    """How many steps a run has written down."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_when(process: subprocess.Popen[str], folder: Path, rng: random.Random, inside_save: bool, number: int) -> bool:
    """Send `number` inside a save, or after some steps; whether the process was still at work then."""
    target = steps_done(folder) + rng.randint(1, 12)
    while process.poll() is None:
        saving = any((folder / "checkpoints").glob(".unfinished-*")) if (folder / "checkpoints").exists() else False
        if saving if inside_save else steps_done(folder) >= target:
            process.send_signal(number)
            process.wait(60)
            return True
        time.sleep(0.0002 if inside_save else 0.002)
    return False


def result(folder: Path) -> dict[str, Any]:
    """What must be equal to the bit: final weights, last checkpoint (weights, optimizer, averages), state, losses."""
    last = sorted((folder / "checkpoints").iterdir())[-1]
    state = json.loads((last / "state.json").read_text())
    state.pop("seconds")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    digest = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "tokenizer.json")
    }
    checkpoint = hashlib.sha256((last / "state.safetensors").read_bytes()).hexdigest()
    return {"files": digest, "checkpoint": checkpoint, "name": last.name, "state": state, "metrics": lines}


KILL = signal.SIGKILL


def start_many(processes: int, *arguments: str, restarts: int = 0, script: Path | None = None) -> subprocess.Popen[str]:
    """The command line, or a script, in several processes that torchrun starts."""
    threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    what = ["-m", "--", "mapsto"] if script is None else [str(script)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, "--max-restarts", str(restarts), *what, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **threads}
    )


def run_many(processes: int, *arguments: str, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run several processes to their end."""
    process = start_many(processes, *arguments, script=script)
    return ended(process)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What a process said; it is killed, and the test fails, when it hangs."""
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # torchrun ends those that it started
        process.communicate(timeout=60)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def write_photos(folder: Path, count: int = 40) -> None:
    """Bright and dark pictures of three shapes, in a folder for each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        label = ("bright", "暗")[i % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 80, (16, 12 + 4 * (i % 3), 3)) + (150, 10)[i % 2]
        Image.fromarray(noise.astype(np.uint8)).save(folder / label / f"{i:03}.png")


def clip(number: int, frames: int = 8, side: int = 16) -> tuple[Any, str]:
    """A small video (k, h, w, 3) of a square that moves over a dark ground, and to which side; one frame does not tell."""
    rng = np.random.default_rng(number)
    label = ("left", "右")[number % 2]
    top = int(rng.integers(0, side - 3))
    pixels = rng.integers(0, 40, (frames, side, side, 3)).astype(np.uint8)
    start = int(rng.integers(0, side))
    for at in range(frames):
        left = start + (-1, 1)[number % 2] * at
        columns = np.arange(left, left + 3) % side
        pixels[at, top : top + 3, columns] = 255
    return pixels, label


def write_clip(path: Path, pixels: Any, rate: int = 10, codec: str = "mpeg4") -> Path:
    """A video file of these frames."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"qscale": "1"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_clips(folder: Path, count: int = 40) -> Path:
    """Videos of squares that move to the left and to the right, of three lengths, in a folder for each."""
    for i in range(count):
        pixels, label = clip(i, frames=6 + 2 * (i % 3))
        write_clip(folder / label / f"{i:03}.mp4", pixels)
    return folder


def boxed(number: int) -> tuple[Any, list[dict[str, Any]]]:
    """A dark picture with a red and sometimes a green rectangle, and where they are."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (32, 48, 3)).astype(np.uint8)
    boxes = []
    for channel, name in enumerate(("red", "绿")[: 1 + number % 2]):
        w, h = rng.integers(8, 14, 2).tolist()
        x, y = int(rng.integers(0, 48 - w)), int(rng.integers(0, 32 - h))
        pixels[y : y + h, x : x + w, channel] = 240
        boxes.append({"label": name, "box": [x, y, x + w, y + h]})
    return pixels, boxes


def write_boxed(folder: Path, count: int = 4) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Such pictures in a folder, and what is true of them."""
    from PIL import Image

    folder.mkdir(parents=True)
    found = []
    for number in range(count):
        pixels, boxes = boxed(number)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found.append((path, boxes))
    return found


def write_voc(folder: Path, count: int = 4) -> Path:
    """Pictures with boxes as Pascal VOC keeps them."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    (folder / "Annotations").mkdir(parents=True)
    for path, boxes in write_boxed(folder / "JPEGImages", count):
        objects = "".join(
            f"<object><name>{box['label']}</name><bndbox>"
            + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box["box"], strict=True))
            + "</bndbox></object>"
            for box in boxes
        )
        text = f"<annotation><filename>{path.name}</filename>{objects}</annotation>"
        (folder / "Annotations" / f"{path.stem}.xml").write_text(text, encoding="utf-8")
    return folder


def read_beside(target: Any) -> tuple[Piece, ...]:
    """The pieces of an example in which an answer of this target can lie; the target meets their source."""
    if not isinstance(target, Located):
        return ()
    kind = kinds.source(target.lies_in)
    values = [kind.read(value) for value in kind.samples()]
    source = kind.new(values)
    target.bind({kind.kind: source}, None)
    return (source.encode(values, 0, aligned=True)[0],)


def laid(target: Any, answers: list[Any], pieces: tuple[Piece, ...]) -> torch.Tensor:
    """The values of all answers, as a batch has them."""
    values = [target.encode(answer, pieces).values for answer in answers]
    return torch.from_numpy(np.concatenate(values) if isinstance(target, Located) else np.stack(values))


def write_pairs(folder: Path, count: int = 12) -> Path:
    """A table of pictures without and with noise, beside it the pictures, and one of those with noise alone."""
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        clean = np.full((16, 16, 3), 12 * i % 180, np.uint8) + np.arange(0, 64, 4, dtype=np.uint8)[:, None]
        noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
        for name, pixels in (("clean", clean), ("noisy", noisy)):
            Image.fromarray(pixels).save(folder / f"{i}-{name}.png")
        lines.append(f"{i}-noisy.png,{i}-clean.png")
    (folder / "pairs.csv").write_text("\n".join(["noisy,clean", *lines]) + "\n", encoding="utf-8")
    (folder / "new.csv").write_text(
        "\n".join(["noisy", *(line.split(",")[0] for line in lines)]) + "\n", encoding="utf-8"
    )
    return folder / "pairs.csv"


def in_a_browser(folder: Path, page: str, width: int) -> tuple[int, int, list[str], str]:
    """How wide a page's window is, what of it is scrolled through, which elements stand out of it, and the text that is seen.

    The page stands in a frame, since a window of Chromium is 500 pixels wide at least. Without Chromium the test is skipped.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not here")
    probe = (
        "<script>const page = document.documentElement, wide = [...document.querySelectorAll('main *')].filter(e =>"
        " !e.closest('.wide') && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName);"
        "parent.document.body.dataset.found = JSON.stringify([innerWidth, page.scrollWidth, wide, page.innerText]);</script>"
    )
    framed = html.escape(page.replace("</body>", f"{probe}</body>"))
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{framed}"></iframe>'
    (folder / "framed.html").write_text(f'<!doctype html><meta charset="utf-8"><body>{frame}', encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{folder / 'framed.html'}"], capture_output=True, text=True, timeout=120)
    found = re.search(r'<body data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    inner, scrolled, wide, seen = json.loads(html.unescape(found[1]))
    return inner, scrolled, wide, seen


# Runs the command line and prints by how many kilobytes the peak of its memory grew.
PEAK = """
import resource, sys
from mapsto.cli.app import app
import mapsto.cli, mapsto.cli.answers, mapsto.api
sys.argv[0] = "mapsto"
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
app(standalone_mode=False)
print("GREW", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def memory_growth(*arguments: str) -> float:
    """Return by how many megabytes a command grew at its peak, beyond the imported libraries."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("GREW")[1]) / 1024


def overlapping_tokens(alignment: Alignment, region: npt.ArrayLike) -> Ints:
    """Return the indices of the tokens that overlap the raw `region`, (start, end) on each axis."""
    start, end = np.asarray(region).T
    overlaps = (alignment.regions[:, :, 0] < end) & (alignment.regions[:, :, 1] > start)
    return np.flatnonzero(overlaps.all(axis=1))
