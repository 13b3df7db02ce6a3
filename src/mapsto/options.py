"""The options that a user can set for a run; each has a default.

Each field is a keyword of the Python API and a flag of the command line. `Options` inherits from five groups, so that a
function which needs only one group can name it as its type: `def _new_config(options: ModelOptions, …)`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, Literal, TypedDict, get_type_hints

from mapsto.class_weights import BALANCED, parse_class_weights
from mapsto.errors import UsageError, near
from mapsto.errors.wording import ANY_WORD, register_keywords

Long = Literal["auto", "cut", "window", "error"]
BadRows = Literal["stop", "skip"]
Unlabelled = Literal["stop", "drop", "predict"]
Method = Literal["auto", "full", "probe", "probe+full", "contrast", "linear"]
Optimizer = Literal["auto", "adamw", "muon"]
MaskShape = Literal["token", "word", "span", "block"]
Architecture = Literal["auto", "prefix", "encoder-decoder", "ctc"]
Rank = Literal["common", "", "rare"]
ObjectiveName = Literal["masked", "causal", "hybrid", "replaced", "mae", "simclr"]
TrackerName = Literal["none", "mlflow", "wandb", "trackio", "tensorboard"]

CHOICES: dict[str, tuple[str, ...]] = {
    "long": ("auto", "cut", "window", "error"),
    "bad_rows": ("stop", "skip"),
    "unlabelled": ("stop", "drop", "predict"),
    "method": ("auto", "full", "probe", "probe+full", "contrast", "linear"),
    "optimizer": ("auto", "adamw", "muon"),
    "shape": ("token", "word", "span", "block"),
    "architecture": ("auto", "prefix", "encoder-decoder", "ctc"),
    "objective": ("masked", "causal", "hybrid", "replaced", "mae", "simclr"),
    "track": ("none", "mlflow", "wandb", "trackio", "tensorboard"),
}

# Names for delimiters that a shell does not pass easily.
DELIMITERS = {"tab": "\t", "\\t": "\t"}

# The largest share of rows that `--bad-rows skip` drops by default.
MAX_SKIPPED = 0.01

# The values of --augment: augmentations of single rows, and methods of mixing a row with others.
AUGMENTATIONS = ("auto", "none", "move", "mirror", "rand", "crop", "spec")
MIXTURES = ("mixup", "cutmix", "mosaic")

# What other libraries call an option (lower case), by whose names users look for it.
OPTIONS_BY_OTHER_NAMES: dict[str, str] = {
    other: name
    for name, synonyms in {
        "rate": "lr learning_rate step_size eta",
        "batch": "batch_size per_device_train_batch_size minibatch",
        "epochs": "num_epochs n_epochs num_train_epochs max_epochs nb_epochs n_iter",
        "steps": "max_steps num_steps n_steps iterations max_iter",
        "minutes": "time_limit max_time",
        "seed": "random_state random_seed rng",
        "hold_out": "validation_split val_size valid_size validation_size eval_split holdout",
        "smooth": "label_smoothing label_smoothing_factor",
        "length": "max_length max_len max_seq_length maxlen",
        "layers": "num_layers n_layers num_hidden_layers depth",
        "width": "hidden_size d_model dim hidden_dim embed_dim",
        "heads": "num_heads n_heads num_attention_heads",
        "vocabulary": "vocab_size vocab",
        "lora": "lora_r lora_rank peft",
        "balance": "balanced",
        "class_weights": "class_weight",
        "weight": "sample_weight sample_weights weights weight_column weight_col",
        "metric": "metric_for_best_model eval_metric monitor scoring",
        "patience": "early_stopping_patience early_stopping",
        "precision": "dtype torch_dtype fp16 bf16 mixed_precision",
        "workers": "num_workers n_jobs dataloader_num_workers",
        "save_every": "save_steps checkpoint_every",
        "start": "model pretrained model_name model_name_or_path base_model checkpoint",
        "out": "output_dir output save_dir path",
        "test": "test_data eval_data eval_dataset",
        "data": "train train_data train_dataset dataset",
        "quiet": "verbose verbosity silent",
        "unlabelled": "unlabeled",
        "group": "groups",
        "folds": "cv n_splits n_folds kfold k_folds cross_validation",
    }.items()
    for other in synonyms.split()
}

# Keywords of the Python API that are no field of Options, and whose flags messages name; for each the words it takes.
FUNCTION_KEYWORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("out", "start", "like", "test", "overwrite", "search", "search_minutes", "folds"), ()),  # of fit
    **dict.fromkeys(("starts", "labels", "seeds", "methods", "shift", "allow_overlap", "jobs"), ()),  # of compare
    **dict.fromkeys(("min_confidence", "reject", "mask", "sample", "token"), ()),  # of Model
    **dict.fromkeys(("top", "index", "column", "exact"), ()),  # of Model.find
    **dict.fromkeys(
        ("beams", "samples", "temperature", "top_p", "longest", "answers", "schema", "times"), ()
    ),  # of Decoding
}
# Fields whose words are not in CHOICES.
FIELD_WORDS = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "bf16", "fp32"),
    "augment": (*AUGMENTATIONS, *MIXTURES),
    "freeze": ("all",),
    "group": ("none",),
    "engine": ("local", "ray", "onnx", "openvino"),
    "encoding": ANY_WORD,
    "class_weights": (BALANCED,),
}
# Options that are texts on the command line, and in Python also numbers or dicts.
NOT_ONLY_TEXT = ("freeze", "class_weights")
# Flags that stand alone.
SWITCHES = ("overwrite", "allow_overlap", "exact", "times", "balance", "fold_labels", "shard", "tensorboard")

MOST_THREADS = 64
LARGEST_SEED = 2**63 - 1

# Fields that cannot change a result, so that a resumed run may have other values.
FREE_FIELDS = frozenset({"save_every", "workers", "track", "shard"})


# Options that `compare` sets itself, and so refuses; those of `~` arrows, which are refused without one and which it does not
# take; and options that no arrow with `~` has a use for.
SET_BY_COMPARE = ("method", "metric", "minutes", "steps", "track", "shard", "words")
FOR_HIDING = ("hide", "shape", "objective")
NOT_FOR_HIDING = ("patience", "metric", "weight", "class_weights", "sizes", "style", "features", "style_weight")


def require_choice(name: str, value: str, allowed: Sequence[str] | None = None) -> None:
    """Raise UsageError unless `value` is an allowed value of the option `name`.

    allowed: by default CHOICES[name].
    """
    allowed = allowed or CHOICES[name]
    if value not in allowed:
        raise UsageError(f"{flag(name)} is one of {', '.join(allowed)}, not {value!r}{near(str(value), allowed)}")


def near_option(name: str, names: Collection[str]) -> str:
    """Return a hint at the option that is meant by a name of another library, or else at the one that is spelt alike."""
    other = OPTIONS_BY_OTHER_NAMES.get(name.lower().replace("-", "_"))
    return f" (here it is {other!r})" if other in names else near(name, names)


def flag(name: str) -> str:
    """Return the command-line flag of a field: "--bad-rows" for "bad_rows"."""
    return f"--{name.replace('_', '-')}"


def splits_into_heads(width: int, heads: int) -> bool:
    """Return whether `heads` attention heads divide `width` into even widths, which rotary position embeddings need."""
    return width % (2 * heads) == 0


def _option(default: Any, text: str, rank: Rank = "") -> Any:
    """Declare a dataclass field with its default and its help text.

    rank: "common" for what help shows first, "rare" for what it shows only when all options are asked for.
    """
    return field(default=default, metadata={"help": text, "rank": rank})


@dataclass(frozen=True)
class TextFormat:
    """Describe how text files are read, where the user says it.

    encoding: the encoding of text files; None for the one that a byte order mark names, or else UTF-8.
    delimiter: the character between the cells of csv and tsv files, or "tab"; None for the one that the file itself names
        (`sep=;`, its header, or its suffix).
    Raises UsageError for a delimiter of other than one character.
    """

    encoding: str | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is None:
            return
        delimiter = DELIMITERS.get(self.delimiter, self.delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n\0':
            raise UsageError(
                f"--delimiter is one character, such as ';', or tab, and no quote or line end, not {delimiter!r}"
            )
        object.__setattr__(self, "delimiter", delimiter)


# A file is read as it says itself.
DEFAULT_FORMAT = TextFormat()


@dataclass(frozen=True)
class RowPolicy:
    """Say which rows are left out, where the user allows it, and which belong together. Raises UsageError for a bad value.

    bad_rows: "stop" raises an error for an unreadable row, "skip" leaves it out. most_skipped: the largest share of skipped rows.
    unlabelled: what happens to rows without a label: "stop" takes them for unreadable ones, "drop" leaves them out, "predict"
        leaves them out and answers them at the end.
    is_set_by_user: whether the command has these options, so that messages can name them.
    group: the columns of rows that belong together, "none", or None to find them where a kind comes in groups.
    """

    bad_rows: str = "stop"
    most_skipped: float = MAX_SKIPPED
    unlabelled: str = "stop"
    is_set_by_user: bool = True
    group: str | None = None

    def __post_init__(self) -> None:
        require_choice("bad_rows", self.bad_rows)
        require_choice("unlabelled", self.unlabelled)
        if not 0 < self.most_skipped <= 1:
            raise UsageError(f"--most-skipped is a share above 0 and up to 1, not {self.most_skipped}")


# Any unreadable row is an error.
STOP_AT_BAD_ROWS = RowPolicy()


@cache
def field_types(group: type[OptionGroup]) -> dict[str, Any]:
    """Return the types of a group's fields by name; cached, because evaluating annotations takes milliseconds."""
    return get_type_hints(group)


# Groups are not compared or printed, and generating these methods for each would slow every start of the command line.
@dataclass(frozen=True, repr=False, eq=False)
class OptionGroup:
    """Base class of groups of options, which converts NumPy numbers to Python numbers and checks all values.

    title: the heading of the group in help texts.
    """

    title = ""

    def __post_init__(self) -> None:
        self._convert_numbers()
        self._require_texts()
        self._check()

    def _require_texts(self) -> None:
        """Raise UsageError for a value that is neither a text nor a path in a field for texts, such as the name of a column."""
        for name, hint in field_types(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if hint not in (str, str | None) or name in NOT_ONLY_TEXT or (value is None and hint is not str):
                continue
            if not isinstance(value, str | PurePath):
                what = "the name of a column" if name in ("weight", "time", "group") else "a text"
                raise UsageError(f"{flag(name)} is {what}, not of the type {type(value).__name__}")

    def _check(self) -> None:
        """Raise UsageError for a value that an option cannot have; subclasses add checks of their own fields."""
        for entry in fields(self):
            if entry.name in CHOICES:
                require_choice(entry.name, getattr(self, entry.name))

    def _convert_numbers(self) -> None:
        """Convert NumPy numbers to Python numbers, which JSON can hold.

        Raises UsageError for a value that is no number in a field for numbers.
        """
        for name, hint in field_types(type(self)).items():  # type: ignore[arg-type]
            value, is_whole = getattr(self, name), hint in (int, int | None)
            if not (is_whole or hint in (float, float | None)) or (value is None and isinstance(None, hint)):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral if is_whole else Real):
                raise UsageError(f"{flag(name)} is {'a whole number' if is_whole else 'a number'}, not {value!r}")
            # The only method of setting a field of a frozen dataclass.
            object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    def _require_positive(self, *names: str) -> None:
        """Raise UsageError unless each of these fields is None or a finite number above 0."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{flag(name)} must be a number above 0, not {value}")


@dataclass(frozen=True, repr=False, eq=False)
class OptimizationOptions(OptionGroup):
    """Options of the optimisation: number of steps, learning rate, trained weights, method."""

    title = "The training"

    steps: int | None = _option(None, "Train for this many updates.")
    epochs: float | None = _option(None, "Train for this many passes over the rows.", rank="common")
    minutes: float | None = _option(
        None, "Train for about this long: the number of steps is fixed after a short calibration.", rank="common"
    )
    batch: int | None = _option(None, "Examples per update.", rank="common")
    rate: float | None = _option(None, "Peak learning rate.", rank="common")
    optimizer: Optimizer = _option(
        "auto", "auto: Muon for weights that begin random, AdamW for published ones.", rank="rare"
    )
    method: Method = _option(
        "auto",
        "How a starting model is fitted: all weights (full), a linear probe, a probe and then all weights, or supervised "
        "contrastive learning before a probe (contrast). linear uses no starting model: a linear model of the words and "
        "characters of a text (TF-IDF), or of the edges and colours of a picture, in "
        "seconds. auto measures which is best, or chooses by the number of labels.",
        rank="common",
    )
    lora: int | None = _option(
        None, "Train low-rank updates of this rank (LoRA) and keep the starting model's weights fixed."
    )
    freeze: str | None = _option(
        None, "Keep the starting model's embeddings and this many of its lowest layers fixed; or `all` of it."
    )
    layer_decay: float = _option(1.0, "Ratio of each layer's learning rate to that of the layer above it.", rank="rare")
    smooth: float = _option(
        0.0,
        "Label smoothing: share of each label spread over all classes in the loss. New models that write texts: 0.1.",
        rank="rare",
    )
    average: bool | None = _option(
        None,
        "End with the average of the weights of the last fifth of the steps; the default in pretraining.",
        rank="rare",
    )
    balance: bool = _option(
        False,
        "Answer as if all classes were equally frequent: rare ones are found more often, at the price of false alarms.",
    )
    class_weights: str | None = _option(
        None,
        "What a mistake on each class costs, as spam=5,ham=1 or a file of such weights; other classes cost 1. balanced: the "
        "inverse of each class's share of the rows, which is --balance.",
    )
    metric: str | None = _option(
        None,
        "The metric of the held-out rows by which the best weights are chosen and training ends early, such as macro_f1, "
        "recall@1 or wer: any that is printed for them. By default the share of wrong answers, or the loss.",
    )
    patience: int = _option(
        3,
        "Evaluations of the held-out rows without improvement before the learning rate falls and training ends.",
        rank="rare",
    )

    def _check(self) -> None:
        super()._check()
        if self.freeze is not None:
            object.__setattr__(self, "freeze", str(self.freeze))
            if self.freeze != "all" and not self.freeze.isdecimal():
                raise UsageError(f"--freeze is a number of layers, or all, not {self.freeze!r}")
        lengths = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise UsageError(f"give one of --steps, --epochs and --minutes, not {' and '.join(map(flag, lengths))}")
        self._require_positive("steps", "epochs", "minutes", "batch", "rate", "patience", "lora")
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"--layer-decay is a share above 0 and up to 1, not {self.layer_decay}")
        if not 0 <= self.smooth < 1:
            raise UsageError(f"--smooth is a share from 0 to below 1, not {self.smooth}")
        self._check_class_weights()

    def _check_class_weights(self) -> None:
        """Turn weights of classes that Python gives as a dict into text; raise UsageError for wrong ones."""
        weights: Any = self.class_weights
        if isinstance(weights, Mapping):
            weights = json.dumps({str(name): weight for name, weight in weights.items()}, ensure_ascii=False)
            object.__setattr__(self, "class_weights", weights)
        if weights is None:
            return
        if not isinstance(weights, str):
            raise UsageError(f"--class-weights are weights by class, as spam=5,ham=1, or balanced, not {weights!r}")
        if self.balance:
            raise UsageError("--balance and --class-weights both weigh the classes: give one of them")
        if weights != BALANCED and parse_class_weights(weights) is None and not Path(weights).expanduser().is_file():
            raise UsageError(
                f"--class-weights {weights!r}: neither balanced, nor weights by class as spam=5,ham=1, nor a file"
                f"{near(weights, (BALANCED,))}"
            )

    @property
    def is_balanced(self) -> bool:
        """Return whether all classes get the same total weight (`--balance`, `--class-weights balanced`)."""
        return self.balance or self.class_weights == BALANCED


@dataclass(frozen=True, repr=False, eq=False)
class ModelOptions(OptionGroup):
    """Options of a new model's architecture, of its vocabulary, and of the size of its inputs."""

    title = "The model"

    layers: int | None = _option(None, "Layers of a new model.")
    width: int | None = _option(None, "Width of a new model.")
    heads: int | None = _option(None, "Attention heads of a new model.", rank="rare")
    architecture: Architecture = _option(
        "auto",
        "How texts are answered: by a new model that writes them, prefix (one stack reads the source and the answer behind "
        "it) or encoder-decoder (half of the layers read the source, the others write the answer); or along a sound, "
        "character by character (ctc, the default for `sound -> text` unless the starting model has a decoder of texts).",
    )
    vocabulary: int | None = _option(None, "Tokens of a new vocabulary.")
    words: str | None = _option(
        None, "A file of words, one per line, to add to the vocabulary of the starting model.", rank="rare"
    )
    length: int | None = _option(None, "Longest example in tokens; the fitted model reads as much of longer ones.")
    size: int | None = _option(
        None,
        "Read pictures whole, scaled to at most this many pixels per side; by default as the starting model does, or up to 224.",
    )

    def _check(self) -> None:
        super()._check()
        self._require_positive("layers", "width", "heads", "vocabulary", "length", "size")
        if self.width and self.heads and not splits_into_heads(self.width, self.heads):
            raise UsageError(f"--width {self.width} does not split into {self.heads} heads of an even width")


@dataclass(frozen=True, repr=False, eq=False)
class DataOptions(OptionGroup):
    """Options for reading, cutting, augmenting and holding out rows."""

    title = "What is read"

    long: Long = _option(
        "auto", "What happens to longer examples: cut off, cut into windows, or an error.", rank="rare"
    )
    bad_rows: BadRows = _option(
        "stop",
        "Stop before the first step, or skip unreadable rows (see --most-skipped) and list them in rejected.csv.",
    )
    most_skipped: float = _option(
        MAX_SKIPPED, "Largest share of the rows that --bad-rows skip leaves out.", rank="rare"
    )
    unlabelled: Unlabelled = _option(
        "stop",
        "Rows without a label: stop, drop (they are counted), or predict (after the fit they are answered in unlabelled.csv).",
    )
    augment: str = _option(
        "auto",
        "How training rows are varied. Pictures and videos: moved a little (auto), also mirrored (mirror); pictures: two of "
        "many operations (rand), or a recoloured crop (crop, auto with simclr); sounds: another voice and loudness, with bands "
        "and moments covered (spec, auto); none. How they are mixed with other rows and "
        "their answers: blended (mixup), one pasted into the other (cutmix), four side by side (mosaic). Join one of each "
        "with +: crop+mixup.",
    )
    hold_out: float | None = _option(
        None, "Share of the rows held out from training, to choose the best weights by and to score at the end."
    )
    group: str | None = _option(
        None,
        "Columns such as speaker, with commas: rows with an equal cell are held out together, and intervals resample them. "
        "none: no column; by default columns of recordings are found by their names (speaker, dialogue, file, sentence, ...).",
    )
    time: str | None = _option(
        None,
        "A column of dates or numbers: the latest rows are held out, as the model will be used on rows of later times.",
    )
    weight: str | None = _option(
        None,
        "A column of numbers of at least 0: a row of weight 2 counts in the loss like two equal rows, one of 0 not at all. The "
        "model does not read it.",
    )
    fold_labels: bool = _option(
        False,
        "Write labels that look alike (case, spaces, invisible characters, 1 and 1.0) in one way: the commonest.",
        rank="rare",
    )
    language: str | None = _option(
        None,
        "Starts that recognize speech in several languages: the language that is spoken, such as cs; by default the one "
        "that the start hears in a few of the rows.",
    )
    task: str | None = _option(
        None,
        "Starts that recognize speech in several languages: transcribe or translate (into English); by default the one "
        "that the texts of the rows are likelier for.",
    )
    encoding: str | None = _option(None, "Encoding of text files that are neither UTF-8 nor UTF-16.")
    delimiter: str | None = _option(
        None, "The character between the cells of csv files, such as ';', or tab.", rank="rare"
    )

    @property
    def text_format(self) -> TextFormat:
        """Return how the text files of the run are read."""
        return TextFormat(self.encoding, self.delimiter)

    @property
    def row_policy(self) -> RowPolicy:
        """Return which rows of the run's data are left out."""
        return RowPolicy(self.bad_rows, self.most_skipped, self.unlabelled, group=self.group)

    def _check(self) -> None:
        super()._check()
        TextFormat(self.encoding, self.delimiter)
        RowPolicy(self.bad_rows, self.most_skipped, self.unlabelled)
        if self.time is not None and self.group is not None:
            raise UsageError("--time holds out the latest rows, and --group whole groups: give one of them")
        if self.hold_out is not None and not 0 <= self.hold_out < 1:
            raise UsageError(f"--hold-out is a share from 0 to below 1, not {self.hold_out}")
        names = self.augment.split("+")
        for name in names:
            require_choice("augment", name, (*AUGMENTATIONS, *MIXTURES))
        if any(sum(name in group for name in names) > 1 for group in (AUGMENTATIONS, MIXTURES)):
            raise UsageError(f"--augment joins one way to vary rows and one to mix them, not {self.augment!r}")

    @property
    def augmentation(self) -> str:
        """Return the part of `augment` that names an augmentation: "crop" of "crop+mixup"; "auto" if it names none."""
        return next((name for name in self.augment.split("+") if name in AUGMENTATIONS), "auto")

    @property
    def mixture(self) -> str | None:
        """Return the part of `augment` that names a method of mixing rows: "mixup" of "crop+mixup"; None if it names none."""
        return next((name for name in self.augment.split("+") if name in MIXTURES), None)


@dataclass(frozen=True, repr=False, eq=False)
class ObjectiveOptions(OptionGroup):
    """Options of the training objective: what is hidden and predicted in pretraining, and extra losses for generated pictures."""

    title = "The objective"

    objective: ObjectiveName = _option(
        "masked",
        "What pretraining predicts: masked tokens; each token from those before it (causal); both (hybrid); which tokens a "
        "generator replaced (replaced, ELECTRA); patches, by a small decoder behind the model (mae); or which two views show "
        "the same picture (simclr).",
    )
    hide: float | None = _option(
        None,
        "Share of the tokens that `~` hides (text 0.3, sounds 0.4, pictures 0.6, videos 0.75); it falls to half late in "
        "training. With mae 0.75, for videos 0.9, throughout.",
    )
    shape: MaskShape = _option(
        "token",
        "What is hidden together: single tokens, whole words (in a video: one place in all frames), spans of words, blocks.",
    )
    style: str | None = _option(
        None, "For `image -> image`: a picture whose style the answers take. Needs --features, and no pairs."
    )
    features: str | None = _option(
        None, "The folder of the pretrained network that --style compares pictures with: a VGG, ResNet or DINOv2."
    )
    style_weight: float = _option(
        1.0, "Weight of the style in the loss; the content of the source weighs 1.", rank="rare"
    )
    sizes: str | None = _option(
        None,
        "For `<->`: sizes of vectors that can be searched as well, such as 384,128: the first numbers of each vector are "
        "trained to be a shorter vector (Matryoshka).",
    )
    adversarial: float = _option(
        0.0,
        "Weight of an adversarial loss: a network trained alongside tells generated pictures from real ones. 0: none.",
        rank="rare",
    )

    def _check(self) -> None:
        super()._check()
        if self.hide is not None and not 0 < self.hide < 1:
            raise UsageError(f"--hide is a share between 0 and 1, not {self.hide}")
        if self.style is not None and self.features is None:
            raise UsageError(
                "--style compares pictures by the features of a pretrained network: name its folder with --features"
            )
        if self.style is None and (self.features is not None or self.style_weight != 1):
            raise UsageError("--features and --style-weight would change nothing without --style")
        if self.sizes is not None and not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", self.sizes):
            raise UsageError(f"--sizes are whole numbers with commas, such as 384,128, not {self.sizes!r}")
        if not 0 < self.style_weight < math.inf:
            raise UsageError(f"--style-weight must be a number above 0, not {self.style_weight}")
        if not 0 <= self.adversarial < math.inf:
            raise UsageError(f"--adversarial is a weight of at least 0, not {self.adversarial}")

    @property
    def vector_sizes(self) -> tuple[int, ...]:
        """Return the numbers in `sizes`, the largest first; empty without it."""
        return () if self.sizes is None else tuple(sorted(set(map(int, self.sizes.split(","))), reverse=True))

    @property
    def hides(self) -> bool:
        """Return whether the objective hides tokens of the sources behind `~`; simclr does not."""
        return self.objective != "simclr"


@dataclass(frozen=True, repr=False, eq=False)
class RunOptions(OptionGroup):
    """Options of the run itself: seed, device, processes, checkpoints and logs."""

    title = "Many processes"

    seed: int = _option(0, "Everything random is a function of it.")
    save_every: int | None = _option(None, "Steps between checkpoints.", rank="rare")
    precision: str = _option("auto", "bf16 or fp32. auto: bf16 where the hardware accelerates it.")
    device: str = _option("auto", "auto, cpu, cuda or mps.")
    workers: int = _option(1, "Threads that prepare batches ahead; they never change the result.", rank="rare")
    shard: bool = _option(False, "Under torchrun: each process keeps only a part of every weight (FSDP2).", rank="rare")
    track: TrackerName = _option(
        "none",
        "The experiment tracker that gets numbers, options, pages and the model; each is an extra of its name.",
        rank="rare",
    )

    def _check(self) -> None:
        super()._check()
        self._require_positive("save_every")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--seed is a number from 0 to {LARGEST_SEED}, not {self.seed}")
        if not 0 <= self.workers <= MOST_THREADS:
            raise UsageError(f"--workers is a number from 0 to {MOST_THREADS}, not {self.workers}")


# Dataclasses collect fields from the last base to the first, so the fields of OptimizationOptions come first.
@dataclass(frozen=True)
class Options(RunOptions, ObjectiveOptions, DataOptions, ModelOptions, OptimizationOptions):
    """All options of a run. A value of None is replaced by one chosen for the data and the starting model.

    Raises UsageError for a value that an option cannot have, and for options that exclude each other.
    """

    def __new__(cls, *values: Any, **fields_by_name: Any) -> Options:
        """Return a new object. Raises UsageError for a name that no option has, with the one that is meant."""
        names = [entry.name for entry in fields(cls)]
        for name in fields_by_name:
            if name not in names:
                raise UsageError(f"no option {name!r}{near_option(name, names)}")
        return super().__new__(cls)

    def _check(self) -> None:
        super()._check()
        if self.words is not None and self.lora is not None:
            raise UsageError(
                "an adapter (--lora) fits the vocabulary of its starting model; add --words in a separate run first"
            )

    def require_use(self, corrupted: bool) -> None:
        """Raise UsageError if an option is set that the run would ignore.

        corrupted: whether the arrow hides parts of a source with `~` (pretraining).
        """
        default = Options()
        ignored: dict[str, tuple[str, ...]] = {"an arrow with `~` has no use for it": NOT_FOR_HIDING}
        if not corrupted:
            ignored = {"without `~` nothing is hidden": FOR_HIDING}
        elif not self.hides:
            ignored[f"--objective {self.objective} hides nothing"] = ("hide", "shape")
        for reason, names in ignored.items():
            if flags := [flag(name) for name in names if getattr(self, name) != getattr(default, name)]:
                raise UsageError(f"{', '.join(flags)} would change nothing: {reason}")

    def flags(self) -> list[str]:
        """Return the command-line arguments for the options that differ from their defaults."""
        default, words = asdict(Options()), []
        for name, value in asdict(self).items():
            if value != default[name]:
                words += (
                    [flag(name if value else f"no_{name}")] if isinstance(value, bool) else [flag(name), str(value)]
                )
        return words

    def differing(self, recorded: dict[str, Any]) -> list[str]:
        """Return the names of the fields that differ from those of a recorded run, except FREE_FIELDS, which change no result.

        recorded: the options of that run by name.
        """
        return sorted(
            name for name, value in asdict(self).items() if name not in FREE_FIELDS and recorded.get(name) != value
        )


def option_groups() -> list[type[OptionGroup]]:
    """Return the groups of options, in the order of their fields."""
    return [OptimizationOptions, ModelOptions, DataOptions, ObjectiveOptions, RunOptions]


register_keywords({entry.name: () for entry in fields(Options)})
for keyword_words in (FUNCTION_KEYWORDS, CHOICES, FIELD_WORDS):
    register_keywords(keyword_words, SWITCHES)


class OptionFields(TypedDict, total=False):
    """The types of the fields of Options, for type checking of keywords of `fit`, `pretrain` and `compare`."""

    steps: int | None
    epochs: float | None
    minutes: float | None
    batch: int | None
    rate: float | None
    optimizer: Optimizer
    method: Method
    lora: int | None
    freeze: str | None
    layer_decay: float
    smooth: float
    average: bool | None
    balance: bool
    class_weights: str | None
    metric: str | None
    patience: int
    layers: int | None
    width: int | None
    heads: int | None
    architecture: Architecture
    vocabulary: int | None
    words: str | None
    length: int | None
    size: int | None
    long: Long
    bad_rows: BadRows
    most_skipped: float
    unlabelled: Unlabelled
    augment: str
    hold_out: float | None
    group: str | None
    time: str | None
    weight: str | None
    fold_labels: bool
    language: str | None
    task: str | None
    encoding: str | None
    delimiter: str | None
    objective: ObjectiveName
    hide: float | None
    shape: MaskShape
    style: str | None
    features: str | None
    style_weight: float
    sizes: str | None
    adversarial: float
    seed: int
    save_every: int | None
    precision: str
    device: str
    workers: int
    shard: bool
    track: TrackerName
