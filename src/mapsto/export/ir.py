"""The graph of a mapping in OpenVINO's intermediate representation (IR), made of its graph in ONNX.

OpenVINO's converter of torch programs is not used: it lacks an operation of pooling (`index_add`, version 2026.4). From ONNX it
takes all of them, and fuses attention all the same.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from mapsto.errors import UsageError
from mapsto.pretrained.exported.container import Graph
from mapsto.pretrained.exported.ir_files import weights_path
from mapsto.pretrained.exported.openvino_session import first_line, import_openvino


def convert_to_ir(model: bytes) -> Graph:
    """Return an ONNX model in OpenVINO's form, with weights in fp32 and the same names of inputs and outputs.

    Raises UsageError without the package openvino, and for a model that it cannot convert.
    """
    openvino = import_openvino()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.xml"
        try:
            # By default weights are rounded to fp16.
            openvino.save_model(openvino.Core().read_model(model), path, compress_to_fp16=False)
        except RuntimeError as error:
            raise UsageError(f"OpenVINO does not convert the graph of this model: {first_line(error)}") from error
        return Graph(path.read_bytes(), weights_path(path).read_bytes())
