"""Advice to install an extra, as it works for how mapsto was installed: from an index of packages, or from a checkout."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlparse

_ADVICE = re.compile(r"pip install 'mapsto\[(\w+)\]'")


def advise_installation(text: str) -> str:
    """Return a message whose advice `pip install 'mapsto[extra]'` names the checkout from which mapsto was installed, if any."""
    return _ADVICE.sub(lambda advice: _command(advice[1]), text) if "pip install" in text else text


@cache
def _command(extra: str) -> str:
    """Return the command that installs an extra."""
    try:
        # Written by pip for what was not installed from an index (PEP 610).
        origin = json.loads(distribution("mapsto").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url = urlparse(origin.get("url", ""))
    if url.scheme != "file" or "dir_info" not in origin:
        return f"pip install 'mapsto[{extra}]'"
    editable = "-e " if origin["dir_info"].get("editable") else ""
    folder = shlex.quote(f"{unquote(url.path)}[{extra}]")
    return f"pip install {editable}{folder}"
