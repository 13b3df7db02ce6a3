"""A labelling session: which row whom is shown, and the answers that come back. Two people are never shown the same row.

A row is lent to a page for some minutes, and for longer as long as the page asks. One row in NUM_PER_RANDOM is drawn at random
from the whole pool: these rows alone measure the learning curve, since rows that were chosen are not like the pool.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from mapsto.data import sampling
from mapsto.errors import BadCell, DataError
from mapsto.serve.labelling.answer_file import DETAILS, Answer, AnswerFile
from mapsto.serve.labelling.pool import LabelPool, output_cells
from mapsto.serve.refusals import Refusal

# One row in so many is drawn at random, to measure.
NUM_PER_RANDOM = 4
LEASE_SECONDS = 600.0


@dataclass(frozen=True)
class Visitor:
    """A page that somebody has open. page: an id that the page makes for itself. person: the name that is written to answers."""

    page: str
    person: str


@dataclass
class Lease:
    """The lending of a row to a page. end: in seconds of the monotonic clock."""

    page: str
    end: float


class Session:
    """The state of a session. Its methods may be called from any thread.

    order: row indices in the order in which they are asked, at first a random one.
    """

    def __init__(self, pool: LabelPool, file: AnswerFile, seed: int = 0, lease_seconds: float = LEASE_SECONDS) -> None:
        self.pool, self.file, self.lease_seconds = pool, file, lease_seconds
        self._lock = threading.RLock()
        self._leases: dict[int, Lease] = {}
        self._random_order: list[int] = sampling.permute_rows(seed, 0, len(pool)).tolist()
        self._num_drawn = 0
        self._num_offers = 0
        for answer in file.answers.values():
            try:
                pool.question.add_names(pool.question.names_in(pool.question.read(answer.cell)))
            except BadCell as error:
                raise DataError(f"{file.path}: the answer {answer.cell!r} cannot be read: {error}") from error
        # An ordered set of the rows without an answer; skipped ones come last.
        self._open: dict[int, None] = {}
        self.set_order(self._random_order)

    @property
    def num_foreign(self) -> int:
        """The number of answers in the file to rows that this pool does not have."""
        return sum(key not in self.pool.places for key in self.file.answers)

    def set_order(self, order: Sequence[int]) -> None:
        """Set the order in which open rows are asked: first those of `order`, then the others as they were."""
        with self._lock:
            is_answered = {self.pool.places.get(key) for key in self.file.answers}
            rows = dict.fromkeys([*order, *self._open, *self._random_order])
            skipped = self._skipped()
            self._open = {row: None for row in rows if row not in is_answered and row not in skipped}
            self._open |= {row: None for row in rows if row not in is_answered and row in skipped}

    def open_rows(self) -> list[int]:
        """Return the indices of the rows without an answer, in the order in which they will be asked."""
        with self._lock:
            return list(self._open)

    def answers(self) -> list[tuple[int, Any]]:
        """Return (row index, value) of each answer to a row of the pool, in the order of time."""
        with self._lock:
            places = self.pool.places
            cells = [(places[key], answer.cell) for key, answer in self.file.answers.items() if key in places]
        return [(row, self.pool.question.read(cell)) for row, cell in cells]

    def random_rows(self) -> set[int]:
        """Return the answered rows that are a random sample of the pool, but for rows that were skipped.

        They are the beginning of a random order of the pool, up to the first row in it that was not asked yet.
        """
        with self._lock:
            self._advance()
            return {row for row in self._random_order[: self._num_drawn] if row not in self._open}

    def next(self, visitor: Visitor, holding: str | None = None) -> int | None:
        """Return the index of the next row for a page, and lend it; None if no row is left for it.

        holding: the key of the row that the page shows, which it keeps if nobody else has it.
        """
        with self._lock:
            row = self._choose(visitor.page, self.pool.places.get(holding or ""))
            # A page has one row at a time.
            for lent in [lent for lent, lease in self._leases.items() if lease.page == visitor.page]:
                del self._leases[lent]
            if row is not None:
                self._leases[row] = Lease(visitor.page, time.monotonic() + self.lease_seconds)
            return row

    def _choose(self, page: str, holding: int | None) -> int | None:
        if holding in self._open and self._is_free(holding, page):
            return holding
        own_rows = [row for row, lease in self._leases.items() if lease.page == page and row in self._open]
        if own_rows:
            return own_rows[0]
        self._num_offers += 1
        if self._num_offers % NUM_PER_RANDOM == 0:
            self._advance()
            skipped = self._skipped()
            for row in islice(self._random_order, self._num_drawn, None):
                if row in self._open and row not in skipped and self._is_free(row, page):
                    return row
        return next((row for row in self._open if self._is_free(row, page)), None)

    def _advance(self) -> None:
        """Move the end of the random sample behind the rows that were answered or skipped since."""
        skipped = self._skipped()
        while self._num_drawn < len(self._random_order):
            row = self._random_order[self._num_drawn]
            if row in self._open and row not in skipped:
                break
            self._num_drawn += 1

    def _is_free(self, row: int | None, page: str) -> bool:
        lease = None if row is None else self._leases.get(row)
        return lease is None or lease.page == page or lease.end < time.monotonic()

    def _skipped(self) -> set[int]:
        places = self.pool.places
        return {places[skip["key"]] for skip in self.file.skips.values() if skip["key"] in places}

    def answer(self, visitor: Visitor, key: str, id: str, cell: Any, saw_guess: bool = False) -> None:
        """Write an answer to a row; one of an id that is there already is the same one, sent again.

        Raises Refusal for an unknown row, an answer that does not fit, and a row that has another answer by now.
        """
        with self._lock:
            if id in self.file.keys_by_id:
                return
            index = self._require_row(key)
            if (present := self.file.answers.get(key)) is not None:
                raise Refusal(409, f"{present.person} has labelled this row meanwhile; your answer was not written")
            question = self.pool.question
            try:
                value = question.check(cell, self.pool.sources(index))
            except BadCell as error:
                raise Refusal(422, str(error)) from error
            when = _current_time()
            details: dict[str, Any] = {"key": key, "id": id, "by": visitor.person, "when": when, "saw_guess": saw_guess}
            if (size := self.pool.picture_size(index)) is not None:
                details["size"] = size  # which exports need, also where the picture is gone
            cells = output_cells(self.pool, index, self.file.path.parent)
            record = {**cells, question.column: cell, DETAILS: details}
            self.file.add(Answer(key, id, visitor.person, when, cell, record))
            question.add_names(question.names_in(value))
            self._open.pop(index, None)
            self._leases.pop(index, None)

    def skip(self, visitor: Visitor, key: str, id: str) -> None:
        """Put a row behind all others, and out of the random sample. Raises Refusal for an unknown row."""
        with self._lock:
            index = self._require_row(key)
            self.file.skip(key, id, visitor.person, _current_time())
            if index in self._open:
                del self._open[index]
                self._open[index] = None
            self._leases.pop(index, None)

    def undo(self, visitor: Visitor, id: str, key: str) -> Any:
        """Take an answer or a skip back and lend its row to the page; return the answer, or None for a skip.

        The same request, sent again, changes nothing more. Raises Refusal for an unknown row.
        """
        with self._lock:
            index = self._require_row(key)
            if (answer := self.file.answers.get(key)) is not None and answer.id == id:
                self.file.remove(id)
            self.file.unskip(id)
            if key in self.file.answers:
                raise Refusal(409, "this row has another answer by now")
            self._open = {index: None, **self._open}
            for lent in [lent for lent, lease in self._leases.items() if lease.page == visitor.page]:
                del self._leases[lent]
            if self._is_free(index, visitor.page):
                self._leases[index] = Lease(visitor.page, time.monotonic() + self.lease_seconds)
            return None if answer is None else answer.cell

    def last_action(self, person: str) -> dict[str, Any] | None:
        """Return the id and the row's key of the last answer or skip of a person; None if there is none."""
        with self._lock:
            answers = (
                a for a in reversed(self.file.answers.values()) if a.person == person and a.key in self.pool.places
            )
            skips = (item for item in reversed(self.file.skips.items()) if item[1]["by"] == person)
            actions = [(answer.when, answer.id, answer.key) for answer in islice(answers, 1)]
            actions += [
                (skip["when"], id, skip["key"]) for id, skip in islice(skips, 1) if skip["key"] in self.pool.places
            ]
            return {"id": max(actions)[1], "key": max(actions)[2]} if actions else None

    def count(self) -> dict[str, Any]:
        """Return the numbers of rows: labelled, open, skipped, and labelled by each person."""
        with self._lock:
            people = Counter(answer.person for answer in self.file.answers.values())
            num_skipped = len(self._skipped() & self._open.keys())
            return {
                "num_labelled": len(self.file.answers) - self.num_foreign,
                "num_rows": len(self.pool),
                "num_skipped": num_skipped,
                "people": dict(people.most_common()),
            }

    def _require_row(self, key: str) -> int:
        if key not in self.pool.places:
            raise Refusal(404, "the pool has no such row; load the page again")
        return self.pool.places[key]


def _current_time() -> str:
    """Return the time in UTC to the microsecond, as text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
