"""`mapsto export`: write a model to a file that other runtimes open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Delimiter, Encoding, Json, Model, app
from mapsto.options import TextFormat


@app.command(epilog="Example: mapsto export runs/clf --to onnx --out clf.onnx")
def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, with the ending .onnx; .xml for OpenVINO.")],
    to: Annotated[str, typer.Option(help="onnx (fp32), int8 (ONNX), or openvino (fp32).")] = "onnx",
    rows: Annotated[
        Path | None,
        typer.Option(help="Rows like those it will read, to check it on; by default those that its fit held out."),
    ] = None,
    agreement: Annotated[
        float, typer.Option(help="int8: the smallest share of rows with the same answer as in fp32.")
    ] = 0.99,
    kept_rows: Annotated[
        int,
        typer.Option(
            help="Keep the tokens of so many rows in the file, to check it on other processors; 0 keeps none."
        ),
    ] = 4,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
) -> None:
    """Write a model to a file for ONNX Runtime or OpenVINO, after its answers were checked on rows of yours."""
    from mapsto.cli.output import announce_output, print_json, print_status, read_table_with_notes
    from mapsto.data.files import join_paths
    from mapsto.export.export import ExportSettings, export_mapping, require_output
    from mapsto.pretrained.model_folder import load_mapping

    settings = ExportSettings(to, agreement, kept_rows)
    require_output(out, settings)
    announce_output(out)
    mapping = load_mapping(model)
    table = None if rows is None else read_table_with_notes(join_paths([rows]), TextFormat(encoding, delimiter))
    exported = export_mapping(mapping, out, table, settings, print_status)
    if json:
        print_json(exported.to_json())
        return
    for line in exported.lines():
        print_status(line)
