import jax.numpy as jnp
import numpy as np
import pytest
from exact_models import exact_model, exact_trace

from jmamba.dynamics import (
    layer_system,
    measure_signs,
    memory_horizons,
    report_regimes,
)
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def test_report_holds_each_layers_numbers():
    model = exact_model()
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 24, (2, 5)))
    report = report_regimes(model, tokens)
    right, radius, mass = report.right, report.radius, report.positive_mass
    assert right is not None and radius is not None and mass is not None
    for i in range(3):
        recurrence, M = exact_trace().layer(i), np.asarray(layer_system(model, i).M)
        values = np.linalg.eigvals(M)
        values = values[np.abs(values) > 1e-10]
        assert right[i] == (values.real > 0).sum()
        np.testing.assert_allclose(radius[i], np.abs(values).max())
        symmetric = np.linalg.eigvalsh((M + M.T) / 2)
        share = symmetric[symmetric > 0].sum() / np.abs(symmetric).sum()
        np.testing.assert_allclose(mass[i], share)
        signs = measure_signs(recurrence)
        for name in ("own", "earlier", "weighted", "fast", "mean_delta"):
            np.testing.assert_allclose(
                getattr(report, name)[i], getattr(signs, name).mean()
            )
        np.testing.assert_allclose(
            report.horizon[i], np.median(memory_horizons(recurrence))
        )
    h = np.linalg.norm(exact_trace().residual_out, axis=-1)
    before = np.linalg.norm(exact_trace().residual_in, axis=-1)
    np.testing.assert_allclose(report.growth, np.log(h / before).mean((1, 2)))


def test_table_has_a_row_per_layer():
    tokens = jnp.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    lines = report_regimes(exact_model(), tokens).as_table().splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["layer", "right", "radius"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
