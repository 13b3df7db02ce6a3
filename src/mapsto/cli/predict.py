"""`mapsto predict` and `mapsto embed`: compute a model's answers for the rows of a table, or embedding vectors of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mapsto.cli.app import (
    CsvSafe,
    Delimiter,
    Device,
    Encoding,
    ExportedEngine,
    Input,
    Json,
    Model,
    Precision,
    Texts,
    app,
)
from mapsto.cli.prediction.live import is_pipe, is_recording, stream_recording
from mapsto.cli.prediction.subtitles import is_subtitles, write_subtitles
from mapsto.errors import UsageError, printable
from mapsto.options import TextFormat, require_choice

if TYPE_CHECKING:
    from mapsto.cli.prediction.answers import InputRows, OutputStyle
    from mapsto.inference.table_engine import Engine
    from mapsto.task.generation import Decoding

# Engines of this process, and of many.
ENGINES = ("local", "ray", "onnx", "openvino")

Long = Annotated[
    str,
    typer.Option(
        help="What happens to texts longer than the model takes: cut, window (read in parts), or error. auto: window for "
        "tags, cut for other answers."
    ),
]

AnswersOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="csv, jsonl or parquet; by default csv on the screen. A folder for answers that are pictures or "
        "sounds, .srt or .vtt for subtitles.",
    ),
]
Scores = Annotated[bool, typer.Option("--scores", help="Write the probability of every class, each to a column.")]
ReplaceFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file at --out that is no earlier output for these rows.")
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Print generated answers while they are written, one line for each row; and what is said in a recording while it "
        "grows, or comes through a pipe (-).",
    ),
]
Raw = Annotated[
    int | None,
    typer.Option(
        help="With --stream: the recording is samples of 16 bits without a header, at this rate, such as 16000."
    ),
]
Draw = Annotated[
    Path | None, typer.Option(help="A folder for copies of the pictures with the answers, such as boxes, drawn in.")
]

# Settings of decoding, for answers that are generated token by token; --beams, --times and
# --language-model also for transcripts by CTC.
Beams = Annotated[
    int | None,
    typer.Option(help="Generated answers, and transcripts: keep this many beginnings at each step (beam search)."),
]
Samples = Annotated[int | None, typer.Option(help="Generated answers: draw this many at random for each row.")]
Temperature = Annotated[float | None, typer.Option(help="With --samples: below 1, likely tokens become likelier.")]
TopP = Annotated[
    float | None, typer.Option(help="With --samples: draw from the likeliest tokens with this probability.")
]
Language = Annotated[
    str | None, typer.Option(help="Recognizers of several languages: the language that is spoken, such as cs.")
]
Task = Annotated[
    str | None,
    typer.Option(help="Recognizers of several languages: transcribe (what is said) or translate (its English)."),
]
Times = Annotated[
    bool,
    typer.Option(
        "--times",
        help="Recordings: say when each phrase is said (Whisper), or each word (CTC). --out talk.srt or .vtt does too.",
    ),
]
Words = Annotated[
    bool, typer.Option("--words", help="Whisper: as --times, and when each word is said; subtitles then show words.")
]
Longest = Annotated[int | None, typer.Option(help="Generated answers: at most this many tokens.")]
Answers = Annotated[
    Path | None, typer.Option(help="Generated answers: each is one of the lines of this text file, exactly.")
]
Schema = Annotated[
    Path | None,
    typer.Option(help="Generated answers: JSON that this JSON Schema (a file) describes (the extra `schema`)."),
]
LanguageModel = Annotated[
    Path | None,
    typer.Option(
        help="Transcripts by CTC: prefer spellings as in the lines of this text file, by a language model of its characters."
    ),
]

# Answers that are left blank, and values that are made instead of answers.
MinConfidence = Annotated[
    float,
    typer.Option(help="Leave answers of a lower confidence blank; `mapsto evaluate` shows what that gains."),
]
Reject = Annotated[
    float,
    typer.Option(
        help="Leave answers blank where the row is less familiar than all but this share of the training rows: 0.05."
    ),
]
Hide = Annotated[
    float | None,
    typer.Option(
        help="For pretrained models: hide this share of each value and fill it in. Pictures go to the folder --out."
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        help="For models of sounds: say what the recordings say in the voice of the recordings here (kNN-VC)."
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        help="For models pretrained on pictures: fill in what is not black in this picture of the same size, or in "
        "the picture of the same name in this folder."
    ),
]


@app.command(epilog="Example: mapsto predict runs/clf new.csv --out answers.csv")
def predict(
    model: Model,
    data: Input = None,
    text: Texts = None,
    out: AnswersOut = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
    csv_safe: CsvSafe = False,
    scores: Scores = False,
    overwrite: ReplaceFile = False,
    long: Long = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process. ray: all cores, or the cluster that RAY_ADDRESS names (the extra `ray`). onnx, openvino: "
            "this process, with a file of `mapsto export` in ONNX Runtime or OpenVINO (the extras `export`, `openvino`)."
        ),
    ] = "local",
    min_confidence: MinConfidence = 0.0,
    reject: Reject = 0.0,
    beams: Beams = None,
    samples: Samples = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    longest: Longest = None,
    language: Language = None,
    task: Task = None,
    times: Times = False,
    words: Words = False,
    answers: Answers = None,
    schema: Schema = None,
    language_model: LanguageModel = None,
    seed: Annotated[int, typer.Option(help="Seed of --samples.")] = 0,
    stream: Stream = False,
    raw: Raw = None,
    draw: Draw = None,
    hide: Hide = None,
    like: Like = None,
    mask: Mask = None,
) -> None:
    """Answer every row of a table, or each --text, with a model; write the rows with their answers, in order."""
    from mapsto.cli.output import announce_output
    from mapsto.cli.prediction.answers import InputRows, OutputStyle
    from mapsto.cli.prediction.fill_in import fill_in
    from mapsto.data.files import join_paths
    from mapsto.data.writers import require_folder, require_output_path
    from mapsto.device import keep_memory
    from mapsto.files import read_json
    from mapsto.inference.predictor import Predictor
    from mapsto.pretrained.model_folder import load_mapping

    keep_memory()
    inputs = InputRows(join_paths(data) if data else None, text, TextFormat(encoding, delimiter))
    live = is_recording(data)
    if not (live and stream) and (raw is not None or is_pipe(data)):
        raise UsageError("a pipe (-), and --raw, are for recordings that are read while they are made: add --stream")
    # Before the model is opened, so that a wrong path costs no time. Texts and subtitles are no tables.
    if out is not None and (is_subtitles(out) or (live and stream)):
        require_folder(out)
    else:
        require_output_path(out)
    require_output_path(draw)
    announce_output(out)
    if like is not None:
        others = (
            hide, mask, draw, beams, samples, temperature, top_p, longest, language, task, answers, schema, language_model,
        )  # fmt: skip
        if stream or json or times or engine != "local" or any(option is not None for option in others):
            raise UsageError(
                "--like makes recordings; leave out --hide, --mask, --draw, --stream, --json, --engine and settings of decoding"
            )
        _convert_voice(model, like, inputs, out, device, precision, overwrite)
        return
    if hide is not None or mask is not None:
        fill_in(Predictor(load_mapping(model), device, precision), inputs, out, hide, mask, overwrite)
        return
    decoding = make_decoding(
        beams=beams, samples=samples, temperature=temperature, top_p=top_p, longest=longest, seed=seed,
        language=language, task=task, times=times or words or is_subtitles(out) or None,
        words=words or None,
        answers=answers and _read_texts(answers, encoding), schema=schema and read_json(schema),
        language_model=language_model and _read_texts(language_model, encoding),
    )  # fmt: skip
    answering = _open_engine(engine, model, device, precision, long, min_confidence, reject, decoding)
    if stream:
        if (out is not None and not live) or json or draw is not None:
            raise UsageError("--stream prints answers while they are written; leave --out, --json and --draw out")
        stream_recording(answering, data[0], raw, out) if live and data else _stream(answering, inputs)
    elif is_subtitles(out):
        write_subtitles(answering, inputs, out)
    else:
        style = OutputStyle(csv_safe=csv_safe, scores=scores, overwrite=overwrite)
        _write(answering, inputs, out, draw, json, style)


def _convert_voice(
    model: str, like: Path, inputs: InputRows, out: Path | None, device: str, precision: str, overwrite: bool
) -> None:
    """Write each input recording in the voice of the recordings `like` to a WAV file in the folder `out`.

    model: the folder or hub name of a model of sounds. like: a folder, a file or a table of recordings of one voice.
    overwrite: whether files with other content are replaced.
    """
    from mapsto.cli.output import print_note
    from mapsto.cli.prediction.answers import report_counts, require_folder, write_answer_files
    from mapsto.inference.output_files import AnswerWriter
    from mapsto.inference.voice_conversion import VoiceConverter
    from mapsto.pretrained.model_folder import load_mapping

    folder = require_folder(out)
    converter = VoiceConverter(load_mapping(model), str(like), device, precision)
    for note in converter.notes:
        print_note(note)
    report_counts(write_answer_files(AnswerWriter(converter, folder, overwrite), inputs), 0)


def make_decoding(**settings: Any) -> Decoding | None:
    """Return the settings of decoding that the user gave; None if there are none but a seed.

    settings: fields of Decoding; None for a field that was not given. Raises UsageError for a wrong value.
    """
    from mapsto.task.generation import Decoding

    values = {name: value for name, value in settings.items() if value is not None}
    return Decoding(**values) if set(values) - {"seed"} else None


def _read_texts(path: Path, encoding: str | None) -> list[str]:
    """Return the lines of a text file, such as the allowed answers.

    Raises DataError for a file that cannot be decoded, or is empty.
    """
    from mapsto.data.formats.text_lines import read_lines

    return [line.strip() for line in read_lines(path, encoding)]


def _stream(engine: Engine, inputs: InputRows) -> None:
    """Print the generated answer to each input row while it is written. Raises UsageError for an engine that cannot."""
    from mapsto.cli.output import print_note
    from mapsto.inference.predictor import Predictor

    if not isinstance(engine, Predictor):
        raise UsageError("--stream is for --engine local")
    for row in engine.stream(inputs.source(engine.arrow), inputs.text_format):
        try:
            for part in row:
                typer.echo(printable(part), nl=False)
        except UsageError as error:
            typer.echo(printable(f"error: {error}"), nl=False)
        typer.echo("")
    if engine.cut_rows:
        print_note(f"{engine.cut_rows} rows are longer than the model takes and were cut (see --long)")


def _open_engine(name: str, model: str, *settings: Any) -> Engine:
    """Open a model for prediction and return the engine that answers rows with it.

    name: "local" for this process, "ray" for processes on a Ray cluster, "onnx" or "openvino" for this process and an exported
        file alone.
    model: a model folder, an exported file or a hub name.
    settings: device, precision, treatment of long rows, smallest confidence of an answer, smallest familiarity of a row, and
        settings of decoding, in this order.
    """
    from mapsto.cli.output import print_note
    from mapsto.inference.predictor import Predictor
    from mapsto.inference.ray_engine import RayEngine
    from mapsto.pretrained.model_folder import load_mapping

    require_choice("engine", name, ENGINES)
    if name == "ray":
        return RayEngine(model, *settings)
    predictor = Predictor(load_mapping(model, name), *settings)
    for note in predictor.notes:
        print_note(note)
    return predictor


def _write(
    engine: Engine, inputs: InputRows, out: Path | None, draw: Path | None, json: bool, style: OutputStyle
) -> None:
    """Answer every input row, and write the answers to a table or the screen, or to a folder if answers are files.

    out: the table file or folder; None for the screen. json: print JSON lines on the screen, not csv.
    style: how a table is written.
    draw: folder for copies of the input images with answers, such as boxes, drawn in; None for no copies.
    """
    from mapsto import kinds
    from mapsto.cli.prediction.answers import report_counts, require_folder, write_answer_files, write_answers
    from mapsto.data.writers import require_writable
    from mapsto.inference.output_files import AnswerWriter, DrawingWriter, FileWriter, are_files
    from mapsto.task.capabilities import FileBacked

    arrow = engine.arrow
    restores_all = all(port.restores is not None for port in arrow.targets)
    if restores_all and issubclass(kinds.source(arrow.sources[0].kind), FileBacked):
        raise UsageError(f"{arrow} fills in what is hidden: say what to hide, with --hide 0.5 or --mask")
    is_file = are_files(arrow)
    if any(is_file):
        engine, out = AnswerWriter(engine, require_folder(out), style.overwrite), None
    elif out is not None:
        require_writable(out)
    if draw is not None:
        engine = DrawingWriter(engine, draw, style.overwrite)
    # A table is only needed for answers that fit into cells.
    is_file_only = bool(is_file) and all(is_file)
    if is_file_only and isinstance(engine, FileWriter):
        counts = write_answer_files(engine, inputs)
    else:
        counts = write_answers(engine, inputs, out, json, style)
    report_counts(counts, engine.cut_rows, " (see --long)")


@app.command(epilog="Example: mapsto embed runs/base texts.csv --out vectors.parquet")
def embed(
    model: Model,
    data: Input = None,
    text: Texts = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="parquet, jsonl or csv: the rows with a column `vector`; by default csv on the screen.",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="first, mean or normed_mean; by default the model's own."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: ExportedEngine = "local",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
    csv_safe: CsvSafe = False,
    overwrite: ReplaceFile = False,
) -> None:
    """Compute a vector for every row of a table, in order: for search, clustering or models of your own."""
    from mapsto.cli.output import announce_output
    from mapsto.cli.prediction.answers import InputRows, OutputStyle, report_counts, write_answers
    from mapsto.data.files import join_paths
    from mapsto.data.writers import require_writable
    from mapsto.device import keep_memory
    from mapsto.inference.embedder import Embedder
    from mapsto.pretrained.model_folder import load_mapping

    keep_memory()
    inputs = InputRows(join_paths(data) if data else None, text, TextFormat(encoding, delimiter))
    if out is not None:
        require_writable(out)
    announce_output(out)
    embedder = Embedder(load_mapping(model, engine), device, precision, pooling)
    style = OutputStyle(("jsonl", "parquet"), csv_safe, overwrite=overwrite)
    counts = write_answers(embedder, inputs, out, json, style)
    report_counts(counts, embedder.cut_rows)
