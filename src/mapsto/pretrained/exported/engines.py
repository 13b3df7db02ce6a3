"""The engines that compute exported graphs, by name, and the choice among them."""

from __future__ import annotations

from pathlib import Path

from mapsto.errors import UsageError
from mapsto.options import require_choice
from mapsto.pretrained.exported.container import SUFFIX, is_exported
from mapsto.pretrained.exported.ir_files import IR_SUFFIX
from mapsto.pretrained.exported.onnx_session import OnnxSession
from mapsto.pretrained.exported.openvino_session import OpenVinoSession

# "local" is for folders, and for exported files the first engine of their form.
LOCAL = "local"
ENGINES: dict[str, type[OnnxSession] | type[OpenVinoSession]] = {"onnx": OnnxSession, "openvino": OpenVinoSession}
# The engines that open a file with this suffix.
ENGINES_OF = {SUFFIX: ("onnx", "openvino"), IR_SUFFIX: ("openvino",)}


def choose_engine(name: str | Path, engine: str) -> str | None:
    """Return the engine, "onnx" or "openvino", that computes the model `name`; None for a model that is no exported file.

    engine: the one that the user names, or "local".
    Raises UsageError for an unknown engine, and for one that does not open this model.
    """
    require_choice("engine", engine, (LOCAL, *ENGINES))
    if not is_exported(name):
        if engine != LOCAL:
            endings = " or ".join(suffix for suffix, names in ENGINES_OF.items() if engine in names)
            raise UsageError(
                f"--engine {engine} takes a file that `mapsto export` wrote, with the ending {endings}, and {name} is none"
            )
        return None
    suffix = Path(name).suffix.lower()
    if engine == LOCAL:
        return ENGINES_OF[suffix][0]
    if engine not in ENGINES_OF[suffix]:
        raise UsageError(
            f"--engine {engine} does not open {name}, which is for OpenVINO alone; export it with --to onnx"
        )
    return engine
