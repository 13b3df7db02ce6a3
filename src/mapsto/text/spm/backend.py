"""Make a tokenizer of the `tokenizers` library that splits texts as sentencepiece does, from a sentencepiece model.

Unigram (Kudo 2018) takes the likeliest segmentation of a text; BPE (Sennrich et al. 2016) merges pieces in the order of their
scores. A text is normalised, a blank is put before it, and every blank becomes "▁", which may be part of a piece.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from mapsto.text.spm.model_proto import ModelType, PieceType, SpmModel, SpmPiece

BLANK, MASK = "▁", "<mask>"
# Blanks at both ends of a text, and all but the first of several.
EXTRA_BLANKS = r"\A +| +\z|(?<= ) +"
# Number of blanks that are removed from the beginning of a decoded text, if extra ones are removed.
MOST_BLANKS = 1024
# A user-defined piece scores this much below the best piece for each of its bytes, so that it is always taken.
USER_DEFINED_BONUS = 0.1
# The beginning of the name of a byte, such as "<0x41>", in a text.
BYTE_NAME = "<(?=0x[0-9A-F]{2}>)"


def make_backend(model: SpmModel, special: Iterable[str]) -> tokenizers.Tokenizer:
    """Return the tokenizer of a sentencepiece model, without special tokens around texts.

    special: names of the special tokens, which texts may contain by name. Other control pieces are in no text.
    """
    names = dict.fromkeys(special)
    pieces = [_unmatched(piece) if piece.text not in names else piece for piece in model.pieces]
    if model.type == ModelType.UNIGRAM:
        backend = tokenizers.Tokenizer(_unigram(model, pieces))
    else:
        backend = tokenizers.Tokenizer(_bpe(model, pieces))
    rules = _normalizers(model)
    if rules:
        backend.normalizer = normalizers.Sequence(rules)
    backend.pre_tokenizer = pre_tokenizers.Sequence(_pre_tokenizers(model, pieces))
    backend.decoder = _decoder(model)
    backend.add_special_tokens(
        # A blank before a mask belongs to it.
        [AddedToken(name, lstrip=name == MASK, special=True, normalized=False) for name in names]
    )
    return backend


def _pre_tokenizers(model: SpmModel, pieces: Sequence[SpmPiece]) -> list[pre_tokenizers.PreTokenizer]:
    """Return the steps that split a normalised text before pieces are looked up."""
    # Words begin at a blank, unless pieces reach across one.
    is_split = all(BLANK not in piece.text[1:] for piece in pieces)
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Metaspace(BLANK, "never", is_split)]
    if symbols := _symbols(model):
        longest_first = "|".join(map(re.escape, sorted(symbols, key=len, reverse=True)))
        steps.append(pre_tokenizers.Split(Regex(longest_first), "isolated"))
    if model.byte_fallback and model.type == ModelType.UNIGRAM:
        # Such a name in a text is no byte.
        steps.append(pre_tokenizers.Split(Regex(BYTE_NAME), "isolated"))
    return steps


def _symbols(model: SpmModel) -> list[str]:
    """Return the user-defined pieces of a BPE model, which no merges make."""
    is_bpe = model.type == ModelType.BPE
    return [piece.text for piece in model.pieces if is_bpe and piece.type == PieceType.USER_DEFINED]


def _unmatched(piece: SpmPiece) -> SpmPiece:
    """Return a piece that no text contains, of the same id, for one that stands for no text; else the piece itself."""
    if piece.type in (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.UNUSED):
        # Texts have no blanks any more where pieces are looked up.
        return SpmPiece(f" {piece.text}", piece.score, piece.type)
    return piece


def _unigram(model: SpmModel, pieces: Sequence[SpmPiece]) -> models.Unigram:
    """Return the model of the likeliest segmentation."""
    scores = [piece.score for piece in pieces if piece.type == PieceType.NORMAL] or [0.0]
    lowest, highest = min(scores), max(scores)

    def score(piece: SpmPiece) -> float:
        if piece.type == PieceType.USER_DEFINED:
            return max(lowest, len(piece.text.encode()) * highest - USER_DEFINED_BONUS)
        # The library takes the lowest score of all pieces for that of unknown characters.
        return piece.score if piece.type == PieceType.NORMAL else max(lowest, min(0.0, piece.score))

    return models.Unigram(
        [(piece.text, score(piece)) for piece in pieces], unk_id=model.unknown_id, byte_fallback=model.byte_fallback
    )


def _bpe(model: SpmModel, pieces: Sequence[SpmPiece]) -> models.BPE:
    """Return the model of merges: of every two pieces that make a third one, those with the highest score first."""
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    merged = {piece.text: piece.score for piece in pieces if piece.type == PieceType.NORMAL}
    merges = [
        (-value, ids[text[:place]], ids[text[place:]], text[:place], text[place:])
        for text, value in merged.items()
        for place in range(1, len(text))
        if text[:place] in merged and text[place:] in merged
    ]
    return models.BPE(
        ids,
        [(first, second) for *_, first, second in sorted(merges)],
        unk_token=pieces[model.unknown_id].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        # A symbol is looked up as it is. Other pieces are what their merges make.
        ignore_merges=bool(_symbols(model)),
    )


def _normalizers(model: SpmModel) -> list[normalizers.Normalizer]:
    """Return the steps by which a text is normalised before it is split."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        if "nfkc" in model.rules:
            # The library applies the rules to single characters where several make one, as in decomposed Korean.
            steps.append(normalizers.NFC())
            steps += [normalizers.Replace(pair, character) for pair, character in _voiced_kana(model)]
        if model.rules.startswith("nmt") and not model.removes_blanks:
            steps.append(normalizers.Replace("\r\n", "  "))
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.removes_blanks:
        steps.append(normalizers.Replace(Regex(EXTRA_BLANKS), ""))
    if model.adds_prefix:
        steps.append(normalizers.Prepend(BLANK))
    return steps


def _voiced_kana(model: SpmModel) -> list[tuple[str, str]]:
    """Return (two half-width characters, the voiced Japanese one that they make), if the model tells these apart."""
    if not model.byte_fallback and not any("ァ" <= character <= "ヿ" for p in model.pieces for character in p.text):
        return []
    pairs = [chr(base) + mark for base in range(0xFF66, 0xFF9E) for mark in "ﾞﾟ"]
    voiced = [(pair, unicodedata.normalize("NFKC", pair)) for pair in pairs]
    return [(pair, character) for pair, character in voiced if len(character) == 1]


def _decoder(model: SpmModel) -> decoders.Decoder:
    """Return the decoder: pieces become texts and bytes characters, and the blank before the text is removed."""
    steps = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.adds_prefix or model.removes_blanks:
        steps.append(decoders.Strip(" ", MOST_BLANKS if model.removes_blanks else 1, 0))
    return decoders.Sequence(steps)
