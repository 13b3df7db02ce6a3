"""A pretraining corpus of any size, encoded once into files of tokens (shards).

The arrow has one source, part of which is hidden, such as `~text -> text`. Shards are mapped into memory and an example
is a slice of a shard, so memory use does not grow with the corpus. A thread encodes one part of the table while the next
part is read.

Legend of shapes: n rows, e examples (a long row may be split into several), t tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.data import sampling
from mapsto.data.encoding import describe_unknown_tokens
from mapsto.data.rows import load_rows, require_few_bad_rows
from mapsto.data.shards import Arrays, CorpusShards, concatenate
from mapsto.data.table import Int64s, Table
from mapsto.errors import BadCell, DataError, Finding, UsageError
from mapsto.options import RowPolicy
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import Arrow
from mapsto.task.source_capabilities import Tokenized

# Table parts that are stored together in one shard.
SHARD_PARTS = 16
# Size of the sample on which a vocabulary is trained, in characters.
SAMPLE_CHARACTERS = 2**25
# Largest number of findings in a message, and of characters of a cell that a finding quotes.
MAX_SHOWN = 1000
MAX_VALUE_CHARACTERS = 200


def is_corpus_arrow(arrow: Arrow) -> bool:
    """Return whether all that an arrow does is to restore hidden tokens of one tokenized source, as `~text -> text` does.

    Only these arrows are trained on shards.
    """
    (first, *rest), targets = arrow.sources, arrow.targets
    if rest or not first.corrupted or first.kind not in kinds.names("source"):
        return False
    if not issubclass(kinds.source(first.kind), Tokenized):
        return False
    return bool(targets) and all(port.restores is not None for port in targets)


@dataclass(frozen=True)
class ExampleLimits:
    """The length limit of a corpus's examples, and what is done with longer rows.

    longest: largest number of tokens of an example, special tokens included.
    long: "cut" (drop the tokens beyond), "window" (split into several examples) or "error" (`--long`); for a table also "auto".
    units: whether shards also store where words begin, which hiding whole words needs.
    """

    longest: int
    long: str
    units: bool


def sample_values(arrow: Arrow, parts: Iterable[Table]) -> tuple[list[Any], float]:
    """Return (values, share): a random sample of a corpus's source values, on which to train a vocabulary.

    parts: the corpus as tables. share: the fraction of the corpus's characters that the sample holds.
    A corpus of at most SAMPLE_CHARACTERS characters is taken whole. Of a larger one the share of rows is halved until the sample
    is that small. A hash of the row number decides which rows to keep, so that equal corpora give equal samples.
    """
    port = arrow.sources[0]
    kind = kinds.source(port.kind)
    sample: list[tuple[int, int, Any]] = []
    threshold, size, total, row = 2**64, 0, 0, 0
    for part in parts:
        draws = sampling.mix_bits(np.arange(row, row + len(part)).astype(np.uint64), 0).tolist()
        row += len(part)
        for draw, cell in zip(draws, part.column(str(port.column)), strict=True):
            try:
                value = kind.read(cell)
            except BadCell:
                continue  # reported when the rows are read
            length = len(kind.key(value))
            total += length
            if draw < threshold:
                sample.append((draw, length, value))
                size += length
        # The corpus's size is unknown until its end, so halve the share of rows whenever the sample is too large.
        while size > SAMPLE_CHARACTERS and len(sample) > 1:
            threshold //= 2
            sample = [entry for entry in sample if entry[0] < threshold] or sample[:1]
            size = sum(length for _, length, _ in sample)
    return [value for _, _, value in sample], size / max(1, total)


def write_shards(
    shards: CorpusShards, parts: Iterable[Table], arrow: Arrow, source: Tokenized, limits: ExampleLimits
) -> None:
    """Encode a corpus into shards, and write those that `shards` does not hold yet.

    shards: the place to write to. parts: the whole corpus as tables, of which each shard holds SHARD_PARTS in order.
    source: the source that encodes the values. limits: the length limit of examples.
    """
    number = -1
    for number, group in groupby(enumerate(parts), lambda numbered: numbered[0] // SHARD_PARTS):
        # A resumed run encodes only the shards that are missing.
        if number not in shards:
            encode = partial(_encode_part, arrow, source, limits)
            arrays = concatenate(list(_one_ahead(encode, (part for _, part in group))))
            rows, long, num_cut, bad, faults = arrays.pop("counts").reshape(-1, 5).sum(axis=0, dtype=np.int64).tolist()
            counts = {"rows": rows, "long": long, "lost": num_cut, "bad": bad, "faults": faults}
            tokens = len(arrays["tokens"]) + num_cut
            arrays["ends"] = _ends(arrays.pop("sizes"))
            shards.add(number, arrays, {**counts, "examples": len(arrays["ends"]), "tokens": tokens})
    shards.finish(number + 1)


def _ends(sizes: Int64s) -> Int64s:
    """Return for each example the index after its last token, (e,), in the smallest integer type that holds them all.

    sizes: (e,), number of tokens of each example; the examples lie end to end.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    return ends.astype(np.min_scalar_type(int(ends[-1]))) if len(ends) else ends.astype(np.uint8)


def _one_ahead(work: Callable[[Table], Arrays], parts: Iterable[Table]) -> Iterator[Arrays]:
    """Yield `work(part)` for each part in order. A thread computes it while the next part is read."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Arrays] | None = None
        for part in parts:
            # The part before is awaited only now, so that the thread worked while this part was read.
            future = pool.submit(work, part)
            if waiting is not None:
                yield waiting.result()
            waiting = future
        if waiting is not None:
            yield waiting.result()


def _encode_part(arrow: Arrow, source: Tokenized, limits: ExampleLimits, part: Table) -> dict[str, Any]:
    """Encode a part of the corpus; return its arrays by name.

    tokens: (t,), of all examples end to end, without special tokens. begins: (t,), True where a word begins; only with
        `limits.units`.
    sizes: (e,), number of `tokens` of each example. windows: (n,), number of examples of each row.
    draws: (n,), a hash of each row. faults: findings about bad rows as the bytes of JSON lines.
    counts: (5,), the numbers of good rows, rows above the length limit, tokens cut off, bad rows and findings.
    """
    rows = load_rows(replace(arrow, targets=()), part)
    values = rows.sources[0]
    flat = source.flatten(values, limits.units)
    # The piece of no tokens has only special tokens, which are not stored but count towards the limit.
    room = limits.longest - len(source.piece(flat.tokens[:0]))
    lengths = flat.lengths
    long = lengths > room
    is_kept = np.ones(len(flat.tokens), np.bool_)
    if limits.long == "cut" and long.any():
        # Keep the tokens whose position within their row is below the limit.
        is_kept = np.arange(len(is_kept)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < room
        lengths = np.minimum(lengths, room)
    # An empty row is an example too, so that each row has at least one.
    windows = np.maximum(1, -(-lengths // room))
    sizes = np.full(int(windows.sum()), room, np.int64)
    # All windows of a row are full but the last one.
    sizes[np.cumsum(windows) - 1] = lengths - room * (windows - 1)
    # Rejected rows never reached `rows`; in the order of the file the two sorts of findings are mixed.
    findings = sorted([*part.rejected, *rows.faults], key=lambda fault: (Path(fault.file), fault.row or 0))
    bad = len(part.rejected) + len(part) - len(values)
    arrays = {
        "tokens": flat.tokens[is_kept],
        "sizes": sizes,
        "windows": windows,
        "draws": np.fromiter((_draw(source.key(value)) for value in values), np.uint64, len(values)),
        "faults": np.frombuffer("".join(map(_line, findings)).encode(errors="backslashreplace"), np.uint8),
        "counts": np.array([len(values), int(long.sum()), int((~is_kept).sum()), bad, len(findings)], np.int64),
    }
    return arrays if flat.begins is None else {**arrays, "begins": flat.begins[is_kept]}


def _draw(key: str) -> int:
    """Return a 64-bit hash of `key`, a string that is equal for equal source values (`Source.key`).

    Splits into training and held-out rows decide by it, so that equal rows are on the same side.
    """
    # A damaged text may hold lone surrogates, which UTF-8 refuses.
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _line(finding: Finding) -> str:
    """Return a finding as a line of JSON that quotes at most MAX_VALUE_CHARACTERS characters of its cell."""
    value = finding.value if finding.value is None else finding.value[:MAX_VALUE_CHARACTERS]
    return json.dumps(asdict(replace(finding, value=value))) + "\n"


class Corpus:
    """A pretraining corpus whose shards are all written, ready to be split into training and held-out examples.

    source: the tokenized source that encoded the corpus.
    limits: the length limit with which the corpus was encoded.
    policy: which rows may be skipped.
    Raises DataError for bad rows unless "skip" allows them, and for rows above the limit if `limits.long` is "error".
    """

    def __init__(self, shards: CorpusShards, source: Tokenized, limits: ExampleLimits, policy: RowPolicy) -> None:
        self.shards, self.source, self.limits = shards, source, limits
        self.rows, self.long, bad = shards.total("rows"), shards.total("long"), shards.total("bad")
        # There may be millions of findings, of which the message lists few.
        findings = [finding for finding, _ in zip(self.faults(), range(MAX_SHOWN), strict=False)]
        require_few_bad_rows(findings, shards.total("faults"), bad, self.rows + bad, policy)
        if self.long and limits.long == "error":
            raise DataError(
                f"{self.long} rows are longer than {limits.longest} tokens (--long cut or --long window go on)"
            )

    def faults(self) -> Iterator[Finding]:
        """Yield the findings about bad rows in the order of the corpus. The shards have no examples of these rows."""
        for number in range(self.shards.count or 0):
            for line in self.shards[number]["faults"].tobytes().splitlines():
                yield Finding(**json.loads(line))

    def split(self, share: float, seed: int) -> tuple[StoredExamples, StoredExamples, int]:
        """Return (training examples, held-out examples, number of held-out rows).

        share: fraction of the rows to hold out. A hash of a row's value and the seed decides, so equal rows stay together.
        If all rows are equal, none is held out. Raises UsageError if no training row is left.
        """
        # Hashes are uniform over 64 bits, so this share of them is below the limit.
        limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
        held_out, rows, first = [np.zeros(0, np.int64)], 0, 0
        row_hashes: set[int] = set()
        for number in range(self.shards.count or 0):
            shard = self.shards[number]
            is_held_out = sampling.mix_bits(shard["draws"].astype(np.uint64), seed) < limit
            rows += int(is_held_out.sum())
            # Two different hashes are enough to know that not all rows are equal.
            if len(row_hashes) < 2:
                row_hashes |= set(np.unique(shard["draws"])[:2].tolist())
            # All windows of a row are on the same side.
            held_out.append(first + np.flatnonzero(np.repeat(is_held_out, shard["windows"])))
            first += len(shard["ends"])
        indices = np.concatenate(held_out)
        if rows == self.rows:
            if len(row_hashes) > 1:
                raise UsageError(f"--hold-out {share} keeps all {rows} rows aside and leaves none to learn from")
            indices, rows = indices[:0], 0
        return StoredExamples(self, indices, is_held_out=False), StoredExamples(self, indices, is_held_out=True), rows

    def report(self, say: Callable[[str], None]) -> None:
        """Print a note if many tokens are unknown to the vocabulary, and how many rows are above the length limit, if any.

        say: function that prints a line.
        """
        shards = map(self.shards.__getitem__, range(self.shards.count or 0))
        if unknown := describe_unknown_tokens((self.source, shard["tokens"]) for shard in shards):
            say(f"note: {unknown}")
        if not self.long:
            return
        num_cut, tokens = self.shards.total("lost"), self.shards.total("tokens")
        outcome = f"{num_cut:,} of {tokens:,} tokens were cut off" if num_cut else "they were cut into windows"
        say(f"{self.long:,} of {self.rows:,} rows are longer than {self.limits.longest} tokens: {outcome}")


class StoredExamples:
    """The training examples or the held-out examples of a corpus, read from its shards by index.

    held_out: sorted indices of the held-out examples among all examples of the corpus.
    is_held_out: True for a sequence of the held-out examples, False for one of all other examples.
    """

    def __init__(self, corpus: Corpus, held_out: Int64s, is_held_out: bool) -> None:
        self.corpus, self.held_out, self.is_held_out = corpus, held_out, is_held_out
        shards = corpus.shards
        self.firsts = np.cumsum([0, *(len(shards[number]["ends"]) for number in range(shards.count or 0))])
        self._gaps = held_out - np.arange(len(held_out))  # number of training examples before each held-out one

    def __len__(self) -> int:
        return len(self.held_out) if self.is_held_out else int(self.firsts[-1]) - len(self.held_out)

    def __getitem__(self, row: int, /) -> tuple[Piece, ...]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        # Training example `row` comes after every held-out example with at most `row` training examples before it.
        index = (
            int(self.held_out[row]) if self.is_held_out else row + int(np.searchsorted(self._gaps, row, side="right"))
        )
        number = int(np.searchsorted(self.firsts, index, side="right")) - 1
        shard: Arrays = self.corpus.shards[number]
        index -= int(self.firsts[number])
        start, end = int(shard["ends"][index - 1]) if index else 0, int(shard["ends"][index])
        begins = shard["begins"][start:end] if "begins" in shard else None
        return (self.corpus.source.piece(shard["tokens"][start:end], begins),)
