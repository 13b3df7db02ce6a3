"""The choice how a text answers a sound: written by a decoder, or read along the sound (CTC, Graves et al. 2006).

CTC needs no decoder and no tokenizer. It learns from little data, but answers in the order of the sound, character by character,
so it is for transcripts more than for translations.
"""

from __future__ import annotations

from collections.abc import Callable

from mapsto import kinds
from mapsto.errors import UsageError
from mapsto.fitting.starting_model import StartingModel
from mapsto.task.arrow import Arrow
from mapsto.task.source_capabilities import Spoken

# The value of `--architecture` for answers that are read along their source.
ALIGNED = "ctc"


def choose_answer_way(
    arrow: Arrow, start: StartingModel, architecture: str = "auto", say: Callable[[str], None] = lambda text: None
) -> Arrow:
    """Return the arrow with those target ports marked as aligned whose answers are read along the source.

    They are texts that answer a sound, if `--architecture ctc` asks for it, or by default if the starting model has no decoder of
    texts. say: prints a line about such a choice.
    Raises UsageError if `--architecture ctc` is set and no answer can be read along a source.
    """
    is_spoken = len(arrow.sources) == 1 and issubclass(kinds.source(arrow.sources[0].kind), Spoken)
    can_align = is_spoken and not (arrow.symmetric or arrow.corrupted)
    ports = [index for index, port in enumerate(arrow.targets) if can_align and kinds.can_align(port.kind)]
    if architecture == ALIGNED and not ports:
        raise UsageError(
            f"--architecture {ALIGNED} reads an answer along a sound, as in 'sound -> text', and not {arrow}"
        )
    if not ports or architecture not in ("auto", ALIGNED):
        return arrow
    written = {arrow.targets[index].kind for index in ports}
    if architecture == "auto" and start.sources is not None and written <= set(start.sources):
        return arrow
    names = ", ".join(sorted(written))
    sound = arrow.sources[0].kind
    say(
        f"reads the {names} along the {sound} (CTC): each token of the {sound} answers characters; "
        "a start with a decoder, such as Whisper, writes it instead"
    )
    return arrow.align(ports)
