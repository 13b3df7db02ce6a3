"""`mapsto serve`: models as an HTTP service, with a page to try them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Device, ExportedEngine, Host, Log, Port, Precision, app
from mapsto.errors import UsageError

MISSING = "serving needs further packages: pip install 'mapsto[serve]'"


@app.command(epilog="Example: mapsto serve runs/clf --port 8000")
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs or models, exported files, or hf:user/name; NAME=FOLDER gives one another name."
        ),
    ],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="MAPSTO_KEY", help="What requests must present: Authorization: Bearer KEY.", show_envvar=True
        ),
    ] = None,
    origins: Annotated[
        list[str] | None, typer.Option(help="Web pages of this origin may call the service; may be repeated.")
    ] = None,
    files: Annotated[Path | None, typer.Option(help="Requests may name files below this folder.")] = None,
    among: Annotated[Path | None, typer.Option(help="A table in which the first model searches: /find.")] = None,
    examples: Annotated[
        int | None,
        typer.Option(help="Test rows that the page offers; by default 6, or 0 where other machines can connect."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="The most seconds of a request; X-Timeout asks for fewer.")] = 30.0,
    queue_tokens: Annotated[
        int, typer.Option(help="With more estimated tokens waiting, requests are refused (429).")
    ] = 65_536,
    max_body: Annotated[float, typer.Option(help="The largest body of a request, in MB.")] = 32.0,
    max_rows: Annotated[int, typer.Option(help="The most rows of a request.")] = 1000,
    memory: Annotated[
        float | None, typer.Option(help="GB of weights in memory; further models are opened when they are asked for.")
    ] = None,
    log: Log = "lines",
    device: Device = "auto",
    precision: Precision = "auto",
    engine: ExportedEngine = "local",
) -> None:
    """Serve models over HTTP: predict, embed, explain, generate and more, with a page to try them at /."""
    from mapsto.cli.output import print_status
    from mapsto.device import keep_memory

    try:
        from mapsto.serve.server import run_server
        from mapsto.serve.settings import ServeSettings
    except ImportError as error:
        raise UsageError(f"{MISSING} ({error.name} is not here)") from error
    keep_memory()
    settings = ServeSettings(
        host, port, key or None, timeout, queue_tokens, int(max_body * 2**20), max_rows, files, among, examples,
        tuple(origins or ()), None if memory is None else int(memory * 2**30), log, device, precision, engine,
    )  # fmt: skip
    run_server(models, settings, print_status)
