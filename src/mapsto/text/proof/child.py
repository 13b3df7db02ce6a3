"""Open a tokenizer and encode sample texts in a process of limited memory and time; run as a script by `process.prove`.

Standard input: a line of JSON with "memory" (bytes), "seconds" and "samples" (texts), then the content of a tokenizer.json.
Standard output: a line of JSON, {"reason": null} for a tokenizer that can be used, else the reason why it cannot.
"""

import json
import resource
import sys


def main() -> None:
    """Prove the tokenizer on standard input."""
    request = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import tokenizers  # within the limits, as all that it does

    reason = None
    try:
        backend = tokenizers.Tokenizer.from_str(sys.stdin.buffer.read().decode())
        for text in request["samples"]:
            backend.decode(backend.encode(text).ids)
        backend.get_vocab(with_added_tokens=True)
    except MemoryError:
        reason = "it needs too much memory"
    except BaseException as error:  # a panic of the Rust library is no Exception
        reason = str(error) or type(error).__name__
    print(json.dumps({"reason": reason}))


if __name__ == "__main__":
    main()
