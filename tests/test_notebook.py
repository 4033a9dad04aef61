"""The notebook of `examples/`: it runs, and decides on new images as it says."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "deploy.ipynb"


def test_the_notebook_runs_from_images_to_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "committed without"
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("Quality" in output.get("data", {}).get("text/html", "") for output in outputs)
    printed = "".join(
        output.get("text", "") for output in outputs if output.get("name") == "stdout"
    )
    found = {
        name: int(accepted) / int(images)
        for name, accepted, images in re.findall(r"([a-z-]+): +(\d+) of (\d+) accepted", printed)
    }
    assert found.keys() == {"test", "new-digits", "noise"}
    assert found["test"] > 0.85
    assert max(found["new-digits"], found["noise"]) < 0.4
