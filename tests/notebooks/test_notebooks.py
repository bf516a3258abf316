import json
import pathlib

import jax
import matplotlib
import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[2].glob("notebooks/*.ipynb"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path, unchecked, monkeypatch):
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    cells = json.loads(path.read_text())["cells"]
    namespace: dict = {}
    # a notebook's reader has JAX's own settings, not the tests' strict ones
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), namespace)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_what_it_says(path):
    """Outputs are kept, of a whole run in order, and a cell holds them to something."""
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1))
    assert any(cell["outputs"] for cell in code)
    assert any("assert " in "".join(cell["source"]) for cell in code)
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert "error" not in kinds
