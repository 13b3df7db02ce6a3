"""The notebook of examples/ runs as a reader would run it, and shows tables and one line of progress."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "first_steps.ipynb"


def test_first_steps_run(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra [test] is not here")
    client = pytest.importorskip("nbclient", reason="the extra [test] is not here")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output.data.get("text/html", "") for output in outputs if "data" in output]
    tables = [page for page in pages if page.startswith("<p>")]
    assert "held-out accuracy</td>" in tables[0] and "best constant answer</th>" in tables[0] and "60 rows" in tables[1]
    # Progress is shown below the cell, and notes are warnings.
    assert any("steps of" in page and "<pre" in page for page in pages)
    errors = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert "MapstoWarning: 1 of 3 rows could not be answered" in errors and "step 1/" not in errors
    assert not any(tmp_path.iterdir()), "a notebook without `out` leaves no files"
