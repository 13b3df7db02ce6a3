"""Render dialogues as the texts that a chat model was trained on, with the template that was published with the model.

A template puts markers, which are special tokens such as <|im_start|>, around the turns. A marker that a user writes in a turn
stays text. For this, markers in turns are replaced by placeholders before the template is rendered, so that all markers in the
rendered text are the template's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mapsto.errors import CheckpointError, DataError, shorten
from mapsto.text.pairs.dialogues import Turns

# Private-use characters around the number of a marker. There are more of them where a turn has them itself.
OPENING_MARK, CLOSING_MARK = "\ue000", "\ue001"
# The turn by which the end of the assistant's turns is found.
SAMPLE_QUESTION, SAMPLE_ANSWER = "Hello?", "Hello!"


@dataclass(frozen=True)
class RenderedDialogue:
    """A dialogue up to the turn of the assistant, as the text that the model reads.

    sections: the text in parts, each with whether special tokens in it are read as such; elsewhere they stay text.
    contents: for each turn the (start, end) of its content in the text, in characters; None if it is not there as it was.
    """

    sections: list[tuple[str, bool]]
    contents: list[tuple[int, int] | None]


def find_template(setting: Any) -> str | None:
    """Return the template among the settings of a tokenizer: a text, or the default of several named ones; None for none."""
    entries = setting if isinstance(setting, list) else []
    templates = [
        entry.get("template") for entry in entries if isinstance(entry, dict) and entry.get("name") == "default"
    ]
    template = templates[0] if templates else setting
    return template if isinstance(template, str) and template.strip() else None


class ChatTemplate:
    """The chat template of a model.

    source: the template, in Jinja. variables: the names of special tokens by role, such as {"bos_token": "<s>"}.
    markers: the special tokens that the tokenizer recognises in a text.
    """

    def __init__(self, source: str, variables: Mapping[str, str], markers: Sequence[str]) -> None:
        self.source, self.variables = source, dict(variables)
        self.markers = sorted(filter(None, markers), key=len, reverse=True)
        # A pattern of no alternatives would match everywhere.
        self.pattern = re.compile("|".join(map(re.escape, self.markers)) or r"(?!)")

    def render(self, turns: Turns) -> RenderedDialogue:
        """Return a dialogue with the beginning of the assistant's turn behind it.

        Raises CheckpointError for a template that is invalid or beyond the limits of time and size, DataError for a dialogue that
        the template refuses.
        """
        contents = [turn["content"] for turn in turns]
        if not any(self.pattern.search(content) for content in contents):
            text = self._render(turns, True)
            return RenderedDialogue([(text, True)], _locate(text, contents))
        marks = [
            mark * (1 + max(map(len, re.findall(f"{mark}+", "".join(contents))), default=0))
            for mark in (OPENING_MARK, CLOSING_MARK)
        ]
        protect = {marker: f"{marks[0]}{number}{marks[1]}" for number, marker in enumerate(self.markers)}
        markers = {placeholder: marker for marker, placeholder in protect.items()}
        protected = [self.pattern.sub(lambda match: protect[match[0]], content) for content in contents]
        text = self._render(
            [{**turn, "content": content} for turn, content in zip(turns, protected, strict=True)], True
        )
        placeholder = re.compile("|".join(map(re.escape, markers)))

        def restore(part: str) -> str:
            return placeholder.sub(lambda match: markers[match[0]], part)

        parts = re.split(f"({self.pattern.pattern})", text)
        # Every second part is a marker of the template.
        sections = [(restore(part), number % 2 == 1) for number, part in enumerate(parts) if part]
        return RenderedDialogue(sections, _locate("".join(section for section, _ in sections), contents))

    @cached_property
    def turn_end(self) -> str | None:
        """The marker that ends a turn of the assistant, such as <|im_end|>; None if the template has none."""
        turns = [{"role": "user", "content": SAMPLE_QUESTION}, {"role": "assistant", "content": SAMPLE_ANSWER}]
        try:
            text = self._render(turns, False)
        except DataError:
            return None
        match = self.pattern.search(text, text.rfind(SAMPLE_ANSWER))
        return match[0] if match and SAMPLE_ANSWER in text else None

    @cached_property
    def _compiled(self) -> Callable[[Mapping[str, Any]], str]:
        from mapsto.text.pairs.template_sandbox import Sandbox  # jinja2 is imported for chat models alone

        return Sandbox().compiled(self.source)

    def _render(self, turns: Turns, asks: bool) -> str:
        """Return a dialogue as text. asks: whether the beginning of the assistant's turn follows."""
        from jinja2 import TemplateSyntaxError
        from jinja2.exceptions import SecurityError

        from mapsto.text.pairs.template_sandbox import LimitError

        variables = {
            **self.variables,
            "messages": turns,
            "add_generation_prompt": asks,
            "tools": None,
            "documents": None,
        }
        try:
            return self._compiled(variables)
        except (LimitError, SecurityError, TemplateSyntaxError, RecursionError, MemoryError) as error:
            reason = shorten(str(error), 200) or type(error).__name__
            raise CheckpointError(f"the chat template of this model cannot be used: {reason}") from error
        except Exception as error:  # a template can raise any error of Python's operators
            reason = shorten(str(error), 200) or type(error).__name__
            begin = shorten(turns[0]["content"])
            raise DataError(
                f"the chat template of this model refuses the dialogue that begins {begin!r}: {reason}"
            ) from error


def _locate(text: str, contents: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return where the contents of turns stand in a rendered text, one behind the other; None for one that does not."""
    places: list[tuple[int, int] | None] = []
    position = 0
    for content in contents:
        # Many templates strip white space.
        content = content.strip()
        start = text.find(content, position)
        places.append(None if start < 0 else (start, start + len(content)))
        position = position if start < 0 else start + len(content)
    return places
