"""`mapsto predict --like`: say what recordings say in the voice of others, without training."""

from __future__ import annotations

from pathlib import Path

from mapsto.cli.answers import InputRows, report_counts, require_folder, write_answer_files
from mapsto.cli.output import print_note
from mapsto.inference.output_files import AnswerWriter
from mapsto.inference.voice_conversion import VoiceConverter
from mapsto.pretrained.model_folder import load_mapping


def convert_voice(model: str, like: Path, inputs: InputRows, out: Path | None, device: str, precision: str) -> None:
    """Write each input recording in the voice of the recordings `like` to a WAV file in the folder `out`.

    model: the folder or hub name of a model of sounds. like: a folder, a file or a table of recordings of one voice.
    """
    folder = require_folder(out)
    converter = VoiceConverter(load_mapping(model), str(like), device, precision)
    for note in converter.notes:
        print_note(note)
    report_counts(write_answer_files(AnswerWriter(converter, folder), inputs), 0)
