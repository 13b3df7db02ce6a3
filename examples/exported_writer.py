"""Write the answers of an encoder–decoder with a file of `mapsto export`, without mapsto: onnxruntime, tokenizers and numpy.

    python exported_writer.py translator.onnx "a dog runs" "two men talk"

For models of the arrow "text -> text" with an encoder and a decoder, greedily, one text at a time.
"""

import json
import sys
from collections.abc import Iterator

import numpy as np
import onnxruntime
from exported_file import pack
from tokenizers import Tokenizer


def main(path: str, texts: list[str]) -> None:
    """Print what the model writes for each text, as a line of JSON."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    tokenizer = Tokenizer.from_str(metadata["file:tokenizer.json"])
    settings = json.loads(metadata["file:mapsto.json"])["targets"][0]["state"]
    for text in texts:
        tokens = list(write(session, np.array(tokenizer.encode(text).ids, np.int64), settings))
        print(json.dumps({"text": text, "answer": tokenizer.decode(tokens)}, ensure_ascii=False))


def write(session: onnxruntime.InferenceSession, source: np.ndarray, settings: dict) -> Iterator[int]:
    """Yield the tokens of the answer to a source, the likeliest one at each step."""
    keys, values = run(session, ["keys", "values"], {"is_step": np.array([False]), **pack([source])})
    # (layers, 1, tokens, heads, width) → (layers, 1, heads, tokens, width)
    memory = {"memory_keys": keys.swapaxes(2, 3), "memory_values": values.swapaxes(2, 3)}
    memory["memory_lengths"] = np.array([len(source)])
    # The keys and values of the answer's own tokens, (layers, 1, 1, heads, tokens, width), none at first.
    shape = next(entry.shape for entry in session.get_inputs() if entry.name == "past_keys")
    past_keys = past_values = np.zeros((shape[0], 1, 1, shape[3], 0, shape[5]), np.float32)
    # What begins every answer is read without choosing.
    chosen, given = [], list(settings["opening"])
    while len(chosen) < settings["longest"]:
        token = given.pop(0) if given else chosen[-1]
        inputs = {
            "is_step": np.array([True]), "step_tokens": np.array([[token]]), "past_lengths": np.array([[past_keys.shape[4]]]),
            "past_keys": past_keys, "past_values": past_values, **memory,
        }  # fmt: skip
        logits, keys, values = run(session, ["text", "keys", "values"], inputs)
        # (layers, 1, 1 token, heads, width): the new token's go behind those of the others.
        past_keys = np.concatenate([past_keys, keys[:, :, None].swapaxes(3, 4)], axis=4)
        past_values = np.concatenate([past_values, values[:, :, None].swapaxes(3, 4)], axis=4)
        if given:
            continue
        logits[:, settings["banned"]] = -np.inf
        chosen.append(int(logits[0].argmax()))
        if chosen[-1] in settings["ends"]:
            return
        yield chosen[-1]


def run(session: onnxruntime.InferenceSession, outputs: list[str], inputs: dict) -> list[np.ndarray]:
    """Return some outputs. Inputs of the graph that is not chosen are empty."""
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    feeds = {
        entry.name: inputs.get(
            entry.name, np.zeros([size if isinstance(size, int) else 0 for size in entry.shape], types.get(entry.type))
        )
        for entry in session.get_inputs()
    }
    return session.run(outputs, feeds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
