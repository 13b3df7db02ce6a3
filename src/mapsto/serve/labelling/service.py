"""The service of a labelling session, for the edge and the server of `mapsto serve`."""

from __future__ import annotations

import asyncio
import getpass

from mapsto.serve.labelling.learner import Learner
from mapsto.serve.labelling.session import Session
from mapsto.serve.models import Models
from mapsto.serve.service import Service
from mapsto.serve.settings import ServeSettings


class LabelService(Service):
    """The service of a labelling session. It serves no model, so it is ready at once.

    csv_safe: whether csv is written so that a spreadsheet computes nothing.
    """

    def __init__(self, settings: ServeSettings, session: Session, learner: Learner, csv_safe: bool = False) -> None:
        super().__init__(settings, Models({}, settings))
        self.session, self.learner, self.csv_safe = session, learner, csv_safe

    @property
    def default_person(self) -> str:
        """The name that the page proposes: the user of this machine where only its programs can connect, else none."""
        try:
            return getpass.getuser() if self.settings.is_loopback else ""
        except (OSError, KeyError, ImportError):
            return ""

    async def start(self) -> None:
        """Start the learner."""
        self.learner.begin()
        self.is_ready = True

    async def stop(self) -> None:
        """End the learner and close the file of answers."""
        self.is_ready = False
        await asyncio.to_thread(self.learner.end)
        self.models.close()
        self.session.file.close()
