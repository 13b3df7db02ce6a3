"""The rules of a published generation_config.json: tokens that an answer must or must not have.

The rules and their order are those of `transformers.GenerationConfig`, so that both write the same tokens. A rule looks at the
context of a token, which is what the stack that writes has read before it: for an encoder–decoder the tokens that begin an
answer and the answer so far, for a decoder-only model also the prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mapsto.errors import CheckpointError, UsageError, near

FILE = "generation_config.json"
# Settings of recognizers of speech (Whisper): the ids of languages and tasks by name, and that of the token for no times.
LANGUAGES, TASKS, NO_TIMES = "lang_to_id", "task_to_id", "no_timestamps_token_id"
# Rules that no setting of the file states by their own names.
COMPUTED = {"beginning", "first_time"}
# The language into which the task "translate" translates, as the file writes it.
ENGLISH = "<|en|>"
# Settings that change answers and are not followed, with the value at which each changes nothing (besides null).
NOT_FOLLOWED: dict[str, Any] = {
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "guidance_scale": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "forced_decoder_ids": None,
    "stop_strings": None,
    "max_time": None,
}
# Settings of which `predict` has an option, with the value at which each changes nothing.
OPTIONS: dict[str, Any] = {"num_beams": 1, "do_sample": False}
SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
# Settings of sampling that are not followed. Those of transformers draw from the 50 likeliest tokens unless told otherwise.
MORE_SAMPLING: dict[str, Any] = {
    "top_k": 50,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
}


@dataclass(frozen=True)
class GenerationRules:
    """The rules for the tokens of an answer, by their names in generation_config.json.

    bad_words_ids: sequences of tokens that no context ends with. suppress_tokens: tokens that no answer has;
    begin_suppress_tokens: that none begins with.
    no_repeat_ngram_size: number of tokens of a sequence that does not occur twice in a context; 0 for no limit.
    encoder_no_repeat_ngram_size: number of tokens of a sequence of the source that the answer does not repeat; 0 for no limit.
    min_length: tokens of a context before which no answer ends; min_new_tokens: those of the answer.
    repetition_penalty: divides the positive scores of the context's tokens, and multiplies their negative ones (Keskar et al.
    2019).
    forced_bos_token_id: the token that every answer of an encoder–decoder begins with, such as that of its language.
    forced_eos_token_id: the tokens of which one ends an answer that reaches its maximum length.
    early_stopping: whether a beam search stops as soon as it has as many answers as beams; "never": only when no longer answer
    can score higher. length_penalty: that of beams, if the user gives none.
    beginning: for each of an answer's first tokens those that it can be, such as the languages of a multilingual recognizer.
    first_time: id of the token for the time 0, from which on all tokens are times; None for answers without times.
    max_initial_timestamp_index: largest time at which an answer begins, in steps of the tokens (20 ms).
    """

    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    min_length: int = 0
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    early_stopping: bool | str = False
    length_penalty: float = 1.0
    max_initial_timestamp_index: int = 50
    # No names of the file: `read_beginning` computes the first from several of them, and the second is set to ask for times.
    beginning: tuple[tuple[int, ...], ...] = ()
    first_time: int | None = None

    @property
    def changes_logits(self) -> bool:
        """Return whether any rule limits the tokens of an answer, or changes their scores."""
        no_rules = GenerationRules(
            forced_bos_token_id=self.forced_bos_token_id,
            early_stopping=self.early_stopping,
            length_penalty=self.length_penalty,
            max_initial_timestamp_index=self.max_initial_timestamp_index,
        )
        return self != no_rules

    def banned_after(
        self,
        context: Sequence[int],
        source: Sequence[int],
        answer: Sequence[int],
        num_forced: int,
        ends: Collection[int],
    ) -> set[int]:
        """Return the tokens that cannot follow a context.

        context: the tokens before the next one, those of a prompt included. source: the tokens that an encoder has read.
        answer: the tokens of the answer so far. num_forced: number of forced tokens before it.
        ends: the tokens that end an answer.
        """
        banned = set(self.suppress_tokens)
        banned.update(_continuations(context, context, self.no_repeat_ngram_size))
        banned.update(_continuations(source, context, self.encoder_no_repeat_ngram_size))
        for words in self.bad_words_ids:
            *beginning, last = words
            # Without this condition the first tokens of a context would be compared with nothing.
            is_next = not beginning or (len(words) <= len(context) and list(context[-len(beginning) :]) == beginning)
            if is_next and words not in {(end,) for end in ends}:
                banned.add(last)
        if len(context) < self.min_length or num_forced + len(answer) < self.min_new_tokens:
            banned.update(ends)
        if len(answer) == len(self.beginning):
            banned.update(self.begin_suppress_tokens)
        return banned


def read_rules(settings: Mapping[str, Any] | None, size: int) -> GenerationRules:
    """Return the rules in the content of a generation_config.json; None for a model without this file.

    size: number of tokens of the vocabulary. Raises CheckpointError for a value that a rule cannot have.
    """
    stated = {name: value for name, value in (settings or {}).items() if value is not None}
    values: dict[str, Any] = {}
    for field in fields(GenerationRules):
        if field.name not in stated or field.name in COMPUTED:
            continue
        value = stated[field.name]
        try:
            values[field.name] = _read_rule(field.name, value, size)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{FILE}: {field.name} cannot be {value!r}; {error}") from error
    return GenerationRules(**values, beginning=read_beginning(stated, size))


def read_beginning(settings: Mapping[str, Any], size: int) -> tuple[tuple[int, ...], ...]:
    """Return for each of an answer's first tokens those that it can be, by the settings of a recognizer of speech (Whisper).

    A multilingual one begins with a language and a task; all begin with the token that says that no times are written.
    settings: those that are stated. size: number of tokens of the vocabulary. Raises CheckpointError for invalid settings.
    """
    if NO_TIMES not in settings:
        return ()
    try:
        beginning = [[settings[NO_TIMES]]]
        if settings.get("is_multilingual", LANGUAGES in settings):
            tasks = settings[TASKS]
            beginning = [[*settings[LANGUAGES].values()], [tasks["transcribe"]], *beginning]
        return tuple(_read_tokens(tokens, size) for tokens in beginning)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{FILE}: {LANGUAGES}, {TASKS} and {NO_TIMES} cannot be used; {error!r}") from error


def choose_token(settings: Mapping[str, Any] | None, names: str, name: str) -> int:
    """Return the token of a language or task. names: LANGUAGES or TASKS. Raises UsageError for an unknown one."""
    # Languages are written as tokens in the file.
    tokens = {key.strip("<|>"): token for key, token in (settings or {}).get(names, {}).items()}
    if name not in tokens:
        option = "--language" if names == LANGUAGES else "--task"
        raise UsageError(f"the model has no {option} {name!r}{near(name, tokens)}; it has: {', '.join(sorted(tokens))}")
    return int(tokens[name])


def settings_of_config(model_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of generation in a config.json, where older folders have them; None for none."""
    names = {field.name for field in fields(GenerationRules)} - COMPUTED | {"max_length", *OPTIONS, *NOT_FOLLOWED}
    settings = {name: value for name, value in model_config.items() if name in names and value is not None}
    return settings or None


def describe_unfollowed(settings: Mapping[str, Any] | None, is_search_chosen: bool = False) -> str | None:
    """Return a note on the settings of a generation_config.json that change answers and are not followed; None for none.

    is_search_chosen: whether the user has chosen beams or samples, so that nothing need be said about these.
    """
    stated = {name: value for name, value in (settings or {}).items() if value is not None}
    if NO_TIMES in stated:
        # The tokens that begin a transcript are known by other settings.
        stated.pop("forced_decoder_ids", None)
    if is_search_chosen:
        stated = {name: value for name, value in stated.items() if name not in {**OPTIONS, **SAMPLING}}
    sampling = {**SAMPLING, **MORE_SAMPLING} if stated.get("do_sample") else {}
    names = [
        f"{name}={stated[name]!r}"
        for name, neutral in {**OPTIONS, **sampling, **NOT_FOLLOWED}.items()
        if name in stated and stated[name] != neutral
    ]
    if not names:
        return None
    note = f"{FILE} asks for {', '.join(names)}, which changes answers in transformers and is not followed here"
    options = []
    if (beams := stated.get("num_beams", 1)) != 1 and not stated.get("do_sample"):
        options.append(f"--beams {beams}")
    if stated.get("do_sample"):
        options += ["--samples 1", *(f"--{n.replace('_', '-')} {stated[n]}" for n in SAMPLING if n in stated)]
    return f"{note}; for these: {' '.join(options)}" if options else note


def _continuations(tokens: Sequence[int], context: Sequence[int], size: int) -> Iterable[int]:
    """Return the tokens that follow the last `size` - 1 tokens of `context` wherever these stand in `tokens`."""
    if not size or len(context) + 1 < size:
        return ()
    beginning = list(context[len(context) + 1 - size :])
    return {
        tokens[start + size - 1]
        for start in range(len(tokens) - size + 1)
        # The first token alone rules most places out.
        if size == 1 or (tokens[start] == beginning[0] and list(tokens[start : start + size - 1]) == beginning)
    }


def _read_rule(name: str, value: Any, size: int) -> Any:
    """Return the value of a rule in the type of its field. Raises ValueError if the rule cannot have it.

    size: number of tokens of the vocabulary.
    """
    if name == "bad_words_ids":
        if not all(_read_list(value)):
            raise ValueError("each of its lists has at least one token")
        return tuple(_read_tokens(words, size) for words in value)
    if name in ("suppress_tokens", "begin_suppress_tokens"):
        return _read_tokens(value, size)
    if name == "forced_eos_token_id":
        return _read_tokens(value if isinstance(value, list) else [value], size)
    if name == "forced_bos_token_id":
        return _read_tokens([value], size)[0]
    if name == "early_stopping":
        if not isinstance(value, bool) and value != "never":
            raise ValueError("it is true, false or 'never'")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is needed")
    if name == "length_penalty":
        return float(value)
    if name == "repetition_penalty":
        if value <= 0:
            raise ValueError("it is above 0")
        return float(value)
    if value < 0 or value != int(value):
        raise ValueError("it is a whole number from 0 on")
    return int(value)


def _read_list(value: Any) -> list[Any]:
    """Return a list. Raises ValueError for anything else."""
    if not isinstance(value, list):
        raise ValueError("a list is needed")
    return value


def _read_tokens(value: Any, size: int) -> tuple[int, ...]:
    """Return token ids as a tuple. Raises ValueError for anything but a list of ids of the vocabulary."""
    for token in _read_list(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
            raise ValueError(f"a token is a whole number from 0 to {size - 1}")
    return tuple(value)
