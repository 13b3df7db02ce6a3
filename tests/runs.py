"""Run the command line in processes of its own, kill and continue runs, and write small data sets for them."""

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

import mapsto
from mapsto import kinds
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.target_capabilities import Located

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
    """Return `count` different sentences of 4 to 20 random words."""
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(4, 20))) for i in range(count)]


def write_corpus(path: Path, count: int = 300) -> Path:
    """Write a text file of one sentence a line; return its path."""
    path.write_text("\n".join(sentences(count)) + "\n", encoding="utf-8")
    return path


def write_labelled(path: Path, count: int = 120, seed: int = 0) -> Path:
    """Write a csv of texts and labels, which depend on whether "winter" is in the text; return its path."""
    rows = [f"{text},{'cold' if 'winter' in text else 'warm'}" for text in sentences(count, seed)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def write_questions(path: Path, count: int = 40) -> Path:
    """Write questions on passages in SQuAD's format, every fourth without an answer; return the path of the file."""
    paragraphs = []
    for number, sentence in enumerate(sentences(count)):
        words = sentence.split()
        answer = [{"text": words[2], "answer_start": sentence.index(words[2])}] if number % 4 else []
        question = {"id": str(number), "question": f"Which word follows {words[1]}?", "answers": answer}
        paragraphs.append({"context": sentence, "qas": [question]})
    content = {"version": "1", "data": [{"title": "words", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_tagged(path: Path, count: int = 60) -> Path:
    """Write sentences with a word and its tag in each line; return the path of the file."""
    names, places = ["Ada Lovelace", "Karl Marx", "李白"], ["London", "New York", "北京"]
    lines: list[str] = []
    for number in range(count):
        for part, label in (
            (str(number), None),
            (names[number % 3], "person"),
            ("was in", None),
            (places[number % 2], "place"),
        ):
            words = part.split()
            tags = ["O"] * len(words) if label is None else [f"B-{label}", *[f"I-{label}"] * (len(words) - 1)]
            lines += [f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def restore_hang_up() -> None:
    """Let SIGHUP do what it does by default, in a child process."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(*arguments: str, threads: int = 1, group: bool = False) -> subprocess.Popen[str]:
    """Start the command line in a new process, and return the process.

    group: whether it gets a process group of its own, as from a terminal, to which its child processes belong too.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mapsto", *arguments]
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # The tests themselves may have been started with `nohup`, which a run respects.
    return subprocess.Popen(command, env=environment, start_new_session=group, preexec_fn=restore_hang_up, **piped)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; return its exit status and output."""
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def steps_done(folder: Path) -> int:
    """Return the number of steps in a run's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_when(process: subprocess.Popen[str], folder: Path, rng: random.Random, inside_save: bool, number: int) -> bool:
    """Send the signal `number` to a run while it saves a checkpoint (`inside_save`), or after some random steps.

    Returns whether the signal was sent; False if the run ended before.
    """
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
    """Return everything of a finished run that must be equal to the bit in another run, without times.

    This is: hashes of the final files and of the last checkpoint, its name and state, and the metrics of all steps.
    """
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
    """Start the command line, or a script, in several processes by torchrun, and return torchrun's process.

    restarts: how often torchrun restarts all processes after one has died.
    """
    threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    what = ["-m", "--", "mapsto"] if script is None else [str(script)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, "--max-restarts", str(restarts), *what, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **threads}
    )


def run_many(processes: int, *arguments: str, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line, or a script, in several processes to their end; return exit status and output."""
    process = start_many(processes, *arguments, script=script)
    return ended(process)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process to end, and return its exit status and output. If it hangs, it is killed and the test fails."""
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # torchrun ends the processes that it started
        process.communicate(timeout=60)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def write_photos(folder: Path, count: int = 40) -> None:
    """Write bright and dark pictures of three shapes, in one folder for each of the two classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        label = ("bright", "暗")[i % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 80, (16, 12 + 4 * (i % 3), 3)) + (150, 10)[i % 2]
        Image.fromarray(noise.astype(np.uint8)).save(folder / label / f"{i:03}.png")


def clip(number: int, frames: int = 8, side: int = 16) -> tuple[Any, str]:
    """Return a small video (k, h, w, 3) of a square that moves over a dark background, and its label: the direction.

    A single frame does not show the direction.
    """
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
    """Write a video file of the frames `pixels` (k, h, w, 3); return its path. rate: frames per second."""
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
    """Write videos of squares that move left or right, of three lengths, in one folder for each direction."""
    for i in range(count):
        pixels, label = clip(i, frames=6 + 2 * (i % 3))
        write_clip(folder / label / f"{i:03}.mp4", pixels)
    return folder


def boxed(number: int) -> tuple[Any, list[dict[str, Any]]]:
    """Return a dark picture with a red and sometimes a green rectangle, and the boxes of the rectangles."""
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
    """Write the pictures of `boxed` to a folder; return the path and the boxes of each."""
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
    """Write pictures with boxes in the format of Pascal VOC; return the folder."""
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
    """Return the pieces of an example that a target's answers refer to, such as the picture of boxes; else no pieces.

    The target is bound to the source of the pieces.
    """
    if not isinstance(target, Located):
        return ()
    kind = kinds.source(target.lies_in)
    values = [kind.read(value) for value in kind.samples()]
    source = kind.new(values)
    target.bind({kind.kind: source}, None)
    return (source.encode(values, 0, aligned=True)[0],)


def laid(target: Any, answers: list[Any], pieces: tuple[Piece, ...]) -> torch.Tensor:
    """Return the encoded values of all answers in one tensor, as a batch has them."""
    if isinstance(target, Located):
        kind = kinds.source(target.lies_in)
        answers = [target.place(answer, kind.read(kind.samples()[0])) for answer in answers]
    values = [target.encode(answer, pieces).values for answer in answers]
    return torch.from_numpy(np.concatenate(values) if isinstance(target, Located) else np.stack(values))


def write_pairs(folder: Path, count: int = 12) -> Path:
    """Write pictures with and without noise, the table pairs.csv of both, and the table new.csv of only the noisy ones.

    Returns the path of pairs.csv.
    """
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
    """Show a page in Chromium, `width` pixels wide; without Chromium skip the test.

    Returns the width of its window, the width of its content, the elements that reach beyond the window, and the text, also that
    of folded sections.
    """
    probe = (
        "document.querySelectorAll('details').forEach(e => { e.open = true; });"
        "const page = document.documentElement, wide = [...document.querySelectorAll('main *')].filter(e =>"
        " !e.closest('.wide') && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName);"
        "return [innerWidth, page.scrollWidth, wide, page.innerText];"
    )
    inner, scrolled, wide, seen = ask_browser(folder, page, width, probe)
    return inner, scrolled, wide, seen


def ask_browser(folder: Path, page: str, width: int, script: str) -> Any:
    """Show a page in Chromium and return what the JavaScript `script` returns there; without Chromium skip the test.

    The page is in an iframe of `width` pixels, since a window of Chromium is at least 500 pixels wide.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not here")
    probe = (
        f"<script>(async () => {{{script}}})().catch(error => [String(error.stack)]).then(found => "
        "parent.postMessage(JSON.stringify(found), '*'));</script>"
    )
    (folder / "shown.html").write_text(page.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    listener = "<script>addEventListener('message', event => { document.body.dataset.found = event.data; });</script>"
    frame = f'<iframe width="{width}" height="900" style="border:0" src="shown.html"></iframe>'
    framed = f'<!doctype html><meta charset="utf-8"><body>{listener}{frame}'
    (folder / "framed.html").write_text(framed, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=5000", "--dump-dom"]  # time for scripts that wait
    done = subprocess.run([*command, f"file://{folder / 'framed.html'}"], capture_output=True, text=True, timeout=120)
    found = re.search(r'<body data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1]))


# Runs the command line and prints by how many kilobytes the peak of its memory grew.
PEAK = """
import resource, sys
from mapsto.cli.app import app
import mapsto.cli, mapsto.cli.prediction.answers, mapsto.api
sys.argv[0] = "mapsto"
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
app(standalone_mode=False)
print("GREW", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def memory_growth(*arguments: str) -> float:
    """Return the peak memory of a command in MB, without the memory of the imported libraries."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("GREW")[1]) / 1024


def overlapping_tokens(alignment: Alignment, region: npt.ArrayLike) -> Ints:
    """Return the indices of the tokens that overlap a region of the raw value.

    region: (start, end) on each axis, in characters, pixels or seconds.
    """
    start, end = np.asarray(region).T
    overlaps = (alignment.regions[:, :, 0] < end) & (alignment.regions[:, :, 1] > start)
    return np.flatnonzero(overlaps.all(axis=1))


def require_better_than_constant(model: mapsto.Model, rows: list[dict[str, Any]]) -> None:
    """Fail unless each score of a model is better than that of the best answer that reads nothing."""
    evaluation = model.evaluate(rows)
    for name, constant in evaluation.baseline.items():
        is_error = name.endswith(("mae", "rmse"))
        value = evaluation.scores[name].value
        assert value < constant.value if is_error else value > constant.value, name
