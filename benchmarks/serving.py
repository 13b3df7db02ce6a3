"""Measure `mapsto serve` over loopback, with the client in a process of its own.

Throughput of single requests and of batches beside the raw packed forward pass and beside LitServe; the time of one text beside a
call in Python; goodput at five times the load, also beside clients that give up; seconds from the start to ready. A classifier on
MiniLM answers sentences of 16 to 128 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LITSERVE = """
import sys, litserve, mapsto
class Classifier(litserve.LitAPI):
    def setup(self, device): self.model = mapsto.load(sys.argv[1], "cpu", sys.argv[3])
    def decode_request(self, request): return request["rows"][0]["text"]
    def batch(self, inputs): return list(inputs)
    def predict(self, texts): return self.model.predict(texts)
    def unbatch(self, output): return list(output)
    def encode_response(self, answer): return {"answers": [answer]}
if __name__ == "__main__":
    api = Classifier(max_batch_size=64, batch_timeout=0.005, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", timeout=30)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="error", host="127.0.0.1")
"""
REQUEST = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
LENGTHS = (16, 128)  # tokens of a text
CONNECTIONS = 48
GIVE_UP = 0.05  # seconds


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bool]:
    """Send a request and read the response; return its status and whether it has Retry-After."""
    writer.write(REQUEST.format(len(body)).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head, re.I)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return int(head.split()[1]), "retry-after" in head.lower()


async def closed_loop(port: int, bodies: Sequence[bytes], seconds: float, connections: int) -> dict[str, Any]:
    """Let each connection send one request after the other; count the responses that come within the time."""
    statuses: Counter[str] = Counter()
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def work(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while time.perf_counter() < end:
            began = time.perf_counter()
            status, _ = await exchange(reader, writer, bodies[turn % len(bodies)])
            times.append(time.perf_counter() - began)
            statuses[str(status)] += 1
            turn += connections
        writer.close()

    await asyncio.gather(*map(work, range(connections)))
    return {"statuses": statuses, "seconds": seconds, "median_ms": 1e3 * statistics.median(times)}


async def open_loop(
    port: int, bodies: Sequence[bytes], seconds: float, rate: float, quitters: float = 0.0
) -> dict[str, Any]:
    """Send requests at a fixed rate, whatever comes back. quitters: requests per second whose clients close after GIVE_UP."""
    statuses: Counter[str] = Counter()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(number: int) -> None:
        try:
            pair = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            status, says_when = await exchange(*pair, bodies[number % len(bodies)])
            statuses[f"{status}{'' if status != 429 or says_when else ' without Retry-After'}"] += 1
            idle.append(pair)
        except (OSError, asyncio.IncompleteReadError) as error:
            statuses[type(error).__name__] += 1

    async def quitter(number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = bodies[number % len(bodies)]
        writer.write(REQUEST.format(len(body)).encode() + body)
        await asyncio.sleep(GIVE_UP)
        writer.close()

    async def drive(work: Any, per_second: float) -> list[asyncio.Task[None]]:
        tasks: list[asyncio.Task[None]] = []
        start = time.perf_counter()
        while per_second and (passed := time.perf_counter() - start) < seconds:
            while len(tasks) < passed * per_second:
                tasks.append(asyncio.create_task(work(len(tasks))))
            await asyncio.sleep(0.005)
        return tasks

    groups = await asyncio.gather(drive(one, rate), drive(quitter, quitters))
    within = Counter(statuses)  # what came before the load ended
    await asyncio.gather(*groups[0], *groups[1])
    return {"statuses": statuses, "within": within, "seconds": seconds, "sent": len(groups[0])}


def client(mode: str, port: int, bodies: Path, *settings: float) -> dict[str, Any]:
    """Run a client in a process of its own, and return what it counted."""
    command = [sys.executable, __file__, "--client", mode, str(port), str(bodies), *map(str, settings)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def run_client(mode: str, port: str, path: str, *settings: str) -> None:
    """Do what `client` asks, and print what was counted."""
    bodies = [line.encode() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    numbers = [float(setting) for setting in settings]
    if mode == "closed":
        result = asyncio.run(closed_loop(int(port), bodies, numbers[0], int(numbers[1])))
    else:
        result = asyncio.run(open_loop(int(port), bodies, *numbers))
    print(json.dumps(result))


@contextmanager
def served(folder: Path, precision: str, *options: str) -> Iterator[tuple[int, float]]:
    """Yield the port of a service in a process of its own, and the seconds from its start to ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mapsto", "serve", str(folder), "--port", "0", "--log", "none"]
    process = subprocess.Popen([*command, "--precision", precision, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        if match := re.search(r"ready on \S+:(\d+)", line):
            port = int(match[1])
            break
    assert port, "the service did not start"
    yield port, time.perf_counter() - began
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@contextmanager
def peer(folder: Path, precision: str, port: int) -> Iterator[int]:
    """Yield the port of LitServe with the same model, which predicts batches of up to 64 requests."""
    script = folder.parent / "peer.py"
    script.write_text(LITSERVE, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(port), precision],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(300):
            time.sleep(0.2)
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                    break
            except OSError:
                assert process.poll() is None, "LitServe did not start"
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def make_texts(folder: Path, count: int) -> list[str]:
    """Return English sentences of LENGTHS tokens, joined from those of SST-2."""
    import numpy as np
    from common import DATA

    from mapsto.data.table import read_table
    from mapsto.pretrained.model_folder import load_mapping

    words = " ".join(read_table(DATA / "sst2" / "test.csv").column("text")).split()
    source = next(iter(load_mapping(folder).sources.values()))
    rng, texts, first = np.random.default_rng(0), [], 0
    for length in rng.integers(LENGTHS[0], LENGTHS[1] + 1, count).tolist():
        piece = source.encode([" ".join(words[first : first + length])], 0)[0]
        kept = max(4, int(length * length / len(piece)))  # so many words have about so many tokens
        texts.append(" ".join(words[first : first + kept]))
        first = (first + kept) % (len(words) - 2 * LENGTHS[1])
    return texts


def make_classifier(folder: Path) -> Path:
    """Fit a classifier on MiniLM to a few sentences, and return its folder."""
    import mapsto
    from mapsto.data.table import read_table
    from mapsto.demo.data import minilm

    from common import DATA  # isort: skip

    table = read_table(DATA / "sst2" / "train.csv").select(range(200))
    mapsto.fit("text -> label", table, folder / "clf", start=minilm(), method="probe")
    return folder / "clf"


class InProcess:
    """The same model in this process: its raw packed forward pass, and a call with one text."""

    def __init__(self, folder: Path, texts: Sequence[str], precision: str) -> None:
        import mapsto
        from mapsto.data.table import read_table
        from mapsto.device import keep_memory

        keep_memory()
        self.model, self.texts = mapsto.load(folder, "cpu", precision), texts
        predictor = self.model.predictor
        table = read_table([{"text": text} for text in texts])
        self.prepared = predictor.prepare(table, predictor.bind(table))
        self.num_tokens = sum(map(len, self.prepared.examples))

    def texts_per_second(self, seconds: float) -> float:
        """Return how many texts the packed forward pass alone reads in a second; they are encoded before."""
        predictor, count = self.model.predictor, 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            predictor.answer_prepared(self.prepared)
            count += len(self.texts)
        return count / (time.perf_counter() - began)

    def one_text_ms(self) -> float:
        """Return the median time of a call with one text."""
        times = []
        for text in self.texts[:60]:
            began = time.perf_counter()
            self.model(text)
            times.append(time.perf_counter() - began)
        return 1e3 * statistics.median(times)


def per_second(counts: dict[str, Any], key: str = "statuses") -> float:
    return float(counts[key].get("200", 0)) / float(counts["seconds"])


def measure(folder: Path, settings: argparse.Namespace) -> list[str]:
    """Return the lines of the page, of all measurements in turns."""
    from common import ratio, spread

    clf = make_classifier(folder)
    texts = make_texts(clf, 256)
    local = InProcess(clf, texts, settings.precision)
    single, batch = folder / "single.jsonl", folder / "batch.jsonl"
    single.write_text("\n".join(json.dumps({"rows": [{"text": text}]}) for text in texts), encoding="utf-8")
    groups = [texts[start : start + 32] for start in range(0, len(texts), 32)]
    batch.write_text(
        "\n".join(json.dumps({"rows": [{"text": t} for t in group]}) for group in groups), encoding="utf-8"
    )
    found: dict[str, list[float]] = {name: [] for name in ("raw", "single", "batch", "call", "request")}
    long = settings.seconds
    with served(clf, settings.precision) as (port, to_ready):
        for _ in range(settings.rounds):
            found["raw"].append(local.texts_per_second(long))
            found["single"].append(per_second(client("closed", port, single, long, CONNECTIONS)))
            found["batch"].append(32 * per_second(client("closed", port, batch, long, 8)))
            found["call"].append(local.one_text_ms())
            found["request"].append(client("closed", port, single, long / 2, 1)["median_ms"])
        capacity = statistics.median(found["single"])
        load = client("open", port, single, settings.load_seconds, 5 * capacity)
        calm = client("open", port, single, long, 0.7 * capacity)
        beside = client("open", port, single, long, 0.7 * capacity, 0.3 * capacity)
    lines = [
        f"{settings.precision}; {len(texts)} texts of {LENGTHS[0]}–{LENGTHS[1]} tokens ({local.num_tokens / len(texts):.0f} on "
        f"average); {settings.rounds} rounds of {long:g} s in turns, median (range).",
        "",
        "| what | value | of the raw packed forward pass |",
        "|---|---|---|",
        f"| raw packed forward pass, texts/s | {spread(found['raw'])} | |",
        f"| single requests, {CONNECTIONS} connections, texts/s | {spread(found['single'])} | "
        f"{ratio(found['single'], found['raw'])} |",
        f"| requests of 32 rows, 8 connections, texts/s | {spread(found['batch'])} | {ratio(found['batch'], found['raw'])} |",
        f"| one text, in Python, ms | {spread(found['call'], 2)} | |",
        f"| one text, over loopback, ms | {spread(found['request'], 2)} | |",
        f"| start to ready, s | {to_ready:.1f} | |",
        f"| goodput at 5 × the load for {settings.load_seconds:g} s, of capacity | "
        f"{per_second(load, 'within') / capacity:.2f} | |",
        f"| goodput at 0.7 × beside clients that give up, of that without them | {per_second(beside) / per_second(calm):.2f} | |",
        "",
        f"At 5 × the load: {load['sent']} requests, {load['statuses']}.",
    ]
    if settings.peer:
        with peer(clf, settings.precision, 18_765) as port:
            warm = client("closed", port, single, 1, 4)
            assert set(warm["statuses"]) == {"200"}, warm
            theirs = [per_second(client("closed", port, single, long, CONNECTIONS)) for _ in range(settings.rounds)]
            alone = client("closed", port, single, long / 2, 1)["median_ms"]
        lines.append(
            f"LitServe with the same model (batches of 64, 5 ms): {spread(theirs)} texts/s, one text {alone:.2f} ms; "
            f"ours {statistics.median(found['single']) / statistics.median(theirs):.2f} × as many."
        )
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        run_client(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--load-seconds", type=float, default=60.0, help="of the load of 5 × capacity")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="measure LitServe too")
    parser.add_argument("--print", action="store_true", help="print only; RESULTS.md stays as it is")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(Path(folder), settings)
    if settings.print:
        print("\n".join(lines))
    else:
        from common import record

        record("benchmarks/serving.py", lines)


if __name__ == "__main__":
    main()
