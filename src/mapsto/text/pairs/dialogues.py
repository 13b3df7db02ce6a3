"""Read dialogues and instructions with their answers, in the forms in which data sets for chat models are published.

A dialogue is a list of turns: {"role", "content"} (the messages of OpenAI and of Hugging Face data sets) or {"from", "value"}
(ShareGPT). Each turn of the assistant is an example of its own, which is answered from all turns before it; a call of a tool is
read by later turns, but is no answer. Alpaca's rows have an instruction, an input, which may be empty, and an output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Columns of a row: the turns before the answer as a text and as a list, the answer, and the dialogue that both are from.
PROMPT, MESSAGES, ANSWER, DIALOGUE = "prompt", "messages", "answer", "dialogue"
# The columns of Alpaca (Taori et al. 2023).
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
# A column with the instructions to the assistant, which some data sets keep apart from the turns.
SYSTEM = "system"
# The name of a turn in which the assistant calls a tool. It is not learnt: it is a command to a program, and no answer to anyone.
CALL = "function_call"
# The roles in a chat template by the names that data sets have for them.
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", CALL), "assistant"),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
# The roles after whose turn the assistant is to answer.
ASKING = ("user", "tool")
# The keys of a turn's role and of its text.
KEYS = (("role", "content"), ("from", "value"))
# Begins a turn in the text of a dialogue.
MARKS = {"user": "User: ", "assistant": "Assistant: ", "system": "System: ", "tool": "Tool: "}

Turns = list[dict[str, str]]


class Prompt(str):
    """The text of the turns before an answer, which also has the turns, so that a chat template can be applied to them."""

    turns: Turns

    @classmethod
    def of(cls, turns: Turns) -> Prompt:
        """Return the prompt of these turns of a dialogue."""
        prompt = cls(to_text(turns))
        prompt.turns = turns
        return prompt


def turns_of(text: str) -> Turns:
    """Return the turns of a prompt; any other text is one turn of the user."""
    return text.turns if isinstance(text, Prompt) else [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Dialogue:
    """The turns of a dialogue, each {"role", "content"} with a role among the values of ROLES.

    faults: the reasons, in words, why it cannot be used; empty for a sound dialogue.
    calls: the indices of the turns in which the assistant calls a tool.
    """

    turns: Turns
    faults: tuple[str, ...] = ()
    calls: frozenset[int] = frozenset()

    @property
    def is_answered(self) -> bool:
        """Return whether the last turn is an answer of the assistant."""
        return bool(self.turns) and self.turns[-1]["role"] == "assistant" and len(self.turns) - 1 not in self.calls

    @property
    def is_question(self) -> bool:
        """Return whether the assistant is to answer the last turn, which is the user's or a tool's."""
        return bool(self.turns) and self.turns[-1]["role"] in ASKING

    @property
    def begins_with_answer(self) -> bool:
        """Return whether the assistant has the first turn, which answers nothing."""
        return next((turn["role"] for turn in self.turns if turn["role"] != SYSTEM), None) == "assistant"

    def examples(self) -> list[tuple[Turns, str]]:
        """Return the turns before each answer of the assistant, and the answer; none for one that nobody asked for."""
        return [
            (self.turns[:index], turn["content"])
            for index, turn in enumerate(self.turns)
            if turn["role"] == "assistant"
            and index not in self.calls
            and any(earlier["role"] == "user" for earlier in self.turns[:index])
        ]


def is_dialogue(cell: Any) -> bool:
    """Return whether a cell is a list of turns, which need not all be sound."""
    turns = _turns(cell)
    return bool(turns) and all(isinstance(turn, Mapping) and _keys(turn) is not None for turn in turns)


def read_dialogue(cell: Any, instructions: str | None = None) -> Dialogue:
    """Return the dialogue in a cell. Faults are a cell that is no list of turns, and turns that are empty, of an unknown role, …

    instructions: those to the assistant that stand beside the turns; they become the first turn if there is no system turn.
    """
    if not is_dialogue(cell):
        forms = " or ".join(f'{{"{role}": …, "{content}": …}}' for role, content in KEYS)
        return Dialogue([], (f"a dialogue is a list of turns, each {forms}",))
    turns: Turns = []
    calls: list[int] = []
    faults: list[str] = []
    for number, turn in enumerate(_turns(cell), 1):
        role_key, content_key = _keys(turn) or KEYS[0]
        role = ROLES.get(str(turn[role_key]).strip().lower())
        content, fault = _read_content(turn[content_key], turn.get("tool_calls"))
        if role is None:
            faults.append(f"turn {number} has the unknown role {turn[role_key]!r}; known are {', '.join(ROLES)}")
        elif role == SYSTEM and any(earlier["role"] != SYSTEM for earlier in turns):
            faults.append(f"turn {number} is a system message in the middle of the dialogue; it belongs in front")
        elif fault:
            faults.append(f"turn {number}, of the {role}, {fault}")
        if str(turn[role_key]).strip().lower() == CALL or (_is_empty(turn[content_key]) and _has_calls(turn)):
            calls.append(len(turns))
        turns.append({"role": role or "", "content": content})
    if instructions and turns[0]["role"] != SYSTEM:
        turns.insert(0, {"role": SYSTEM, "content": instructions})
        calls = [index + 1 for index in calls]
    return Dialogue(turns, tuple(faults), frozenset(calls))


def to_text(turns: Sequence[Mapping[str, str]]) -> str:
    """Return turns as a text in which a mark such as "User: " begins each turn; a single turn of the user has no mark."""
    if [turn["role"] for turn in turns] == ["user"]:
        return turns[0]["content"]
    return "\n".join(MARKS[turn["role"]] + turn["content"] for turn in turns)


def is_alpaca(columns: Sequence[str]) -> bool:
    """Return whether these are columns of Alpaca's rows, and no column has the name of a prompt or an answer."""
    return {INSTRUCTION, INPUT, OUTPUT} <= set(columns) and not {PROMPT, ANSWER} & set(columns)


def join_instruction(instruction: Any, context: Any) -> Any:
    """Return an instruction and the input that it is about as a prompt. Without an input, which may be None, the instruction."""
    return (
        f"{instruction}\n\n{context}" if instruction and isinstance(context, str) and context.strip() else instruction
    )


def _turns(cell: Any) -> list[Any]:
    """Return the items of a list of turns, also of one as an array or as a dict of lists (pyarrow, datasets); [] for others."""
    if isinstance(cell, Mapping) and (keys := _keys(cell)) is not None:
        columns = [cell[key] for key in keys]
        are_lists = all(isinstance(column, list | tuple | np.ndarray) for column in columns)
        return [dict(zip(keys, row, strict=False)) for row in zip(*columns, strict=False)] if are_lists else []
    return list(cell) if isinstance(cell, list | tuple | np.ndarray) else []


def _keys(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the keys of a turn's role and text; None if it lacks them."""
    return next((keys for keys in KEYS if set(keys) <= turn.keys()), None)


def _has_calls(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn has calls of tools beside its text."""
    calls = turn.get("tool_calls")
    return calls is not None and len(calls) > 0


def _is_empty(content: Any) -> bool:
    """Return whether the text of a turn is missing or blank."""
    return content is None or (isinstance(content, str) and not content.strip())


def _read_content(content: Any, tool_calls: Any) -> tuple[str, str]:
    """Return the text of a turn, and its fault in words or "".

    content: a text, or a list of parts {"type": "text", "text": …}. tool_calls: the calls of tools in a turn without text, which
    become its text as JSON; else None.
    """
    if _is_empty(content) and tool_calls is not None and len(tool_calls):
        return json.dumps(list(tool_calls), ensure_ascii=False, default=str), ""
    if isinstance(content, list | tuple | np.ndarray):
        for part in content:
            if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                return "", f"holds a part that is no text: {kind}"
        content = "\n".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        return "", f"is {type(content).__name__} and no text"
    return (content, "") if content and content.strip() else ("", "is empty")
