"""Corpora larger than memory: the same bits as in memory, whole shards or none, and memory that does not grow."""

from __future__ import annotations

import csv
import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import KILL, TINY, memory_growth, result, run, sentences, start, write_corpus
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto import kinds
from mapsto.data import corpus, file_part, shards
from mapsto.data.encoding import encode_rows
from mapsto.data.examples import make_examples
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table, stream_tables, write_rows
from mapsto.distributed import Ranks
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.files import read_sealed
from mapsto.fitting import corpus_data
from mapsto.fitting.prepare import PreparedRun, prepare
from mapsto.fitting.request import FitRequest
from mapsto.options import Options
from mapsto.progress import Progress
from mapsto.task.arrow import parse
from mapsto.task.source_capabilities import Tokenized

ARROW = parse("~text -> text")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink shards so that a few hundred rows make several."""
    monkeypatch.setattr(file_part, "PART_ROWS", 16)
    monkeypatch.setattr(corpus, "SHARD_PARTS", 3)


def work(source: Any, run: Path | None = None, progress: Progress | None = None, **given: Any) -> PreparedRun:
    options = Options(**{"vocabulary": 300, "layers": 2, "width": 64, "device": "cpu", "precision": "fp32", **given})
    return prepare(FitRequest(ARROW, source, run, options=options, progress=progress or Progress()))


def seen(made: PreparedRun) -> list[list[list[int]]]:
    """Return the tokens of all training examples of one step, and of all held-out examples."""
    return [
        [] if part is None else [part.example(row, 3, 0.5).pieces[0].tokens.tolist() for row in range(len(part))]
        for part in (made.examples, made.held_out)
    ]


def shards_of(run: Path) -> list[Path]:
    return sorted((run / "corpus").glob("shard-*"))


@pytest.mark.parametrize("kind", [kind for kind in kinds.names("source") if issubclass(kinds.source(kind), Tokenized)])
@pytest.mark.parametrize("units", [False, True])
def test_pieces_are_made_again_from_their_tokens(kind: str, units: bool) -> None:
    source = kinds.source(kind).new(kinds.source(kind).samples() * 4, 300)
    values = kinds.source(kind).samples()
    flat = source.flatten(values, units)
    assert flat.lengths.sum() == len(flat.tokens) and (flat.begins is not None) == units
    ends = np.cumsum(flat.lengths)
    for piece, size, end in zip(source.encode(values, 0, units), flat.lengths, ends, strict=True):
        run = slice(end - size, end)
        again = source.piece(flat.tokens[run], None if flat.begins is None else flat.begins[run])
        for name in ("kind", "tokens", "positions", "special", "units"):
            assert np.array_equal(getattr(again, name), getattr(piece, name)), name


@pytest.mark.parametrize("long", ["window", "cut"])
@pytest.mark.parametrize("shape", ["token", "word", "span"])
def test_stored_examples_are_those_of_the_table(long: str, shape: str, tmp_path: Path, small_shards: None) -> None:
    """The path of labelled tables and the path of corpora: the same examples, hidden tokens and order."""
    write_corpus(tmp_path / "a.txt")
    made = work(tmp_path / "a.txt", tmp_path / "run", hold_out=0.0, length=16, long=long, shape=shape)
    table = read_table(tmp_path / "a.txt")
    rows = load_rows(ARROW, table)
    encoded = encode_rows(rows, made.mapping.sources, 16, long, aligned=shape != "token")
    other = make_examples(rows, encoded, made.mapping.sources, made.mapping.targets, 0, made.examples.corruption)
    assert len(encoded.long_rows) and len(made.examples) == len(other) and len(shards_of(tmp_path / "run")) > 5
    for row in range(len(other)):
        one, two = made.examples.example(row, 3, 0.5), other.example(row, 3, 0.5)
        assert one.row == two.row and len(one.pieces) == 1
        for name in ("tokens", "positions", "special"):
            assert np.array_equal(getattr(one.pieces[0], name), getattr(two.pieces[0], name))
        a, b = one.answers[0], two.answers[0]
        assert a is not None and b is not None
        assert np.array_equal(a.values, b.values) and a.at is not None and np.array_equal(a.at, b.at)


def test_every_way_of_giving_a_corpus_gives_the_same_bits(tmp_path: Path, small_shards: None) -> None:
    texts = sentences(200)
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    rows = [{"text": text} for text in texts]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        write_rows(tmp_path / name, ["text"], rows)
    (tmp_path / "folder").mkdir()
    for i in range(4):
        write_rows(tmp_path / "folder" / f"{i}.jsonl", ["text"], rows[50 * i : 50 * i + 50])
    given: dict[str, Any] = {"hold_out": 0.1, "steps": 3, **TINY_OPTIONS}
    names = ("a.txt", "a.txt.gz", "a.csv", "a.jsonl", "a.parquet", "folder")
    models = {name: mapsto.pretrain("text", tmp_path / name, tmp_path / f"run-{name}", **given) for name in names}
    models |= {
        "list": mapsto.pretrain("text", rows, **given),
        "file, no folder": mapsto.pretrain("text", tmp_path / "a.txt", **given),
    }
    first = dict(models.pop("a.txt").mapping.named_parameters())
    for name, model in models.items():
        for key, weight in model.mapping.named_parameters():
            assert weight.equal(first[key]), (name, key)


def test_equal_rows_are_on_one_side_and_the_share_is_right(tmp_path: Path, small_shards: None) -> None:
    texts = sentences(1500)
    (tmp_path / "a.txt").write_text("\n".join([*texts, *texts[:500]]), encoding="utf-8")
    made = work(tmp_path / "a.txt", tmp_path / "run", hold_out=0.2)
    assert made.held_out is not None

    def plain(examples: Any) -> list[tuple[int, ...]]:
        return [tuple(examples.pieces[row][0].tokens.tolist()) for row in range(len(examples))]

    kept, held = plain(made.examples), plain(made.held_out)
    assert len(kept) + len(held) == 2000 and made.facts["rows"] == len(kept) and made.facts["held_out"] == len(held)
    assert not set(kept) & set(held) and 0.15 < len(held) / 2000 < 0.25
    whole = plain(work(tmp_path / "a.txt", hold_out=0.0).examples)
    assert sorted(kept + held) == sorted(whole) and [t for t in whole if t not in set(held)] == kept
    other = work(tmp_path / "a.txt", hold_out=0.2, seed=1)
    assert set(plain(other.held_out)) != set(held), "another seed holds out other rows"
    same = work([{"text": "the same text"}] * 50, hold_out=0.5)
    assert len(same.examples) == 50 and same.held_out is None, "equal rows are never all taken away"
    with pytest.raises(UsageError, match="leaves none to learn from"):
        work([{"text": text} for text in texts[:20]], hold_out=0.9999)


def test_other_processes_open_what_the_main_one_made(tmp_path: Path, small_shards: None) -> None:
    (tmp_path / "a.txt").write_text("\n".join(sentences(500)), encoding="utf-8")
    heard = RecordingProgress()

    def open_as(rank: int, run: Path, name: str = "a.txt") -> PreparedRun:
        options = Options(vocabulary=300, layers=2, width=64, device="cpu", precision="fp32")
        return prepare(FitRequest(ARROW, tmp_path / name, run, options=options, progress=heard, ranks=Ranks(rank, 2)))

    first = open_as(0, tmp_path / "run")
    files = shards_of(tmp_path / "run")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert len(files) > 5 and any("made a vocabulary" in line for line in heard.lines)
    heard.lines.clear()
    second = open_as(1, tmp_path / "run", "nothing.txt")
    assert seen(first) == seen(second) and first.facts == second.facts and not heard.lines, (
        "the corpus is not read again"
    )
    vocabulary = tmp_path / "run" / "corpus" / "text" / "tokenizer.json"
    for number, path in [*enumerate(files[:4]), (1, vocabulary)]:
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        if number % 2:  # its part of the shards, and the vocabulary
            with pytest.raises(CheckpointError, match=rf"({path.name}|corpus/text) is damaged"):
                open_as(1, tmp_path / "run")
        else:
            open_as(1, tmp_path / "run")
        path.write_bytes(content)
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert now.keys() == written.keys() and all(
        now[p] == t for p, t in written.items() if p not in {*files, vocabulary}
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_shard_is_looked_at_by_one_process(size: int, tmp_path: Path, small_shards: None) -> None:
    work(write_corpus(tmp_path / "a.txt"), tmp_path / "run")
    record = read_sealed(tmp_path / "run" / "corpus" / "manifest.json")
    for path in shards_of(tmp_path / "run"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = [shards._damaged(path.parent, record, Ranks(rank, size)) for rank in range(size)]
        assert sorted(map(len, found)) == [0] * (size - 1) + [1], "and by no other"
        assert {f"shard-{number:06d}.safetensors" for part in found for number in part} == {path.name}
        path.write_bytes(content)


def test_more_shards_than_files_may_be_open(tmp_path: Path, small_shards: None) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
    try:
        path = write_corpus(tmp_path / "a.txt", 2000)
        made = [work(path, tmp_path / "run") for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(shards_of(tmp_path / "run")) > 40 and seen(made[0]) == seen(made[1])


def test_test_rows_in_a_corpus_are_found_before_its_first_shard(tmp_path: Path, small_shards: None) -> None:
    texts = sentences(500)
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    test = [{"text": text} for text in (f"{texts[400]} ", "unseen winter", texts[3].replace(" ", "  "))]
    given = {"vocabulary": 300, "layers": 2, "width": 64, "steps": 1}
    with pytest.raises(DataError, match="2 rows of the test are also") as stopped:
        mapsto.pretrain("text", tmp_path / "a.txt", tmp_path / "run", test=test, **given)
    assert [finding.row for finding in stopped.value.findings] == [1, 3]
    places = [int(finding.reason.rpartition(" ")[2]) for finding in stopped.value.findings]
    assert places == [texts.index(texts[400]) + 1, texts.index(texts[3]) + 1]
    assert not (tmp_path / "run").exists()


def test_the_sample_for_a_vocabulary_is_bounded_and_spread(monkeypatch: pytest.MonkeyPatch, small_shards: None) -> None:
    rows = read_table([{"text": f"{i:04d} river mill"} for i in range(2000)])
    arrow = bind_to(ARROW, rows)
    parts = [rows.select(range(at, at + 16)) for at in range(0, 2000, 16)]
    values, share = corpus.sample_values(arrow, parts)
    assert values == rows.column("text") and share == 1
    monkeypatch.setattr(corpus, "SAMPLE_CHARACTERS", 2000)
    values, share = corpus.sample_values(arrow, parts)
    size = sum(map(len, values))
    assert 500 < size <= 2000 and share == pytest.approx(size / (2000 * 15)) and values == sorted(values)
    assert values[0] < "0300" and values[-1] > "1700" and corpus.sample_values(arrow, parts) == (values, share)
    assert corpus.sample_values(arrow, [read_table([{"text": "x" * 9000}])])[0] == ["x" * 9000]


def test_a_damaged_shard_is_found_and_made_again(tmp_path: Path, small_shards: None) -> None:
    path = write_corpus(tmp_path / "a.txt")
    before = seen(work(path, tmp_path / "run", hold_out=0.1))
    files = {file: file.read_bytes() for file in shards_of(tmp_path / "run")}
    assert len(files) > 5
    damaged, cut, missing = list(files)[1:4]
    content = bytearray(files[damaged])
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    cut.write_bytes(files[cut][:-1])
    missing.unlink()
    heard = RecordingProgress()
    assert seen(work(path, tmp_path / "run", heard, hold_out=0.1)) == before
    assert [line.split()[0] for line in heard.lines if "made again" in line] == [str(damaged), str(cut), str(missing)]
    assert {file: file.read_bytes() for file in shards_of(tmp_path / "run")} == files
    manifest = tmp_path / "run" / "corpus" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 48', b'"rows": 47', 1))
    heard.lines.clear()
    assert seen(work(path, tmp_path / "run", heard, hold_out=0.1)) == before
    assert any("manifest.json is damaged" in line for line in heard.lines)
    vocabulary = tmp_path / "run" / "corpus" / "text" / "tokenizer.json"
    vocabulary.write_bytes(vocabulary.read_bytes()[:-100])
    assert seen(work(path, tmp_path / "run", hold_out=0.1)) == before


def grow(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "one more river\n", encoding="utf-8")


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def exchange(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"river", b"RIVER"))


@pytest.mark.parametrize("change", [grow, cut_off, exchange, Path.unlink])
@pytest.mark.parametrize("when", ["fingerprint_source", "sample_values", "write_shards"])
def test_a_corpus_that_changes_while_it_is_read_is_said_and_nothing_of_it_is_kept(
    when: str, change: Any, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_corpus(tmp_path / "a.txt")
    content = path.read_bytes()
    module: Any = {"fingerprint_source": corpus_data, "sample_values": corpus_data, "write_shards": corpus}[when]
    real = getattr(module, when)

    def and_then(*given: Any) -> Any:
        found = real(*given)
        change(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, when, and_then)
        with pytest.raises(DataError, match="changed while it was read|there is no file|cannot be read"):
            work(path, tmp_path / "run")
    path.write_bytes(content)
    assert seen(work(path, tmp_path / "run")) == seen(work(path)), "also where it is again as it was"


def test_whole_shards_are_not_made_again(tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_corpus(tmp_path / "a.txt")
    before = seen(work(path, tmp_path / "run"))
    kept = corpus._encode_part
    monkeypatch.setattr(corpus, "_encode_part", lambda *_: pytest.fail("tokenized again"))
    monkeypatch.setattr(corpus, "sample_values", lambda *_: pytest.fail("another vocabulary"))
    assert seen(work(path, tmp_path / "run")) == before
    shards_of(tmp_path / "run")[2].unlink()
    done: list[int] = []
    monkeypatch.setattr(corpus, "_encode_part", lambda *given: done.append(1) or kept(*given))
    assert seen(work(path, tmp_path / "run")) == before and len(done) == corpus.SHARD_PARTS


@pytest.mark.parametrize(
    ("change", "says"),
    [({"length": 32}, "length="), ({"vocabulary": 310}, "vocabulary="), ({"shape": "word"}, "shape=")]
    + [({"long": "cut"}, "long="), ({"source": "other"}, "data"), ({"source": "more"}, "data")],
)
def test_shards_of_another_corpus_or_tokenizer_are_refused(
    change: dict[str, Any], says: str, tmp_path: Path, small_shards: None
) -> None:
    path = write_corpus(tmp_path / "a.txt")
    work(path, tmp_path / "run")
    before = [file.read_bytes() for file in shards_of(tmp_path / "run")]
    match change.pop("source", None):
        case "other":
            path.write_text("\n".join(sentences(300, seed=1)), encoding="utf-8")
        case "more":
            path.write_text(path.read_text(encoding="utf-8") + "one more\n", encoding="utf-8")
    (tmp_path / "run" / "run.json").write_text("{}")  # the run has begun
    with pytest.raises(UsageError, match=f"unfinished run with other .*{says}"):
        work(path, tmp_path / "run", **change)
    assert [file.read_bytes() for file in shards_of(tmp_path / "run")] == before, "they are left alone"
    (tmp_path / "run" / "run.json").unlink()
    heard = RecordingProgress()
    assert seen(work(path, tmp_path / "run", heard, **change)) == seen(work(path, **change))
    assert any("was made with other " in line and "; it is made again" in line for line in heard.lines)


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.txt")
    (tmp_path / "run" / "corpus").mkdir(parents=True)
    (tmp_path / "run" / "corpus" / "mine.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        mapsto.pretrain("text", path, tmp_path / "run", steps=1, **TINY_OPTIONS)
    assert (tmp_path / "run" / "corpus" / "mine.txt").read_text() == "years of work"


def test_overwrite_takes_another_corpus(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.txt")
    mapsto.pretrain("text", path, tmp_path / "run", steps=2, **TINY_OPTIONS)
    other = write_corpus(tmp_path / "b.txt", 250)
    model = mapsto.pretrain("text", other, tmp_path / "run", steps=2, overwrite=True, **TINY_OPTIONS)
    again = mapsto.pretrain("text", other, steps=2, **TINY_OPTIONS)
    for (_, one), (_, two) in zip(model.mapping.named_parameters(), again.mapping.named_parameters(), strict=True):
        assert one.equal(two)


def test_faults_are_named_by_file_and_row_and_bounded(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MAX_SHOWN", 30)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b"):
        rows = [json.dumps({"text": text}) for text in sentences(300)]
        for at in range(0, 300, 10):
            rows[at + 5] = '{"text": 7}' if at % 20 else "broken" * 100
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"60 bad cells or rows(.|\n)*… and 40 more") as stopped:
        work(folder)
    found = [(Path(f.file).name, f.row) for f in stopped.value.findings]
    assert len(found) == 30 and found == [("a.jsonl", row) for row in range(6, 300, 10)]
    assert all(len(f.value or "") <= corpus.MAX_VALUE_CHARACTERS for f in stopped.value.findings)
    with pytest.raises(DataError, match="60 of 600 rows are bad, more than the 1 %"):
        work(folder, bad_rows="skip")
    for name in ("a", "b"):
        text = (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        (folder / f"{name}.jsonl").write_text("\n".join([*text[:20], *sentences(0)]), encoding="utf-8")
    more = [json.dumps({"text": text}) for text in sentences(1000, seed=3)]
    (folder / "c.jsonl").write_text("\n".join(more), encoding="utf-8")
    mapsto.pretrain("text", folder, tmp_path / "run", steps=2, bad_rows="skip", **TINY_OPTIONS)
    rejected = list(csv.DictReader((tmp_path / "run" / "rejected.csv").open(encoding="utf-8", newline="")))
    assert [(Path(row["file"]).name, row["row"]) for row in rejected] == [
        ("a.jsonl", "6"), ("a.jsonl", "16"), ("b.jsonl", "6"), ("b.jsonl", "16"),
    ]  # fmt: skip


def test_long_rows_are_counted(tmp_path: Path, small_shards: None) -> None:
    path = write_corpus(tmp_path / "a.txt")
    heard = RecordingProgress()
    mapsto.pretrain("text", path, steps=1, length=16, progress=heard, **TINY_OPTIONS)
    windows = next(line for line in heard.lines if "longer than 16 tokens" in line)
    assert "of 300 rows" in windows and "windows" in windows
    heard = RecordingProgress()
    mapsto.pretrain("text", path, steps=1, length=16, long="cut", progress=heard, **TINY_OPTIONS)
    assert any("tokens were cut off" in line for line in heard.lines)
    with pytest.raises(DataError, match="longer than 16 tokens"):
        mapsto.pretrain("text", path, steps=1, length=16, long="error", **TINY_OPTIONS)


def test_much_that_the_vocabulary_does_not_know_is_said(tmp_path: Path) -> None:
    """A starting model of another script knows few tokens of a text."""
    english = [{"text": f"the river {i} runs past the mill", "label": "ab"[i % 2]} for i in range(40)]
    chinese = [{**row, "text": f"今天天气真好 {i} 房间干净"} for i, row in enumerate(english)]
    start = mapsto.pretrain("text", english, steps=1, **TINY_OPTIONS)
    for rows, known in ((english, True), (chinese, False)):
        for train in (
            lambda **given: mapsto.pretrain("text", **given),
            lambda **given: mapsto.fit("text -> label", **given),
        ):
            heard = RecordingProgress()
            train(data=rows, start=start, steps=1, method="full", progress=heard)
            found = [line for line in heard.lines if "are unknown" in line]
            assert len(found) == (not known) and all("tokens (" in line for line in found)


@pytest.mark.parametrize("options", [{"objective": "mae"}, {"augment": "mirror"}])
def test_what_a_corpus_cannot_be_asked_is_said_before_it_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    path, heard = write_corpus(tmp_path / "a.txt"), RecordingProgress()
    with pytest.raises(UsageError, match="is not for|would change nothing"):
        mapsto.pretrain("text", path, tmp_path / "run", steps=1, progress=heard, **options)
    assert not heard.lines and not (tmp_path / "run").exists()


def test_bytes_that_are_no_text_stop_the_run_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(sentences(30_000)).encode() + b"\nnaive na\xefve\n")
    with pytest.raises(DataError, match="cannot be decoded(.|\n)*row 30001(.|\n)*byte 9 of"):
        work(path, tmp_path / "run")


def test_a_corpus_read_in_parts_is_the_table_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"{i}\n\n{'x' * (i % 50)}", "n": i, "late": i if i > 500 else None} for i in range(900)]
    for name in ("a.csv", "a.csv.gz", "a.jsonl", "a.parquet"):
        write_rows(tmp_path / name, ["text", "n", "late"], rows)
        whole = read_table(tmp_path / name)
        for size in (7, 100_000):
            monkeypatch.setattr(file_part, "PART_ROWS", size)
            parts = list(stream_tables(tmp_path / name))
            assert (len(parts) > 100) == (size == 7)
            assert [origin for part in parts for origin in part.origins] == whole.origins
            assert {c: [v for part in parts for v in part.column(c)] for c in whole.columns} == whole.data
        monkeypatch.setattr(file_part, "PART_ROWS", 10**9)
        monkeypatch.setattr(file_part, "PART_CHARACTERS", 300)
        assert name == "a.parquet" or len(list(stream_tables(tmp_path / name))) > 50
        monkeypatch.undo()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_tokenizing_costs_one_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(sentences(140_000)), encoding="utf-8")

    def command(out: str) -> list[str]:
        return ["pretrain", "text", str(path), "--out", str(tmp_path / out), "--steps", "4", "--batch", "8", *TINY]

    for wanted in (1, 2):
        process = start(*command("killed"))
        deadline = time.monotonic() + 240
        while len(shards_of(tmp_path / "killed")) < wanted:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(KILL)
        process.communicate(timeout=60)
        assert not (tmp_path / "killed" / "run.json").exists()
    kept = {file: file.stat().st_mtime_ns for file in shards_of(tmp_path / "killed")[:1]}
    assert run(*command("killed")).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "whole shards are not made again"
    assert run(*command("unbroken")).returncode == 0
    assert result(tmp_path / "killed") == result(tmp_path / "unbroken")
    for one, two in zip(shards_of(tmp_path / "killed"), shards_of(tmp_path / "unbroken"), strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Five times as much text, 50 MB, takes about as much memory; read at once it would take 300 MB more."""
    base = write_corpus(tmp_path / "base.txt", 300)
    assert run("pretrain", "text", str(base), "--out", str(tmp_path / "base"), "--steps", "1", *TINY).returncode == 0
    found = []
    for count in (130_000, 650_000):
        path = tmp_path / f"{count}.txt"
        path.write_text("\n".join(sentences(count)), encoding="utf-8")
        found.append(
            memory_growth(
                *("pretrain", "text", str(path), "--start", str(tmp_path / "base"), "--steps", "2", "--quiet"),
                *("--device", "cpu", "--out", str(tmp_path / path.stem)),
            )
        )
    assert (tmp_path / "650000.txt").stat().st_size > 45e6
    assert found[1] < found[0] + 80, found
