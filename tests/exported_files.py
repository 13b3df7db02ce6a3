"""Write exported files with another record than they had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mapsto.pretrained.exported.container import file_entries, read_sealed, seal_model
from mapsto.pretrained.exported.opening import PARITY_FILE


def reseal(file: Path, copy: Path, **changes: Any) -> Path:
    """Write a file with another record. changes: entries of the record; PARITY_FILE's content under "parity"."""
    graph, record, contents = read_sealed(file)
    parity = changes.pop("parity", contents[PARITY_FILE])
    # Later entries of one key replace earlier ones.
    record_text = json.dumps({**record, **changes})
    copy.write_bytes(seal_model(graph.content, {"mapsto": record_text, **file_entries({PARITY_FILE: parity})}))
    return copy
