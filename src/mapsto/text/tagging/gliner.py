"""Read GLiNER's rows: a list of words, and entities [first word, last word, label] with the last word included.

The form is that of the training data of https://github.com/urchade/GLiNER: {"tokenized_text": […], "ner": [[0, 1, "person"], …]}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mapsto.text.characters import to_integer
from mapsto.text.tagging.word_tags import TagStyle

# The columns of words and of entities.
WORDS, SPANS = "tokenized_text", "ner"


def join_token_spans(words: Sequence[Any], spans: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the texts of rows and their spans in characters; {"fault": reason} for entities that are not among the words.

    words: for each row a list of words, or None. spans: for each row its entities, or None.
    """
    style = TagStyle.measure((row, ()) for row in words if row is not None)
    texts, cells = [], []
    for row, entities in zip(words, spans, strict=True):
        text, starts = style.join([str(word) for word in row or ()])
        ends = [start + len(str(word)) for start, word in zip(starts, row or (), strict=True)]
        texts.append(None if row is None else text)
        cells.append(None if entities is None or row is None else _to_characters(entities, starts, ends))
    return texts, cells


def _to_characters(entities: Sequence[Any], starts: Sequence[int], ends: Sequence[int]) -> Any:
    """Return the entities of a row with start and end in characters. starts, ends: those of its words."""
    cell = []
    for entity in entities:
        try:
            first, last, label = entity
            first, last = to_integer(first), to_integer(last)
        except (TypeError, ValueError, OverflowError):
            return {"fault": f"an entity is [first word, last word, label], not {entity!r:.50}"}
        if not 0 <= first <= last < len(starts):
            return {
                "fault": f"the entity {list(entity)} is not among the words, which have the numbers 0 to {len(starts) - 1}"
            }
        cell.append({"start": starts[first], "end": ends[last], "label": label})
    return cell
