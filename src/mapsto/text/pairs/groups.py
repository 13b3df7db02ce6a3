"""Groups of texts that mean the same: which rows a text can be paired with, and which texts are linked by common groups.

In a table of groups a row is one text, and its partner is the next different text of its group. So the rows of a group are its
texts in a ring, and every text is the partner of one row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def pair_in_rings(keys: Sequence[Hashable], groups: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return (texts, partners): the index of each text that has a different one in its group, and of the next one there.

    keys: for each text a key that is equal for equal texts; a repeated text of a group counts once. groups: of each text.
    """
    members: dict[Hashable, dict[Hashable, int]] = {}
    for index, (key, group) in enumerate(zip(keys, groups, strict=True)):
        members.setdefault(group, {}).setdefault(key, index)
    partner_of: dict[int, int] = {}
    for ring in (list(texts.values()) for texts in members.values() if len(texts) > 1):
        partner_of.update(zip(ring, [*ring[1:], ring[0]], strict=True))
    texts = sorted(partner_of)
    return texts, [partner_of[index] for index in texts]


def number_components(*links: tuple[Sequence[Hashable], Sequence[Hashable]]) -> Ints:
    """Return the number of the component of each row, (n,): rows are in one if a chain of links joins them.

    links: pairs of sequences (n,); each row links its two items. Equal items are one, so items of different kinds must differ.
    """
    from scipy.sparse import coo_matrix  # takes a second to import
    from scipy.sparse.csgraph import connected_components

    items = dict.fromkeys(item for link in links for side in link for item in side)
    numbers = {item: number for number, item in enumerate(items)}
    ends = [np.array([numbers[item] for link in links for item in link[end]], np.int64) for end in (0, 1)]
    graph = coo_matrix((np.ones(len(ends[0])), ends), shape=(len(numbers), len(numbers)))
    _, component = connected_components(graph, directed=False)
    result: Ints = component[ends[0][: len(links[0][0])]].astype(np.int64)
    return result


class Partners:
    """Draws the text that a row is compared with in a training step: at random, another one of the row's group.

    keys: the keys of the rows' texts. partner_keys: those of their partners. groups: the group of each row.
    """

    def __init__(self, keys: Sequence[Hashable], partner_keys: Sequence[Hashable], groups: Sequence[Hashable]) -> None:
        rows_of: dict[Hashable, list[int]] = {}
        place_of: dict[tuple[Hashable, Hashable], int] = {}
        for row, (partner, group) in enumerate(zip(partner_keys, groups, strict=True)):
            place_of[group, partner] = len(rows_of.setdefault(group, []))
            rows_of[group].append(row)
        # For each row the rows of its group, and the place among them of the one whose partner is the row's own text.
        self.rows = [rows_of[group] for group in groups]
        self.own_places = [place_of.get((group, key)) for key, group in zip(keys, groups, strict=True)]

    def draw(self, row: int, rng: np.random.Generator) -> int:
        """Return the number of a row of the same group, whose partner is another text than that of `row`."""
        rows, own_place = self.rows[row], self.own_places[row]
        if own_place is None:
            return rows[int(rng.integers(len(rows)))]
        place = int(rng.integers(len(rows) - 1))
        return rows[place + (place >= own_place)]
