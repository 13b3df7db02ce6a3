"""Words of transcripts are found from their tokens, with the times of these."""

import itertools

import numpy as np
import pytest
import torch

from mapsto.errors import UsageError
from mapsto.inference.word_times import token_ends, warp
from mapsto.task.generation import Decoding
from mapsto.text.tokenizer import Tokenizer
from mapsto.text.transcripts.words import find_words

TEXTS = ["Hello, world! It is 5 o'clock.", "你好，世界！今天天气真好。", "Ahoj, světe – jak se máš?"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    # So few tokens that words, and Chinese characters, take several.
    return Tokenizer.train(TEXTS, 280, "bytes")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXTS[0], ["Hello,", "world!", "It", "is", "5", "o'clock."]),
        (TEXTS[1], ["你", "好，", "世", "界！", "今", "天", "天", "气", "真", "好。"]),
        (TEXTS[2], ["Ahoj,", "světe –", "jak", "se", "máš?"]),
        ("", []),
    ],
)
def test_words_have_the_times_of_their_tokens(tokenizer: Tokenizer, text: str, expected: list[str]) -> None:
    (ids,) = tokenizer.encode_literally([text])
    # With tokens of times around, as a recognizer writes them.
    tokens = [1000, *ids.tolist(), 1001]
    words = find_words(tokenizer, tokens, list(map(float, range(len(tokens) + 1))), tokenizer.size)
    assert [word["text"] for word in words] == expected
    # Each word begins where the one before ends, and together they take the tokens between those of times.
    assert all(one["end"] == other["start"] for one, other in itertools.pairwise(words))
    assert not words or (words[0]["start"], words[-1]["end"]) == (1.0, len(tokens) - 1.0)


def test_the_path_follows_what_tokens_attend_to() -> None:
    """Three tokens that attend to the first, the middle and the last tenth of a sound, and noise."""
    weights = 0.01 * torch.rand(2, 3, 60, generator=torch.Generator().manual_seed(0))
    for token, place in enumerate((0, 20, 40)):
        weights[:, token, place : place + 20] += 1
    assert np.abs(token_ends(weights) - [0, 20, 40]).max() <= 1
    rows, columns = warp(np.array([[0.0, 9, 9], [9, 0, 0]]))
    assert rows.tolist() == [0, 1, 1] and columns.tolist() == [0, 1, 2]


def test_words_need_times() -> None:
    with pytest.raises(UsageError, match="says when each word is said, beside the phrases of"):
        Decoding(words=True)
