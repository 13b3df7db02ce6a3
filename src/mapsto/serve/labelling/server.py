"""The process of `mapsto label`: the page of a session within the edge and the server of `mapsto serve`."""

from __future__ import annotations

import socket

from mapsto.serve.app import create_app, mount
from mapsto.serve.labelling.routes import ROUTES
from mapsto.serve.labelling.service import LabelService
from mapsto.serve.logs import configure_logs
from mapsto.serve.server import Say, ServeProcess


class LabelProcess(ServeProcess):
    """The process of a labelling session. listener: the socket, bound already. say: prints a line for the user."""

    def __init__(self, service: LabelService, listener: socket.socket, say: Say) -> None:
        self.service = service
        self.app, edge = create_app(service)
        mount(self.app, ROUTES)
        self.listen(edge, listener, say)

    async def _start(self) -> None:
        await self.service.start()
        self._say(f"label on {self.address}; Ctrl-C ends, and the same command goes on")


def run_labelling(service: LabelService, listener: socket.socket, say: Say) -> None:
    """Serve the page of a session until a signal ends the process. listener: the socket, bound already."""
    configure_logs(service.settings.log)
    try:
        LabelProcess(service, listener, say).run()
    finally:
        listener.close()
