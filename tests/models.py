"""Small published models with random weights, made by `transformers`, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)

from mapsto.tokenizer import Tokenizer

TEXTS = [
    "The river runs past the old mill.",
    "今天天气真好！",
    "A short one.",
    "It was the best of times, it was the worst of times, it was the age of wisdom and of foolishness too.",
    "服务员态度很差，房间也不干净，下次不会再来了。",
    "Yes",
]
LABELS = ["negative", "neutral", "positive"]
# A family, or a variant of one behind a colon.
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96},
    "roberta": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96},
    "xlm-roberta": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "type_vocab_size": 1,
    },
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 96},
    "modernbert": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "local_attention": 8,
        "max_position_embeddings": 256,
    },
    "electra": {
        "embedding_size": 32,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "hidden_act": "relu",
    },
    "electra:one width": {
        "embedding_size": 64,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
    },
    "albert": {
        "embedding_size": 32,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 96,
    },
    "albert:one width": {
        "embedding_size": 64,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "hidden_act": "gelu",
    },
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 2},
    "xlm:languages": {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "n_langs": 3, "gelu_activation": False},
    "xlm:sinusoids": {"emb_dim": 64, "n_layers": 2, "n_heads": 2, "sinusoidal_embeddings": True, "use_lang_emb": False},
}
# Families that read pictures.
VISION: dict[str, dict[str, Any]] = {
    "vit": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "image_size": 32,
        "patch_size": 8,
    },
    "dinov2": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": 40,
        "patch_size": 8,
        "layerscale_value": 0.7,
    },
    "dinov2_with_registers": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 40,
        "patch_size": 8,
        "num_register_tokens": 3,
    },
}
# Families whose hidden patches a decoder puts back.
DECODED: dict[str, dict[str, Any]] = {
    "vit_mae": {
        **VISION["vit"],
        "decoder_hidden_size": 48,
        "decoder_num_hidden_layers": 4,
        "decoder_num_attention_heads": 3,
        "decoder_intermediate_size": 80,
    },
}
CLASSES = {
    "body": AutoModel,
    "text": AutoModelForMaskedLM,
    "label": AutoModelForSequenceClassification,
    "pairs": AutoModelForPreTraining,
}


def make_tokenizer(family: str, folder: Path) -> None:
    """A tokenizer of the family's style, trained on a few texts."""
    texts = TEXTS * 20
    if family not in ("roberta", "xlm-roberta", "xlm"):
        Tokenizer.train(texts, 300).save(folder)
        return
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.save(str(folder / "tokenizer.json"))
    roles = {"cls": "<s>", "bos": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    named = ", ".join(f'"{role}_token": "{token}"' for role, token in roles.items())
    (folder / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "PreTrainedTokenizerFast", {named}}}')


def make_model(shape: str, task: str, folder: Path, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """A reference model with random weights, saved in `folder` with its tokenizer; gradients and biases all alive."""
    family = shape.split(":")[0]
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(family, folder)
    tokenizer = Tokenizer.open(folder)
    given = {"vocab_size": tokenizer.size, "pad_token_id": tokenizer.pad_id, **SHAPES[shape], **changes}
    if task == "label":
        given |= {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    if family == "modernbert":
        given |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(seed)
    model: torch.nn.Module = CLASSES[task].from_config(
        AutoConfig.for_model(family, **given), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.tie_weights()
    model.eval().save_pretrained(folder)
    return model
