import json
import pathlib

import jax
import matplotlib
import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[2].glob("notebooks/*.ipynb"))


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
    seen, y = namespace["seen"], namespace["y"]
    assert float(abs(seen - y).max()) < 1e-4
    assert namespace["norms"].shape == (32, 32)
