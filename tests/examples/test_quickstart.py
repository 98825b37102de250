"""The example notebook runs, and its training cells stay short."""

import json
import os
import pathlib
import re

import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"


def cells_calling(notebook, name):
    return [cell for cell in notebook.cells if f"qmix_jax.{name}(" in cell.source]


def test_the_committed_notebook_has_outputs_without_machine_paths():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) > 10 and not [o for o in outputs if o["output_type"] == "error"]
    assert not re.search(r"\W/(home|root|tmp|Users|var|mnt|opt)/", NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 200_000


@pytest.mark.slow
def test_the_notebook_runs_and_training_shows_one_line_and_a_table(
    environment, tmp_path, monkeypatch
):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv(
        "JUPYTER_DATA_DIR", str(tmp_path / "jupyter")
    )  # ignores user-defined kernels
    notebook = pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=folder, coalesce_streams=False
    )
    client.execute(env={**environment, "PYTHONWARNINGS": "default"})
    (train,), (train_many,) = (cells_calling(notebook, name) for name in ("train", "train_many"))
    for cell in (train, train_many):
        line, table = cell.outputs
        assert line.output_type == table.output_type == "display_data"
        assert line.data["text/plain"].startswith("10k / 10k"), "updated until the end"
        assert "<details>" in line.data["text/html"]
    assert "return, final" in train.outputs[1].data["text/html"]
    assert sorted(os.listdir(tmp_path / "runs" / "two_step")) == ["qmix", "vdn"]
