"""The vocabularies of published families around a sentencepiece model: which ids its pieces have, and further tokens.

A family is known by tokenizer_class in tokenizer_config.json, or else by model_type in config.json. The layouts are those of the
tokenizers of `transformers`:

- T5: behind the pieces the sentinels <extra_id_99> … <extra_id_0>; a text ends with </s>.
- fairseq (XLM-R, mBART): <s>, <pad>, </s>, <unk>, then the pieces from the fourth on, the languages of mBART, and <mask>.
- Llama: the pieces as they are; a text begins with <s>.
- else: the pieces as they are, and no token around a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from mapsto.errors import CheckpointError
from mapsto.text.spm.backend import MASK, make_backend
from mapsto.text.spm.model_proto import PieceType, SpmModel, SpmPiece, read_model

# File names of a sentencepiece model in published folders, in the order in which they are looked for.
FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model", "spm.model")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
FAIRSEQ_ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
# The languages of mBART-25, and those that mBART-50 has more, in the order of their ids.
LANGUAGES = (
    *(
        "ar_AR",
        "cs_CZ",
        "de_DE",
        "en_XX",
        "es_XX",
        "et_EE",
        "fi_FI",
        "fr_XX",
        "gu_IN",
        "hi_IN",
        "it_IT",
        "ja_XX",
        "kk_KZ",
    ),
    *("ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN"),
)
MORE_LANGUAGES = (
    *(
        "af_ZA",
        "az_AZ",
        "bn_IN",
        "fa_IR",
        "he_IL",
        "hr_HR",
        "id_ID",
        "ka_GE",
        "km_KH",
        "mk_MK",
        "ml_IN",
        "mn_MN",
        "mr_IN",
    ),
    *(
        "pl_PL",
        "ps_AF",
        "pt_XX",
        "sv_SE",
        "sw_KE",
        "ta_IN",
        "te_IN",
        "th_TH",
        "tl_XX",
        "uk_UA",
        "ur_PK",
        "xh_ZA",
        "gl_ES",
    ),
    "sl_SI",
)
DEFAULT_LANGUAGE = "en_XX"
NUM_SENTINELS = 100
# The stem of the tokenizer's class for each model_type.
CLASSES = {
    "t5": "T5",
    "mt5": "T5",
    "xlm-roberta": "XLMRoberta",
    "mbart": "MBart",
    "llama": "Llama",
}
PLAIN = ("", "PreTrained", "TokenizersBackend")


def open_spm(file: Path, config: dict[str, Any], model_config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return the tokenizer of a sentencepiece model in the layout of its family, and add its special tokens to `config`.

    config: the tokenizer's settings. model_config: content of config.json; {} for none.
    Raises CheckpointError if the file is damaged, or the family does more than sentencepiece.
    """
    model = read_model(file)
    stem = _class_stem(config, model_config)
    if stem in ("T5", "MT5"):
        return _open_t5(model, config, model_config)
    if stem in ("XLMRoberta", "MBart", "MBart50"):
        return _open_fairseq(file, model, config, stem)
    if stem != "Llama" and stem not in PLAIN:
        raise CheckpointError(
            f"{file}: tokenizers of the class {stem}Tokenizer change texts before sentencepiece reads them, or number its pieces "
            "anew, and only T5, XLM-R, mBART, Llama and plain ones are read without tokenizer.json; write one by "
            f"transformers.AutoTokenizer.from_pretrained({str(file.parent)!r}).save_pretrained({str(file.parent)!r})"
        )
    _set_roles(config, {role: model.pieces[number].text for role, number in model.roles})
    special = [piece.text for piece in model.pieces if piece.type in (PieceType.UNKNOWN, PieceType.CONTROL)]
    backend = make_backend(model, special)
    opening = [role_name(config, "bos_token")] if stem == "Llama" and config.get("add_bos_token", True) else []
    closing = [role_name(config, "eos_token")] if stem == "Llama" and config.get("add_eos_token") else []
    _set_frame(backend, list(filter(None, opening)), list(filter(None, closing)))
    return backend


def role_name(config: Mapping[str, Any], role: str) -> str | None:
    """Return the name of the special token for a role in the settings of a tokenizer; None if they name none."""
    token = config.get(role)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _class_stem(config: Mapping[str, Any], model_config: Mapping[str, Any]) -> str:
    """Return the name of the tokenizer's class in transformers, without "Tokenizer" and "Fast"; "" if none is known."""
    stated = str(config.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    # A generic class says nothing about a file that it does not read.
    return stated if stated not in PLAIN else CLASSES.get(str(model_config.get("model_type")), "")


def _open_t5(model: SpmModel, config: dict[str, Any], model_config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return the tokenizer of T5: sentinels behind the pieces, and </s> behind a text."""
    count, room = config.get("extra_ids"), model_config.get("vocab_size")
    if count is None:
        # Without a setting there are 100, but for the vocabulary of mT5, which has no room for them.
        is_full = isinstance(room, int) and room < len(model.pieces) + NUM_SENTINELS
        count = 0 if is_full else NUM_SENTINELS
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
        raise CheckpointError(f"tokenizer_config.json: extra_ids is the number of sentinels, not {count!r}")
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(count))]
    _set_roles(config, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
    special = [piece.text for piece in model.pieces if piece.type in (PieceType.UNKNOWN, PieceType.CONTROL)]
    backend = make_backend(_extended(model, sentinels), [*special, *sentinels])
    _set_frame(backend, [], ["</s>"])
    return backend


def _open_fairseq(file: Path, model: SpmModel, config: dict[str, Any], stem: str) -> tokenizers.Tokenizer:
    """Return the tokenizer of XLM-R, mBART-25 or mBART-50, whose ids are those of fairseq.

    stem: "XLMRoberta", "MBart" or "MBart50".
    """
    if [piece.type for piece in model.pieces[:3]] != [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL]:
        raise CheckpointError(f"{file}: the first pieces of this family are <unk>, <s> and </s>")
    begin = [SpmPiece(name, 0.0, PieceType.UNKNOWN if name == "<unk>" else PieceType.CONTROL) for name in FAIRSEQ]
    languages = {"MBart": LANGUAGES, "MBart50": (*LANGUAGES, *MORE_LANGUAGES)}.get(stem, ())
    renumbered = replace(model, pieces=(*begin, *model.pieces[3:]))
    backend = make_backend(_extended(renumbered, [*languages, MASK]), [*FAIRSEQ, *languages, MASK])
    _set_roles(config, FAIRSEQ_ROLES)
    if stem == "XLMRoberta":
        _set_frame(backend, ["<s>"], ["</s>"], ["</s>"])
        return backend
    language = config.get("src_lang") or DEFAULT_LANGUAGE
    if language not in languages:
        raise CheckpointError(
            f"{file}: src_lang of tokenizer_config.json is none of {', '.join(languages)}: {language!r}"
        )
    _set_frame(backend, *(([], ["</s>", language]) if stem == "MBart" else ([language], ["</s>"])))
    return backend


def _extended(model: SpmModel, names: Sequence[str]) -> SpmModel:
    """Return a model with further special tokens behind its pieces."""
    return replace(model, pieces=(*model.pieces, *(SpmPiece(name, 0.0, PieceType.CONTROL) for name in names)))


def _set_roles(config: dict[str, Any], roles: Mapping[str, str]) -> None:
    """Add special tokens to the settings of a tokenizer that name none for their roles, and let others read it unchanged."""
    for role, name in roles.items():
        config.setdefault(role, name)
    config.setdefault("clean_up_tokenization_spaces", False)
    # The classes of families would build the tokenizer anew, from the settings that they know.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"


def _set_frame(
    backend: tokenizers.Tokenizer, opening: Sequence[str], closing: Sequence[str], joining: Sequence[str] = ()
) -> None:
    """Set the special tokens around a text, and between two texts. opening, closing, joining: their names."""
    names = dict.fromkeys([*opening, *closing, *joining])
    backend.post_processor = processors.TemplateProcessing(
        single=[*opening, "$A", *closing],
        pair=[*opening, "$A", *closing, *joining, "$B", *closing],
        special_tokens=[(name, backend.token_to_id(name)) for name in names],
    )
