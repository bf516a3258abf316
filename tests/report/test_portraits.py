"""The figures of the theory: runs against their laws, pictures, page, recipe."""

import json
from functools import cache
from html import escape

import jax.numpy as jnp
import numpy as np
import pytest
from reports import assert_readable

from jmamba.dynamics import ScalarSystem, flow_by_growth
from jmamba.recipes import Workbench, load_recipe
from jmamba.recipes.dynamics_figures import PortraitConfig
from jmamba.report.folder import draw_png
from jmamba.report.theory.figures import convergence
from jmamba.report.theory.page import compute_portraits
from jmamba.report.theory.plates import PORTRAIT_PLATES
from jmamba_kernels.versions import enable_x64

SMALL = PortraitConfig(phase_points=4, growth_rates=2)


@cache
def portraits():
    return compute_portraits(points=SMALL.phase_points, rates=SMALL.growth_rates)


def test_convergence_meets_its_bound_and_limits():
    seen = portraits().convergence
    assert np.all(seen.sizes <= seen.bounds * (1 + 1e-9))
    scaled = seen.sizes[:, -1] * np.exp(seen.log_times[-1] / 2)
    np.testing.assert_allclose(scaled[1:], seen.limits[1:], rtol=1e-3)


def test_slow_divergence_is_the_golden_run():
    seen = portraits().slow
    np.testing.assert_allclose(
        seen.x[-1] / 640, [1.0304, 3.6623, 8.4584, 15.5965], rtol=5e-5
    )
    late = seen.log_times > 10  # (ln t)^l is ever further away
    assert np.all(np.diff((seen.x / seen.bound)[late, 1:], axis=0) < 0)


def test_blow_ups_follow_their_laws():
    for run, token, end in zip(
        portraits().blow_ups, (3, 2, 3), (0.64984918, 0.48910679, 1.16619563),
        strict=True,
    ):  # fmt: skip
        assert run.token == token
        np.testing.assert_allclose(run.left[0], end, atol=6e-9)
        np.testing.assert_allclose(run.sizes[-1, token] / run.law[-1], 1, rtol=1e-6)
        assert np.all(run.sizes[-1, :token] < 2)  # earlier ones are finite


def test_growth_is_the_clock_of_the_fastest_token():
    with enable_x64():
        system, x = ScalarSystem(1.0, 0.0), jnp.array([0.7])
        flow = flow_by_growth(system, x, jnp.array([0.0, 2.0, 5.0]))
    np.testing.assert_allclose(flow.x[:, 0], 0.7 * np.exp([0.0, 2.0, 5.0]), rtol=1e-9)
    left = 1 / (2 * np.log(2) * np.asarray(flow.x[:, 0]) ** 2)  # s = 0: exact
    np.testing.assert_allclose(flow.left, left, rtol=1e-9)
    with enable_x64():
        with pytest.raises(ValueError, match="never blow up: this is convergence"):
            flow_by_growth(ScalarSystem(-1.0, 0.0), x, jnp.array([0.0, 1.0]))


def test_regimes_are_where_theory_puts_them():
    seen = portraits().phases
    assert seen.regimes.tolist() == [[0] * 4, [0] * 4, [1, 1, 2, 2], [1, 1, 2, 2]]
    assert np.all(np.diff(seen.time_alone) < 0)


def test_tokens_of_the_plane_go_where_the_eigenvalues_say():
    positive, mixed, negative, cone = portraits().plane.values()
    ends = [np.linalg.norm(run.paths[-1], axis=1) for run in (positive, negative)]
    starts = np.linalg.norm(positive.paths[0], axis=1)
    assert np.all(ends[0] > 10 * starts) and np.all(ends[1] < 1e-3)
    x = np.asarray(mixed.paths[:, 0])  # "a positive eigenvalue: all diverge" is false
    assert x[0] @ mixed.M @ x[0] < 0 and np.linalg.norm(x[-1]) < np.linalg.norm(x[0])
    x = np.asarray(cone.paths[-1, 0])
    np.testing.assert_allclose(x, [0.325695, 0.460602], atol=1e-5)
    np.testing.assert_allclose(x @ cone.M @ x, 0.0, atol=1e-6)


def test_attention_decays_freezes_or_forgets():
    runs = {name: np.asarray(run.P[-1]) for name, run in portraits().attention.items()}
    # exp(-a ln 2) per token back, once all step sizes are ln 2
    P = runs["convergence"] / np.asarray(portraits().attention["convergence"].x[-1])
    np.testing.assert_allclose(P[-1, 4:-1] / P[-1, 5:], 0.5, rtol=0.02)
    slow, fast = runs["slow divergence"], runs["fast divergence"]
    assert np.all(slow[:, 0] > 0.99 * slow.sum(axis=1))
    assert fast[-1, -1] > 0.99 * fast[-1].sum()


def test_growth_factors_rise_along_the_text_and_fall_with_the_decay():
    seen = portraits().factors
    assert np.all(np.diff(seen.factors, axis=1) > 0)
    assert np.all(np.diff(seen.factors[:, 1:], axis=0) < 0)
    np.testing.assert_allclose(seen.earlier, seen.factors, rtol=0.02)


def test_pictures_name_arrays_that_are_stored():
    for plate in PORTRAIT_PLATES:
        assert set(plate.arrays) <= set(portraits().arrays()), plate.name


def test_convergence_shows_where_tokens_start():
    """Neither starts are cut off nor do the names of lines overlap."""
    figure = convergence(portraits())
    draw_png(figure)
    for ax in figure.axes:
        for line in ax.get_lines():
            if line.get_transform() == ax.transData:
                (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
                x, y = map(np.asarray, line.get_data())
                assert left <= x.min() and x.max() <= right
                assert low <= y.min() and y.max() <= high
    heights = sorted(text.get_window_extent().y0 for text in figure.axes[1].texts)
    size = figure.axes[1].texts[0].get_window_extent().height
    assert len(heights) == 4 and (np.diff(heights) >= 0.8 * size).all()


def test_recipe_leaves_figures_and_a_table(tmp_path, monkeypatch):
    from jmamba.recipes import dynamics_figures

    monkeypatch.setattr(
        dynamics_figures, "compute_portraits", lambda *_, **__: portraits()
    )
    recipe = load_recipe("dynamics-figures")
    bench = Workbench(tmp_path / "out", name="dynamics-figures", config=SMALL)
    recipe.run(SMALL, bench)
    text = bench.finish().read_text()
    assert "| 1.000 | 0.5, 0.6, 0.4, 0.7 | 0.64984918 | 4 |" in text
    page = tmp_path / "out" / "page" / "index.html"
    made = json.loads((page.parent / "summary.json").read_text())
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(made["files"])
    for plate in PORTRAIT_PLATES:
        assert_readable(plate.draw(portraits()))
        assert f"(page/{plate.name}.png)" in text
        picture = (page.parent / f"{plate.name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert escape(plate.caption) in page.read_text()
