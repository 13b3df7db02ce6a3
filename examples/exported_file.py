"""Classify texts with a file of `mapsto export`, without mapsto: onnxruntime, tokenizers and numpy are enough.

    python exported_file.py clf.onnx "a wonderful film" "今天天气真好！"

For models of the arrow "text -> label". All texts go into one row of the graph, end to end, and nothing is padded.
"""

import json
import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def main(path: str, texts: list[str]) -> None:
    """Print the label of each text and its probability, as a line of JSON."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # The metadata has the small files of the model folder: its tokenizer, and mapsto.json with the classes.
    metadata = session.get_modelmeta().custom_metadata_map
    tokenizer = Tokenizer.from_str(metadata["file:tokenizer.json"])
    target = json.loads(metadata["file:mapsto.json"])["targets"][0]
    classes = target["state"]["classes"]

    examples = [np.array(tokenizer.encode(text).ids, np.int64) for text in texts]
    feeds = pack(examples)
    # A graph has no inputs that it does not read. Further ones ask for further answers, at no token here.
    nothing = np.zeros(0, np.int64)
    inputs = {entry.name: feeds.get(entry.name, nothing) for entry in session.get_inputs()}
    (logits,) = session.run(["label"], inputs)
    for text, row in zip(texts, logits, strict=True):
        probabilities = np.exp(row - row.max())
        probabilities /= probabilities.sum()
        best = int(probabilities.argmax())
        print(
            json.dumps(
                {"text": text, "label": classes[best], "probability": float(probabilities[best])}, ensure_ascii=False
            )
        )


def pack(examples: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Lay the tokens of n examples end to end in one row of t tokens, and say for each token where it belongs."""
    tokens = np.concatenate(examples)
    lengths = np.array([len(example) for example in examples], np.int64)
    owner = np.repeat(np.arange(len(examples)), lengths)  # index of each token's example
    starts = np.cumsum(lengths) - lengths
    return {
        "text_tokens": tokens,  # (t,)
        "text_slots": np.arange(len(tokens)),  # (t,): place of each token among rows × length places
        "segments": owner[None] + 1,  # (1, t): tokens attend within their segment; 0 is padding
        "owner": owner[None],  # (1, t)
        "positions": (np.arange(len(tokens)) - starts[owner])[None, :, None],  # (1, t, 1): place within the example
        "roles": np.zeros((1, len(tokens)), np.int64),  # 0: a token of a source
        "places": np.zeros((1, len(tokens)), np.int64),  # 0: of the first source
        "starts": starts,  # (n,)
        "lengths": lengths,  # (n,)
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
