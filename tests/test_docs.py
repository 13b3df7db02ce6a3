"""Run every code block of the README and of docs/, page by page, as a reader would run it, but with few steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import matching
import pytest
import recordings
import transcribers
from runs import (
    ended,
    sentences,
    start,
    write_clips,
    write_corpus,
    write_labelled,
    write_pairs,
    write_photos,
    write_questions,
    write_tagged,
    write_voc,
)

from mapsto import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Others, such as tables of promises, have nothing to run.
PAGES_WITH_CODE = [
    page for page in PAGES if re.search("^```(sh|python)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]
# The same commands with less work; nothing else is changed.
SHORTER = (
    (r"(?<=metadata.csv )--minutes \d+", "--steps 3 --layers 2 --width 64"),
    (r"(?<=runs/sounds )--minutes \d+", "--steps 3 --layers 2 --width 64"),
    (r"(?<=pictures )--minutes \d+|(?<=clips )--minutes \d+", "--steps 3 --layers 2 --width 64"),
    (r"--minutes \d+", "--steps 3 --layers 2 --width 64 --vocabulary 300"),
    (r"minutes=\d+", "steps=3, layers=2, width=64, vocabulary=300"),
)
MADE = ("make demo", "make test")
# The services that a page has started.
SERVICES: list[subprocess.Popen[str]] = []


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: page.stem)
def test_code_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus.txt")
    write_labelled(tmp_path / "train.csv")
    write_labelled(tmp_path / "test.csv", 30, seed=5)
    write_labelled(tmp_path / "new.csv", 10, seed=6)
    (tmp_path / "pool.csv").write_text("\n".join(["text", *sentences(40, 8)]) + "\n", encoding="utf-8")
    if page.stem == "images":
        write_photos(tmp_path / "photos")
    if page.stem == "video":
        pytest.importorskip("av", reason="the extra [video] is not here")
        write_clips(tmp_path / "clips", 12)
    if page.stem == "sound":
        pytest.importorskip("soundfile", reason="the extra [sound] is not here")
        recordings.write_words(tmp_path / "recordings")
    if page.stem == "voices":
        pytest.importorskip("soundfile", reason="the extra [sound] is not here")
        recordings.write_words(tmp_path / "recordings")
        recordings.write_noisy(tmp_path)
    if page.stem == "speaking":
        pytest.importorskip("soundfile", reason="the extra [sound] is not here")
        recordings.write_lines(tmp_path)
    if page.stem == "speech":
        pytest.importorskip("soundfile", reason="the extra [sound] is not here")
        pytest.importorskip("transformers", reason="transformers makes the starting model")
        transcribers.write_speech(tmp_path)
    if page.stem == "picture-to-picture":
        write_pairs(tmp_path)
    if page.stem == "questions":
        write_questions(tmp_path / "squad.json")
    if page.stem in ("generating", "exporting"):
        (tmp_path / "pairs.csv").write_text(
            "en,de\n" + "".join(f"A man has {i} small dogs.,Ein Mann hat {i} kleine Hunde.\n" for i in range(40)),
            encoding="utf-8",
        )
    if page.stem == "tags":
        write_tagged(tmp_path / "entities.conll")
    if page.stem == "matching":
        matching.write_pairs(tmp_path / "pairs.csv")
        matching.write_pairs(tmp_path / "passages.csv", 8)
    if page.stem == "exporting" and find_spec("openvino") is None:
        pytest.skip("the extra [openvino] is not here")
    if page.stem == "serving":
        pytest.importorskip("fastapi", reason="the extra [serve] is not here")
    if page.stem == "boxes":
        write_voc(tmp_path / "cells", 8)
    if page.stem not in ("README", "quick-start", "pretraining", "python", "coming-from", "serving"):
        call(monkeypatch, "mapsto pretrain text corpus.txt --out runs/base --minutes 1")
    names: dict[str, object] = {}
    request.addfinalizer(stop_services)
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert language in ("sh", "python", "text"), f"{page.name} has a block of {language!r}"
        if language == "sh":
            for line in filter(None, code.splitlines()):
                call(monkeypatch, line)
        elif language == "python":
            exec(compile(shorter(code), str(page), "exec"), names)


def stop_services() -> None:
    while SERVICES:
        SERVICES[-1].terminate()
        assert ended(SERVICES.pop()).returncode == 0


def shorter(code: str) -> str:
    for pattern, instead in SHORTER:
        code = re.sub(pattern, instead, code)
    return code


def call(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    words = shlex.split(shorter(line), comments=True)
    if " ".join(words) in MADE:
        return
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("=", 1))
        return
    if words[0] == "torchrun":
        ended(
            subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *words[1:], "--quiet"])
        ).check_returncode()
        return
    assert words[0] == "mapsto", f"{line!r} is no command of ours"
    if words[1] == "serve":
        SERVICES.append(start(*words[1:]))
        assert SERVICES[-1].stderr is not None
        assert any("ready on" in said for said in SERVICES[-1].stderr)
        return
    monkeypatch.setattr(sys, "argv", [*words, *(["--quiet"] if words[1] in ("pretrain", "fit") else [])])
    try:
        cli.main()
    except SystemExit as stopped:
        assert not stopped.code, line


def test_the_page_on_scale_has_what_its_script_prints() -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "scale.py")], capture_output=True, text=True, check=True
    )
    rows = [line for line in said.stdout.splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert len(rows) > 30 and not [line for line in rows if line not in page.splitlines()]


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} → {target}"
