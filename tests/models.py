"""Make small models of every published family with random weights, by `transformers`, and save them as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Qwen2Tokenizer,
)

from mapsto.text.tokenizer import Tokenizer

TEXTS = [
    "The river runs past the old mill.",
    "今天天气真好！",
    "A short one.",
    "It was the best of times, it was the worst of times, it was the age of wisdom and of foolishness too.",
    "服务员态度很差，房间也不干净，下次不会再来了。",
    "Yes",
]
# The tolerances of comparisons with `transformers` in fp32.
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
LABELS = ["negative", "neutral", "positive"]
# Families that read sounds, which test_sound_families.py, test_wave_families.py, test_moonshine.py and
# test_spectrogram_families.py hold to laws.
SOUNDS = ("log-mel", "whisper", "wav2vec2", "hubert", "wavlm", "moonshine", "audio-spectrogram-transformer")
# The class names of heads, by task.
HEAD_CLASSES = {"label": LABELS, "tags": ["B-place", "O", "I-place"]}
# Settings of config.json for families that read text. A key is the family's name; a variant follows after a colon.
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
    "llama": {
        **(STACK := {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}),
        "num_attention_heads": 4,
    },
    "llama:grouped": {
        **STACK,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama:linear": {
        **STACK,
        "num_attention_heads": 2,
        "mlp_bias": True,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    },
    "qwen2": {**STACK, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2:one head": {**STACK, "num_attention_heads": 4, "num_key_value_heads": 1},
    "qwen3": {**STACK, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3:biases": {
        **STACK,
        "num_attention_heads": 2,
        "head_dim": 24,
        "attention_bias": True,
        "num_key_value_heads": 2,
    },
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4},
    "gpt2:narrow": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_inner": 96, "activation_function": "relu"},
    "gpt2:own output": {"n_embd": 64, "n_layer": 2, "n_head": 2, "tie_word_embeddings": False},
}
# Encoder–decoders.
BOTH = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_layers": 3}
BOTH |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 40, "max_position_embeddings": 128}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3},
    "t5:gated, two tables": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 40,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
    },
    "mt5": {
        "d_model": 24,
        "d_kv": 4,
        "d_ff": 32,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-silu",
        "tie_word_embeddings": False,
    },
    "bart": BOTH,
    "bart:scaled": {**BOTH, "scale_embedding": True, "activation_function": "relu"},
    "mbart": {**BOTH, "scale_embedding": True},
    "marian": {**BOTH, "scale_embedding": True, "activation_function": "swish"},
    "marian:not scaled": {**BOTH, "d_model": 48},
}
# Families whose tokens see only those before them.
CAUSAL = ("llama", "qwen2", "qwen3", "gpt2")
TOWER = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "patch_size": 8,
}
# Families that read pictures. Of CLIP and SigLIP these are the settings of the picture encoder.
VISION: dict[str, dict[str, Any]] = {
    "vit": {**TOWER, "image_size": 32},
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
    "dinov2:gated": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 3,
        "image_size": 40,
        "patch_size": 8,
        "use_swiglu_ffn": True,
    },
    "dinov2_with_registers:gated": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 40,
        "patch_size": 8,
        "num_register_tokens": 2,
        "use_swiglu_ffn": True,
    },
    "deit": {**TOWER, "image_size": 32},
    "clip": {**TOWER, "image_size": 32},
    "clip:part of a patch is left": {**TOWER, "image_size": 37, "hidden_act": "gelu"},
    "siglip": {**TOWER, "image_size": 32},
}
# Families that read videos.
VIDEOS: dict[str, dict[str, Any]] = {
    "videomae": {**TOWER, "image_size": 32, "num_frames": 4},
    "videomae:first token": {**TOWER, "image_size": 27, "num_frames": 6, "tubelet_size": 3, "use_mean_pooling": False},
}
# Families with a decoder that restores hidden patches.
DECODER = {
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 4,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 80,
}
DECODED: dict[str, dict[str, Any]] = {
    "vit_mae": {**VISION["vit"], **DECODER},
    "videomae": {**VIDEOS["videomae"], **DECODER},
    "videomae:first token": {**VIDEOS["videomae:first token"], **DECODER, "image_size": 24},
}
# Families that predict boxes from learnt query tokens.
DETECTORS: dict[str, dict[str, Any]] = {
    "yolos": {**TOWER, "patch_size": 16, "image_size": [32, 48], "num_detection_tokens": 6},
    "yolos:no mid positions": {
        **TOWER,
        "patch_size": 16,
        "image_size": [48, 70],  # positions exist for whole patches only
        "num_detection_tokens": 5,
        "use_mid_position_embeddings": False,
    },
}
# Convolutional networks. The reference for "vgg" is `Vgg` below, since transformers has none.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"},
    "resnet:bottleneck": {"embedding_size": 8, "hidden_sizes": [16, 32, 64], "depths": [1, 3, 2]},
    "resnet:halved early": {
        "embedding_size": 4,
        "hidden_sizes": [16, 32],
        "depths": [2, 2],
        "downsample_in_first_stage": True,
        "downsample_in_bottleneck": True,
    },
    "convnext": {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2, "layer_scale_init_value": 0.5},
    "convnext:not scaled": {
        "hidden_sizes": [8, 12, 16],
        "depths": [1, 1, 1],
        "num_stages": 3,
        "patch_size": 2,
        "layer_scale_init_value": 0.0,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-6,
    },
    "vgg": {"hidden_sizes": [6, 8, 10], "depths": [1, 2, 2]},
    "vgg:normed": {"hidden_sizes": [6, 10], "depths": [2, 1], "batch_norm": True},
}


class Vgg(torch.nn.Module):
    """VGG (Simonyan & Zisserman 2015) with torchvision's names of weights, and a linear head on the mean of the last grid."""

    def __init__(self, hidden_sizes: list[int], depths: list[int], batch_norm: bool = False, **fields: Any) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for in_channels, out, depth in zip([3, *hidden_sizes], hidden_sizes, depths, strict=False):
            for layer in range(depth):
                layers.append(torch.nn.Conv2d(out if layer else in_channels, out, kernel_size=3, padding=1))
                layers += [torch.nn.BatchNorm2d(out)] if batch_norm else []
                layers.append(torch.nn.ReLU())
            layers.append(torch.nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = torch.nn.Sequential(*layers)
        self.classifier = torch.nn.Linear(hidden_sizes[-1], 3) if "id2label" in fields else None
        self.config = {"hidden_sizes": hidden_sizes, "depths": depths, "batch_norm": batch_norm, **fields}

    def forward(self, pixels: torch.Tensor, output_hidden_states: bool = False) -> dict[str, Any]:
        states = [pixels]
        for layer in self.features:
            states.append(layer(states[-1]))
        outputs = {"last_hidden_state": states[-1], "hidden_states": states}
        return outputs if self.classifier is None else {**outputs, "logits": self.classifier(states[-1].mean((2, 3)))}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "vgg", **self.config}))
        safetensors.torch.save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path, output_loading_info: bool) -> tuple[Vgg, dict[str, list[str]]]:
        model = cls(**json.loads((folder / "config.json").read_text()))
        report = model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=False)
        return model, {"missing_keys": report.missing_keys, "unexpected_keys": report.unexpected_keys}


CLASSES = {
    "body": AutoModel,
    "text": AutoModelForMaskedLM,
    "label": AutoModelForSequenceClassification,
    "tags": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "pairs": AutoModelForPreTraining,
}


def reference_class(shape: str, task: str) -> Any:
    """Return the class of transformers for a task of a family. shape: key of SHAPES. task: key of CLASSES."""
    return AutoModelForCausalLM if task == "text" and shape.split(":")[0] in CAUSAL else CLASSES[task]


def make_tokenizer(family: str, folder: Path) -> None:
    """Train a tokenizer in the family's style on a few texts and save it in `folder`."""
    texts = TEXTS * 20
    if family not in ("roberta", "xlm-roberta", "xlm", *CAUSAL):
        Tokenizer.train(texts, 300).save(folder)
        return
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    if family == "qwen2":  # whose words and normal form transformers takes from its own class, whatever the file says
        own = Qwen2Tokenizer().backend_tokenizer
        backend.pre_tokenizer, backend.normalizer = own.pre_tokenizer, own.normalizer
    # Decoder-only models have no mask token; Llama begins every text, the others frame none.
    special = ["<s>", "<pad>", "</s>", "<unk>", *([] if family in CAUSAL else ["<mask>"])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    roles = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>"}
    if family == "llama":
        backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s>:1 $B:1", [("<s>", 0)])
    elif family in CAUSAL:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        roles |= {"cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    backend.save(str(folder / "tokenizer.json"))
    tokens = ", ".join(f'"{role}_token": "{token}"' for role, token in roles.items())
    (folder / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "PreTrainedTokenizerFast", {tokens}}}')


def make_model(shape: str, task: str, folder: Path, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """Make a model of transformers with random weights and biases; save it in `folder` with its tokenizer and return it.

    shape: key of SHAPES. task: key of CLASSES. changes: settings of config.json that differ from SHAPES.
    """
    family = shape.split(":")[0]
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(family, folder)
    tokenizer = Tokenizer.open(folder)
    settings = {"vocab_size": tokenizer.size, "pad_token_id": tokenizer.pad_id, **SHAPES[shape], **changes}
    if names := HEAD_CLASSES.get(task):
        settings |= {"id2label": dict(enumerate(names)), "label2id": {label: i for i, label in enumerate(names)}}
    if family in CAUSAL:
        settings |= {"bos_token_id": 0, "eos_token_id": 2}
    if family == "modernbert":
        settings |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(seed)
    model: torch.nn.Module = reference_class(shape, task).from_config(
        AutoConfig.for_model(family, **settings), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.tie_weights()
    model.eval().save_pretrained(folder)
    return model


def pad_texts(folder: Path, texts: list[str]) -> Any:
    """Return texts tokenized by the tokenizer of transformers, padded to the longest one."""
    return AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
