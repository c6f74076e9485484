"""The notebook runs from top to bottom, on a run at the place that it names."""

import json
from pathlib import Path

import pytest
from trained_runs import make_run, small_config

NOTEBOOK = Path(__file__).parent.parent / "docs" / "features.ipynb"


def cells() -> list[dict]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return content["cells"]


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """Every cell of code in order, as a fresh kernel would."""
    make_run(tmp_path / "runs" / "quickstart", small_config(student__depth=2))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for place, cell in enumerate(cells()):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {place}", "exec"), names)
    assert names["x"].shape == (200, 64)
    assert (tmp_path / "features").is_dir()


def test_its_outputs_are_of_this_text():
    """Executed in order, none skipped, none failed; and no path of somebody's machine."""
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds == {"execute_result"}
    data = [output["data"] for cell in code for output in cell["outputs"]]
    assert sum("image/png" in one for one in data) == 2
    assert not [word for word in ("/home/", "/tmp/", "/root/") if word in json.dumps(code)]
