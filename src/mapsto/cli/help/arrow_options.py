"""The options that an arrow cannot use, by what its kinds can do. Importing this module imports torch."""

from __future__ import annotations

from mapsto import kinds
from mapsto.errors import UsageError
from mapsto.task.arrow import parse
from mapsto.task.capabilities import FileBacked
from mapsto.task.generation import Generated
from mapsto.task.source_capabilities import Augmentable, Spatial, Spoken, Tokenized
from mapsto.task.target_capabilities import Classes, WeightedClasses


def useless_options(text: str) -> set[str]:
    """Return the options that change nothing for an arrow, or that it refuses; none for an arrow that does not parse.

    Options of pretraining are not among them, since the sign `~` alone tells them.
    """
    try:
        arrow = parse(text)
        sources = [kinds.source(port.kind) for port in arrow.sources]
        answers = [] if arrow.symmetric else list(kinds.answering(arrow))
    except UsageError:
        return set()

    def reads(capability: type) -> bool:
        return any(issubclass(kind, capability) for kind in sources)

    def answers_with(capability: type) -> bool:
        return any(issubclass(kind, capability) for kind in answers)

    is_useful = {
        ("vocabulary", "words"): reads(Tokenized) or answers_with(Generated),
        ("size",): reads(Spatial),
        ("language", "task"): reads(Spoken) and answers_with(Generated),
        ("augment",): reads(Augmentable),
        ("style", "features", "style_weight", "adversarial"): answers_with(FileBacked) and not arrow.corrupted,
        ("sizes",): arrow.symmetric,
        ("balance", "class_weights"): answers_with(WeightedClasses),
        ("fold_labels",): answers_with(Classes),
        ("smooth",): answers_with(Classes) or answers_with(Generated),
        ("architecture",): answers_with(Generated),
    }
    return {name for names, is_used in is_useful.items() if not is_used for name in names}
