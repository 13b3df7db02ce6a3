"""What a user may set of a run. Every field has a default that needs no thought."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_type_hints

from mapsto.errors import UsageError, near

Long = Literal["auto", "cut", "window", "error"]


BadRows = Literal["stop", "skip"]


Method = Literal["auto", "full", "probe", "probe+full", "contrast"]


Optimizer = Literal["auto", "adamw", "muon"]


Shape = Literal["token", "word", "span", "block"]


Objective = Literal["masked", "causal", "hybrid", "replaced", "mae", "simclr"]


CHOICES: dict[str, tuple[str, ...]] = {
    "long": ("auto", "cut", "window", "error"),
    "bad_rows": ("stop", "skip"),
    "method": ("auto", "full", "probe", "probe+full", "contrast"),
    "optimizer": ("auto", "adamw", "muon"),
    "shape": ("token", "word", "span", "block"),
    "objective": ("masked", "causal", "hybrid", "replaced", "mae", "simclr"),
}


VARIED = ("auto", "none", "move", "mirror", "rand", "crop")


MIXED = ("mixup", "cutmix", "mosaic")


MOST_THREADS = 64


LARGEST_SEED = 2**63 - 1


def require_choice(name: str, value: str, allowed: Sequence[str] | None = None) -> None:
    """Raise UsageError unless `value` is one that the option `name` can have: `allowed`, or what CHOICES says."""
    allowed = allowed or CHOICES[name]
    if value not in allowed:
        flag, shown = name.replace("_", "-"), ", ".join(allowed)
        raise UsageError(f"--{flag} is one of {shown}, not {value!r}{near(str(value), allowed)}")


def splits(width: int, heads: int) -> bool:
    """Whether `width` is `heads` times an even width, as rotary positions need it."""
    return width % (2 * heads) == 0


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """How long, how large, how careful. None means: chosen from the data and the start, and recorded in run.json."""

    steps: int | None = _option(None, "Train for this many updates.")
    epochs: float | None = _option(None, "Train for this many passes over the rows.")
    minutes: float | None = _option(
        None, "Train for about this long: a number of steps, fixed after a short calibration."
    )
    batch: int | None = _option(None, "Examples in an update.")
    rate: float | None = _option(None, "Peak learning rate.")
    optimizer: Optimizer = _option("auto", "Muon for weights that begin random, AdamW for published ones.")
    method: Method = _option(
        "auto",
        "How answers are fitted to a start: a linear probe, all weights, one after the other, or the contrast of classes "
        "before a probe.",
    )
    lora: int | None = _option(
        None, "Learn updates of this rank to the start's blocks, and leave their weights (LoRA)."
    )
    freeze: str | None = _option(
        None, "Leave the start's embeddings and this many of its lowest layers as they are; or `all` of it."
    )
    layer_decay: float = _option(1.0, "Each layer learns at this share of the rate of the one above it.")
    smooth: float = _option(0.0, "Share of each label that is spread over all classes in the loss (label smoothing).")
    average: bool | None = _option(
        None, "End with the average of the last fifth's weights; pretraining does unless told otherwise."
    )
    seed: int = _option(0, "Everything random is a function of it.")
    layers: int | None = _option(None, "Layers of a new model.")
    width: int | None = _option(None, "Width of a new model.")
    heads: int | None = _option(None, "Attention heads of a new model.")
    vocabulary: int | None = _option(None, "Tokens of a new vocabulary.")
    words: str | None = _option(None, "A file of words, one a line, to add to the vocabulary of a start.")
    length: int | None = _option(None, "Longest example, in tokens; a fitted model reads as much of longer ones.")
    size: int | None = _option(
        None, "Pictures are read whole, at most so many pixels to a side; else as the start has it, or up to 224."
    )
    long: Long = _option("auto", "What happens to longer ones: cut off, cut into windows, or an error.")
    bad_rows: BadRows = _option("stop", "Stop before the first step, or skip bad rows (at most 1 %) into rejected.csv.")
    balance: bool = _option(False, "Weigh classes so that rare ones count as much as common ones.")
    objective: Objective = _option(
        "masked",
        "How `~` is put back: masked tokens, each token from those before it, a hybrid of both, telling tokens that a "
        "generator replaced, or patches that only a small decoder behind the model sees (mae); or nothing is hidden, and two "
        "views of each picture are told from all others (simclr).",
    )
    hide: float | None = _option(
        None,
        "Share of the tokens that `~` hides (text 0.3, pictures 0.6, videos 0.75); it falls to half of this late in training. "
        "With mae 0.75, of videos 0.9, to the end.",
    )
    augment: str = _option(
        "auto",
        "How training rows are varied: pictures and videos moved a little (auto), also mirrored (mirror), pictures after two of "
        "many operations (rand), parts of them in other colours (crop; simclr's auto), or not (none). How they are mixed with "
        "other rows, and their answers too: seen through each other (mixup), one in the other (cutmix), four pictures side by "
        "side (mosaic). Joined by +: crop+mixup.",
    )
    style: str | None = _option(
        None, "A picture as which `image -> image` shall make others look; no pairs are needed, but --features."
    )
    features: str | None = _option(
        None, "The folder of the pretrained network that --style compares pictures by, such as a VGG, ResNet or DINOv2."
    )
    style_weight: float = _option(1.0, "Weight of looking as --style does; showing what the source shows weighs 1.")
    adversarial: float = _option(
        0.0,
        "Weight of deceiving a network that learns along to tell pictures that are made from real ones; 0 for none.",
    )
    shape: Shape = _option(
        "token",
        "What is hidden together: tokens, whole words (of a video one place in all frames), spans of words, blocks.",
    )
    hold_out: float | None = _option(None, "Share of the rows kept aside to watch and to choose the best weights by.")
    patience: int = _option(
        3, "Looks at the held-out rows without a better one before the rate falls and training ends."
    )
    save_every: int | None = _option(None, "Steps between checkpoints.")
    precision: str = _option("auto", "bf16 where the hardware accelerates it, else fp32; or say which.")
    device: str = _option("auto", "auto, cpu, cuda or mps.")
    workers: int = _option(1, "Threads that make batches ahead; they never change the result.")
    shard: bool = _option(False, "Under torchrun: every process keeps a part of each weight (FSDP2), not all of them.")
    tensorboard: bool = _option(False, "Write TensorBoard events beside metrics.jsonl (the extra `tensorboard`).")
    encoding: str | None = _option(None, "Encoding of text files, when it is not UTF-8 or UTF-16.")

    def __post_init__(self) -> None:
        self._make_plain()
        if self.freeze is not None:
            object.__setattr__(self, "freeze", str(self.freeze))
            if self.freeze != "all" and not self.freeze.isdecimal():
                raise UsageError(f"--freeze is a number of layers, or all, not {self.freeze!r}")
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                f"give one of --steps, --epochs and --minutes, not {' and '.join(f'--{name}' for name in given)}"
            )
        positive = (
            "steps",
            "epochs",
            "minutes",
            "batch",
            "rate",
            "layers",
            "width",
            "heads",
            "vocabulary",
            "length",
            "size",
        )
        for name in (*positive, "save_every", "patience", "lora"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be a number above 0, not {value}")
        if self.hold_out is not None and not 0 <= self.hold_out < 1:
            raise UsageError(f"--hold-out is a share from 0 to below 1, not {self.hold_out}")
        if self.words is not None and self.lora is not None:
            raise UsageError(
                "an adapter (--lora) fits the vocabulary of its start; add --words in a run of their own first"
            )
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"--layer-decay is a share above 0 and up to 1, not {self.layer_decay}")
        if not 0 <= self.smooth < 1:
            raise UsageError(f"--smooth is a share from 0 to below 1, not {self.smooth}")
        if self.hide is not None and not 0 < self.hide < 1:
            raise UsageError(f"--hide is a share between 0 and 1, not {self.hide}")
        if self.style is not None and self.features is None:
            raise UsageError(
                "--style compares pictures by what a pretrained network sees in them: name its folder with --features"
            )
        if self.style is None and (self.features is not None or self.style_weight != 1):
            raise UsageError("--features and --style-weight would change nothing without --style")
        if not 0 < self.style_weight < math.inf:
            raise UsageError(f"--style-weight must be a number above 0, not {self.style_weight}")
        if not 0 <= self.adversarial < math.inf:
            raise UsageError(f"--adversarial is a weight of at least 0, not {self.adversarial}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed is a number from 0 to {LARGEST_SEED}, not {self.seed}")
        if not 0 <= self.workers <= MOST_THREADS:
            raise UsageError(f"--workers is a number from 0 to {MOST_THREADS}, not {self.workers}")
        for name in CHOICES:
            require_choice(name, getattr(self, name))
        names = self.augment.split("+")
        for name in names:
            require_choice("augment", name, (*VARIED, *MIXED))
        if any(sum(name in known for name in names) > 1 for known in (VARIED, MIXED)):
            raise UsageError(f"--augment joins one way to vary rows and one to mix them, not {self.augment!r}")
        if self.width and self.heads and not splits(self.width, self.heads):
            raise UsageError(f"--width {self.width} does not split into {self.heads} heads of an even width")

    def _make_plain(self) -> None:
        """Take numbers of numpy as those of Python, which JSON knows. Raises UsageError for what is no number."""
        for name, hint in get_type_hints(Options).items():
            value, whole = getattr(self, name), hint in (int, int | None)
            if not (whole or hint in (float, float | None)) or (value is None and isinstance(None, hint)):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                what = "a whole number" if whole else "a number"
                raise UsageError(f"--{name.replace('_', '-')} is {what}, not {value!r}")
            object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    @property
    def varied(self) -> str:
        """How training rows are varied."""
        return next((name for name in self.augment.split("+") if name in VARIED), "auto")

    @property
    def mixed(self) -> str | None:
        """How they are mixed with others; None where they are not."""
        return next((name for name in self.augment.split("+") if name in MIXED), None)

    @property
    def hides(self) -> bool:
        """Whether the objective hides what stands behind `~`."""
        return self.objective != "simclr"

    def require_use(self, corrupted: bool) -> None:
        """Raise UsageError when an option is set that an arrow with (or without) `~` could only ignore."""
        usual = Options()
        idle: dict[str, tuple[str, ...]] = {"an arrow with `~` is trained to its end": ("patience",)}
        if not corrupted:
            idle = {"without `~` nothing is hidden": ("hide", "shape", "objective")}
        elif not self.hides:
            idle[f"--objective {self.objective} hides nothing"] = ("hide", "shape")
        for reason, names in idle.items():
            if found := [f"--{name}" for name in names if getattr(self, name) != getattr(usual, name)]:
                raise UsageError(f"{', '.join(found)} would change nothing: {reason}")

    def flags(self) -> list[str]:
        """What a command has to say to get these options."""
        usual, words = asdict(Options()), []
        for name, value in asdict(self).items():
            if value != usual[name]:
                flag = name.replace("_", "-")
                words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
        return words

    def differing(self, other: dict[str, Any]) -> list[str]:
        """Names of the fields that change a result and differ from the recorded `other`."""
        free = {"save_every", "workers", "tensorboard", "shard"}
        return sorted(name for name, value in asdict(self).items() if name not in free and other.get(name) != value)
