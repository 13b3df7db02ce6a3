"""Folders of values that are a file each, and tables that name them: what is read, and what is left aside and said."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="the extra [image] is not here")

from images import SMALL_ARGUMENTS, encode_image, two_coloured_image, write_photo_folder
from PIL import Image
from runs import run

import mapsto
from mapsto import cli, kinds
from mapsto.data import encoding
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import fingerprint_source, read_table, stream_tables, write_rows
from mapsto.errors import BadCell, DataError, UsageError
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.options import Options
from mapsto.task.arrow import parse
from mapsto.task.capabilities import FileBacked

FILES = [kind for kind in kinds.names("source") if issubclass(kinds.source(kind), FileBacked)]


def test_a_folder_of_pictures_is_a_table(tmp_path: Path) -> None:
    table = read_table(write_photo_folder(tmp_path / "photos", 6))
    assert table.columns == ("image", "label") and set(table.column("label")) == {"bright", "暗"}
    assert table.name == "photos" and table.select([0]).name == "000.png"
    flat = read_table(tmp_path / "photos" / "暗")
    assert flat.columns == ("image",) and len(flat) == 3
    assert read_table(Path(flat.column("image")[0])).column("image") == flat.column("image")[:1]
    before = fingerprint_source(tmp_path / "photos")
    Image.new("RGB", (3, 3)).save(tmp_path / "photos" / "暗" / "001.png")
    assert fingerprint_source(tmp_path / "photos") != before


def test_a_picture_among_texts_leaves_them_texts(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"a text {number}\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.png")
    assert read_table(tmp_path).data == {"text": ["a text 0", "a text 1", "a text 2"]}


def test_names_stand_beside_their_table(tmp_path: Path) -> None:
    write_photo_folder(tmp_path / "photos")
    rows = [
        {"image": f"{p.parent.name}/{p.name}", "label": p.parent.name} for p in (tmp_path / "photos").rglob("*.png")
    ]
    write_rows(tmp_path / "photos" / "list.csv", ["image", "label"], rows)
    done = run("check", "image -> label", str(tmp_path / "photos" / "list.csv"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_of_files_comes_in_parts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that several processes can answer them; what was left aside is said with the first."""
    for number in range(7):
        (tmp_path / "all" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / f"{number % 2}" / f"{number}{kinds.source(kind).suffixes[0]}").write_bytes(b"x")
    (tmp_path / "all" / "empty").mkdir()
    whole = read_table(tmp_path / "all")
    monkeypatch.setattr("mapsto.data.table.FILES_AT_ONCE", 3)
    parts = list(stream_tables(tmp_path / "all"))
    assert [len(part) for part in parts] == [3, 3, 1] and [len(part.remarks) for part in parts] == [1, 0, 0]
    assert read_table(tmp_path / "all") == whole and len(whole) == 7


@pytest.mark.parametrize("kind", FILES)
def test_names_of_files_are_no_text(kind: str, tmp_path: Path) -> None:
    """A model of text would learn the label from the name of the folder, and seem to be perfect."""
    suffix = kinds.source(kind).suffixes[0]
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{number}{suffix}").write_bytes(b"x")
    table = read_table(tmp_path)
    assert bind_to(parse(f"{kind} -> label"), table).sources[0].column == kind
    with pytest.raises(UsageError, match=f"no column left can be 'text'; the columns are: '{kind}', 'label'"):
        bind_to(parse("text -> label"), table)
    assert bind_to(parse(f"{kind}:text -> label"), table).sources[0].column == kind


@pytest.mark.parametrize("kind", FILES)
def test_a_table_names_files_of_its_own_folder_or_of_the_one_worked_in(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest, and what is no file, costs one cell each; what Python gives is not of a stranger."""
    pytest.importorskip({"video": "av"}.get(kind, "PIL"))
    source, (suffix, *_) = kinds.source(kind), kinds.source(kind).suffixes
    own, here, away = (tmp_path / name for name in ("own", "here", "away"))
    for folder in (own, here, away):
        folder.mkdir()
        (folder / f"a{suffix}").write_bytes(b"x")
    (own / f"out{suffix}").symlink_to(away / f"a{suffix}")
    (own / f"in{suffix}").symlink_to(own / f"a{suffix}")
    os.mkfifo(own / f"pipe{suffix}")
    monkeypatch.chdir(here)
    for name, meant in {
        "a": own / "a",
        f"{own}/a": own / "a",
        "in": own / "in",
        f"{here}/a": here / "a",
        "../own/a": own / "../own/a",
        "../away/a": None,
        f"{away}/a": None,
        "out": None,
    }.items():
        for cell in (f" {name}{suffix}", {"bytes": None, "path": f"{name}{suffix}"}):
            if meant is None:
                with pytest.raises(BadCell, match="below its own folder"):
                    source.locate(cell, own)
            else:
                found = source.locate(cell, own)
                assert (found["path"] if isinstance(found, dict) else found) == f"{meant}{suffix}"
            assert source.locate(cell, None) == cell
    for name, said in (
        (f"not{suffix}", f"no such file below {own}, nor"),
        (f"pipe{suffix}", "this is no file"),
        (f"a\0{suffix}", "NUL"),
        (f"x://a{suffix}", "no address"),
    ):
        with pytest.raises(BadCell, match=said):
            source.read(source.locate(name, own))
    (own / "list.csv").write_text(f"{kind}\n../away/a{suffix}\n")
    table = read_table(own / "list.csv")
    (fault,) = load_rows(parse(f"{kind}:{kind} -> label"), table, answers=False, keep_unreadable=True).faults
    assert (fault.row, fault.column) == (2, kind) and "below its own folder" in fault.reason
    table = read_table([{kind: str(away / f"a{suffix}")}])
    (fault,) = load_rows(parse(f"{kind}:{kind} -> label"), table, answers=False, keep_unreadable=True).faults
    assert "below its own folder" not in fault.reason


@pytest.mark.parametrize("kind", FILES)
def test_what_is_left_aside_in_a_folder_is_said_once(kind: str, tmp_path: Path) -> None:
    """Links to folders, which are not entered, empty folders, other endings, and names of inner folders, which are no labels."""
    suffix, root = kinds.source(kind).suffixes[0], tmp_path / "all"
    for name in ("cat/a", "cat/b", "狗 dog/a", "狗 dog/.hidden", "cat/old/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}{suffix.upper()}").write_bytes(b"x")
    assert [remark.column for remark in read_table(root).remarks] == ["label"], "and of what is whole nothing more"
    (root / "linked").symlink_to(root / "cat")
    (root / "bird").mkdir()
    (root / "cat" / "lost.heic").write_bytes(b"x")
    (root / "cat" / f"gone{suffix}").symlink_to(root / "nowhere")
    table = read_table(root)
    assert table.column("label") == ["cat"] * 4 + ["狗 dog"] and Path(table.origin(2)[0]).name == f"gone{suffix}"
    assert [(remark.file, remark.column, remark.reason) for remark in table.remarks] == [
        (str(root), None, "links to folders are not followed: linked"),
        (str(root), None, "nothing stands in the folders bird"),
        (str(root), None, "left out by their endings: .heic (1)"),
        (str(root), "label", "labels are the names of the outer folders (cat), not of those within (old)"),
    ]
    assert [remark.column for remark in table.remarks_on([kind])] == [None] * 3
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(root / "cat")
    with pytest.raises(DataError, match="holds no file(.|\n)*not followed: cat"):
        read_table(tmp_path / "links")


def test_every_command_says_what_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_photo_folder(tmp_path / "photos") / "linked").symlink_to(tmp_path / "photos" / "bright")
    monkeypatch.chdir(tmp_path)
    folder = "photos"  # which for explain is no word, though it has no slash
    base, clf = str(tmp_path / "base"), str(tmp_path / "clf")
    for command in (
        ["check", "image -> label", folder],
        ["pretrain", "image", folder, "--out", base, *SMALL_ARGUMENTS],
        ["fit", "image -> label", folder, "--out", clf, *SMALL_ARGUMENTS],
        ["predict", clf, folder],
        ["predict", base, folder, "--hide", "0.5", "--out", str(tmp_path / "filled")],
        ["evaluate", clf, folder],
        ["explain", clf, folder],
        ["suggest", clf, folder, "--n", "1"],
    ):
        monkeypatch.setattr("sys.argv", ["mapsto", *command])
        with contextlib.suppress(SystemExit):
            cli.main()
        said = "".join(capsys.readouterr())
        assert said.count("not followed: linked") == 1, (command, said)


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(two_coloured_image()))
    picture = kinds.source("image").read(str(tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    assert picture.pixels.shape == (4, 8, 3), "as it was read a moment ago"
    with pytest.raises(mapsto.MapstoError, match="changed while it was read"):
        _ = picture.pixels


def test_a_folder_may_be_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures for which there is no room are decoded whenever they are asked for: the same weights and answers."""
    folder = write_photo_folder(tmp_path / "photos", 12)
    given: Any = {
        "layers": 1,
        "width": 32,
        "steps": 4,
        "batch": 5,
        "device": "cpu",
        "precision": "fp32",
        "augment": "crop",
    }
    found, held = [], []
    for room in (encoding.CACHE_BYTES, 2000, 0):
        monkeypatch.setattr(encoding, "CACHE_BYTES", room)
        work = prepare(FitRequest(parse("image -> label"), str(folder), options=Options(hold_out=0.0)))
        pieces = work.examples.pieces
        assert isinstance(pieces, encoding.LazyPieces)
        sizes = [sum(len(piece) for piece in pieces[row]) for row in range(len(pieces))]
        held.append(len(pieces.cache))
        model = mapsto.fit("image -> label", str(folder), **given)
        weights = [p.detach().numpy().tobytes() for p in model.mapping.parameters()]
        found.append((sizes, weights, model.predict([{"image": str(path)} for path in sorted(folder.rglob("*.png"))])))
    assert held[0] == 12 and 0 < held[1] < 12 and held[2] == 0
    assert found[0] == found[1] == found[2]
