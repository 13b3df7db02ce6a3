"""Make sound files of every format for tests, by soundfile, PyAV and by hand."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.demo.made_sounds import make_recordings, make_voices

RATE, SECONDS, PITCH = 16_000, 1.0, 440.0

# Formats of soundfile: name, container, encoding and byte order.
SOUNDFILE = {
    "wav-16": ("WAV", "PCM_16", None),
    "wav-8": ("WAV", "PCM_U8", None),
    "wav-24": ("WAV", "PCM_24", None),
    "wav-32": ("WAV", "PCM_32", None),
    "wav-float": ("WAV", "FLOAT", None),
    "wav-double": ("WAV", "DOUBLE", None),
    "wav-ulaw": ("WAV", "ULAW", None),
    "wav-alaw": ("WAV", "ALAW", None),
    "wav-adpcm": ("WAV", "MS_ADPCM", None),
    "wav-extensible": ("WAVEX", "PCM_16", None),
    "wav-rf64": ("RF64", "PCM_16", None),
    "wav-big": ("WAV", "PCM_16", "BIG"),
    "aiff": ("AIFF", "PCM_16", None),
    "aiff-float": ("AIFF", "FLOAT", None),
    "aiff-little": ("AIFF", "PCM_16", "LITTLE"),
    "au": ("AU", "PCM_16", None),
    "au-ulaw": ("AU", "ULAW", None),
    "nist": ("NIST", "PCM_16", None),
    "caf": ("CAF", "PCM_16", None),
    "w64": ("W64", "PCM_16", None),
    "flac": ("FLAC", "PCM_16", None),
    "flac-24": ("FLAC", "PCM_24", None),
    "vorbis": ("OGG", "VORBIS", None),
    "opus": ("OGG", "OPUS", None),
    "mp3": ("MP3", "MPEG_LAYER_III", None),
}
# Formats of PyAV: name, container, codec and rate.
PYAV = {
    "m4a": ("ipod", "aac", RATE),
    "mp4": ("mp4", "aac", RATE),
    "alac": ("mov", "alac", RATE),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "pcm_s16le", RATE),
    "wma": ("asf", "wmav2", 44_100),
    "amr": ("amr", "libopencore_amrnb", 8_000),
    "aac": ("adts", "aac", RATE),
    "ogg-flac": ("ogg", "flac", RATE),
    "avi": ("avi", "mp3", RATE),
}

# Formats that are streams, so that two files are read as one. Of aac nothing tells that they were two.
READ_JOINED = {"mp3", "flac", "flac-24", "vorbis", "opus", "aac"}


def write_words(folder: Path, each: int = 4) -> Path:
    """Write recordings of two made words in three voices as WAV, in one folder for each word.

    Beside the folder, voices.csv names them and their speakers.
    """
    import soundfile

    words, voices = ("ma-ta", "su-mi"), [f"voice {number}" for number in range(3)]
    made = [
        (row, name)
        for name, voice in zip(voices, make_voices(3, 0), strict=True)
        for row in make_recordings([voice], each, 0)
    ]
    rows = [row for row, _ in made if row["label"] in words]
    speakers = {id(row): name for row, name in made}
    table = ["sound,speaker"]
    for word in ("ma-ta", "su-mi"):
        (folder / word).mkdir(parents=True)
        for i, row in enumerate(row for row in rows if row["label"] == word):
            path = folder / word / f"{i:03}.wav"
            soundfile.write(path, row["sound"]["array"], row["sound"]["sampling_rate"])
            table.append(f"{path.relative_to(folder.parent)},{speakers[id(row)]}")
    (folder.parent / "voices.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return folder


def tone(rate: int = RATE, seconds: float = SECONDS, pitch: float = PITCH, channels: int = 1) -> Any:
    """Return a sine (n, c) with half of full scale."""
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)
    return np.stack([wave] * channels, 1).astype(np.float32)


def by_soundfile(samples: Any, rate: int, container: str, encoding: str, order: str | None = None) -> bytes:
    """Return samples (n, c) as a file of soundfile."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=encoding, endian=order)
    return stream.getvalue()


def by_pyav(samples: Any, rate: int, container: str, codec: str, video: bool = False, sound: bool = True) -> bytes:
    """Return samples (n, c) as a file of PyAV, with a black video if `video`, without the sound unless `sound`."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        picture = file.add_stream("mpeg4", rate=10) if video else None
        track = file.add_stream(codec, rate=rate) if sound else None
        if track is not None:
            track.layout = "mono" if samples.shape[1] == 1 else "stereo"
            if codec in ("wmav2", "aac"):
                track.bit_rate = 64_000
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
            for _ in range(round(10 * len(samples) / rate)):
                black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                file.mux(picture.encode(black))
            file.mux(picture.encode())
        if track is not None:
            _encode(file, track, samples, rate)
    return stream.getvalue()


def _encode(file: Any, track: Any, samples: Any, rate: int) -> None:
    """Encode samples (n, c) into a track, in frames of its codec's size."""
    import av

    layout = "mono" if samples.shape[1] == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    if not track.codec_context.is_open:
        track.codec_context.open()
    resampler = av.AudioResampler(format=track.codec_context.format, layout=layout, rate=rate)
    queue = av.AudioFifo()
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        queue.write(part)
    size = track.codec_context.frame_size or 1024
    while (part := queue.read(size)) is not None:
        file.mux(track.encode(part))
    if (part := queue.read(0, partial=True)) is not None:
        file.mux(track.encode(part))
    file.mux(track.encode())


class Pipe(io.RawIOBase):
    """A stream that can be written once from start to end, as a pipe or a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.content += bytes(part)
        return len(part)


def remux(content: bytes, container: str, start: float = 0.0, live: bool = False, **options: str) -> bytes:
    """Return the sound of a file in another container, without encoding it again.

    start: the time of the first sample in seconds. live: write into a pipe, so that no length is known. options: of the muxer.
    """
    import av

    target = Pipe() if live else io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(target, "w", format=container, options=options) as copy:
        track = copy.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                offset = round(start / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, track
                copy.mux(packet)
    return bytes(target.content) if isinstance(target, Pipe) else target.getvalue()


def make(name: str, **how: Any) -> bytes:
    """Return a tone in the format of this name."""
    if name in SOUNDFILE:
        container, encoding, order = SOUNDFILE[name]
        rate = how.pop("rate", RATE)
        return by_soundfile(tone(rate, **how), rate, container, encoding, order)
    container, codec, rate = PYAV[name]
    assert how.pop("rate", rate) == rate
    return by_pyav(tone(rate, **how), rate, container, codec)


def pitch_of(samples: Any, rate: int) -> float:
    """Return the frequency in Hz of the strongest part of samples (n,)."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return float(spectrum.argmax() * rate / (8 * len(samples)))


def wav(samples: Any, rate: int = RATE, **fields: Any) -> bytes:
    """Return integers (n, c) of 16 bits as a WAV file, with fields of its header replaced: size, data, tag, channels, rate."""
    pcm = np.asarray(samples, "<i2").tobytes()
    channels = fields.get("channels", np.shape(samples)[1])
    form = struct.pack(
        "<4sIHHIIHH",
        b"fmt ",
        16,
        fields.get("tag", 1),
        channels,
        fields.get("rate", rate),
        2 * rate * channels & 0xFFFFFFFF,
        2 * channels & 0xFFFF,
        16,
    )
    head = struct.pack("<4sI4s", b"RIFF", fields.get("size", 36 + len(pcm)), b"WAVE")
    return head + form + struct.pack("<4sI", b"data", fields.get("data", len(pcm))) + pcm


def voice(speaker: int, take: int, seconds: float = 0.3, rate: int = 8000) -> Any:
    """Return samples (n, 1) of a made voice: harmonics of a pitch, louder near two formants, which the speaker sets.

    take: sets the melody, the loudness and the noise, which differ between recordings of one speaker.
    """
    rng = np.random.Generator(np.random.Philox(key=[speaker, take]))
    traits = np.random.Generator(np.random.Philox(key=[speaker, 10**6]))
    pitch, formants = traits.uniform(90, 280), traits.uniform([300, 1200], [900, 3000])
    times = np.arange(round(rate * seconds)) / rate
    bend = 1 + 0.08 * rng.standard_normal() + 0.05 * np.sin(2 * np.pi * rng.uniform(1, 6) * times + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch * bend) / rate
    harmonics = np.arange(1, int(rate / 2 / pitch / 1.2))
    gains = sum(np.exp(-(((harmonics * pitch - formant) / 250) ** 2)) for formant in formants) + 0.02
    wave = (gains[:, None] * np.sin(harmonics[:, None] * phase)).sum(0)
    wave = rng.uniform(0.2, 0.6) * wave / np.abs(wave).max() + 0.01 * rng.standard_normal(len(wave))
    return wave.astype(np.float32)[:, None]


def write_voices(folder: Path, speakers: Sequence[int], takes: int, seconds: float = 0.3) -> list[dict[str, Any]]:
    """Write recordings of made voices to a folder; return a row for each: sound, speaker, digit and sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker in speakers:
        for take in range(takes):
            path = folder / f"{speaker}_{take}.wav"
            path.write_bytes(by_soundfile(voice(speaker, take, seconds), 8000, "WAV", "PCM_16"))
            rows.append(
                {"sound": str(path), "speaker": f"声{speaker}", "digit": str(take % 3), "sentence": f"句 {take}。"}
            )
    return rows


def write_lines(folder: Path) -> None:
    """Write the files of the page on speech from text: a list of recordings without a header, and lines to be spoken."""
    (folder / "voice" / "wavs").mkdir(parents=True)
    texts = ["A man runs.", "Two dogs play.", "She reads a book.", "It rains again."] * 4
    for number, _ in enumerate(texts):
        path = folder / "voice" / "wavs" / f"line-{number}.wav"
        path.write_bytes(by_soundfile(voice(0, number, 1.5), 8000, "WAV", "PCM_16"))
    lines = "".join(f"line-{number}|{text}\n" for number, text in enumerate(texts))
    (folder / "voice" / "metadata.csv").write_text(lines, encoding="utf-8")
    (folder / "lines.txt").write_text("A dog reads.\nShe plays again.\n", encoding="utf-8")


def write_noisy(folder: Path) -> None:
    """Write the files of the page on voices: pairs.csv with recordings with and without noise, talk.wav, and a voice."""
    rng = np.random.default_rng(0)
    table = ["noisy,clean"]
    for name in ("noisy", "clean", "voice"):
        (folder / name).mkdir()
    for number in range(12):
        clean = voice(number % 3, number)
        for name, samples in (("noisy", clean + rng.normal(0, 0.05, clean.shape)), ("clean", clean)):
            (folder / name / f"{number}.wav").write_bytes(by_soundfile(samples, 8000, "WAV", "PCM_16"))
        table.append(f"noisy/{number}.wav,clean/{number}.wav")
    (folder / "pairs.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    for number in range(3):
        (folder / "voice" / f"{number}.wav").write_bytes(by_soundfile(voice(7, number, 1.0), 8000, "WAV", "PCM_16"))
    (folder / "talk.wav").write_bytes(by_soundfile(voice(8, 0, 1.0), 8000, "WAV", "PCM_16"))
