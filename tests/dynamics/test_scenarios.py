import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmamba.dynamics import (
    ScalarSystem,
    blow_up,
    classify_scenario,
    convergence_bound,
    convergence_constants,
    flow_in_log_time,
    integrate,
    lifetimes,
    log_time_bound,
    march,
    time_alone,
    vector_field,
)
from jmamba_kernels.versions import enable_x64


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


CONVERGING = jnp.array([1.0, -0.5, 2.0, 0.3])


def test_golden_convergence_constants():
    predicted = {1.0: 0.671448, 0.5: 0.513904, 2.0: 0.822352}
    for a, later in predicted.items():
        system = ScalarSystem(mu=-0.8, s=1.5, a=a)
        limits = convergence_constants(system, jnp.asarray(CONVERGING, jnp.float64))
        np.testing.assert_allclose(limits, [0.949571, *[later] * 3], rtol=1e-6)


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0])
def test_convergence_has_the_sharp_rate_and_the_bound(a):
    system = ScalarSystem(mu=-0.8, s=1.5, a=a)
    x = jnp.array([1.0, -0.5, 2.0, 0.3])
    log_times = jnp.array([-3.0, 0.0, 5.0, 25.0, 60.0])
    path = flow_in_log_time(system, x, log_times)
    assert np.all(np.abs(path) <= convergence_bound(system, x, jnp.exp(log_times)))
    scaled = jnp.abs(path) * jnp.exp(log_times / 2)[:, None]
    limits = convergence_constants(system, x)
    if a == 1.0:
        np.testing.assert_allclose(
            scaled[3], [0.94957, 0.67146, 0.67142, 0.67145], atol=6e-6
        )
    np.testing.assert_allclose(scaled[4], limits, rtol=1e-5)


def test_convergence_keeps_its_constants_with_a_bias_and_zeros():
    system = ScalarSystem(mu=-1.7, s=0.6, a=1.5, bias=-1.0)
    x = jnp.array([0.8, 0.0, -2.0, 0.1])  # zeros discount the past, too
    path = flow_in_log_time(system, x, jnp.arange(20.0, 61.0, 10.0))
    scaled = jnp.abs(path[-1]) * jnp.exp(jnp.array(30.0))
    np.testing.assert_allclose(scaled, convergence_constants(system, x), rtol=1e-5)


def test_golden_slow_divergence():
    system = ScalarSystem(mu=1.0, s=-1.0)
    log_times = jnp.array([1.0, 5.0, 10.0, 80.0, 640.0])
    path = flow_in_log_time(system, jnp.full(4, 0.5), log_times)[2:]
    golden = [[18.57357, 66.01304, 152.4647, 281.1303],
              [93.5836, 332.609, 768.199, 1416.485]]  # fmt: skip
    np.testing.assert_allclose(path[:2], golden, rtol=1e-6)
    late = [1.0304, 3.6623, 8.4584, 15.5965]
    np.testing.assert_allclose(path[2] / 640, late, rtol=5e-5)


def test_golden_slow_divergence_is_compressed_by_fast_decay():
    system = ScalarSystem(mu=1.0, s=-1.0, a=10.0)
    path = flow_in_log_time(system, jnp.full(6, 0.5), jnp.array([400.0]))
    np.testing.assert_allclose(
        path[0] / 400, [1.05, 1.74, 2.19, 2.51, 2.76, 2.97], atol=6e-3
    )


def test_slow_divergence_is_logarithmic_for_every_token():
    x = jnp.array([0.5, 3.0, 0.2, 1.0])
    log_times = jnp.array([50.0, 100.0, 200.0, 400.0, 680.0])
    path = flow_in_log_time(ScalarSystem(mu=1.0, s=-1.0), x, log_times)
    ratio = np.asarray(path / log_times[:, None])
    # (ln t)^l is an upper bound, and ever further away for all tokens but the first
    bound = np.asarray(log_time_bound(x, log_times))
    assert np.all(np.diff((np.asarray(path) / bound)[:, 1:], axis=0) < 0)
    # x / ln t is bounded and comes to rest: its change per doubling of ln t fades
    change = np.abs(np.diff(np.log(ratio), axis=0))
    assert np.all(change[-1] < 0.05) and np.all(change[-1] < 0.6 * change[0])
    assert np.all(ratio >= 1)  # C_l >= 1
    assert path[-1, 2] < path[-1, 1]  # not always increasing along the sequence
    # the exponent of ln t is 1, not l
    slope = np.diff(np.log(path[-2:]), axis=0) / np.diff(np.log(log_times[-2:]))[0]
    np.testing.assert_allclose(slope, 1.0, atol=0.05)


GOLDEN_BLOW_UPS = [
    # s, tokens, time, first token
    (1.0, (0.5, 0.6, 0.4, 0.7), 0.64984918, 3),
    (1.0, (-0.5, -0.6, 0.8, -0.7), 0.48910679, 2),
    (1.0, (0.8, -0.6, -0.4, -0.7), 0.51119949, 0),
    (1.0, (1.5, 0.05, 0.05, -0.3), 0.09234107, 0),
    (0.0, (0.5, 0.6, 0.4, 0.7), 1.16619563, 3),
]


@pytest.mark.parametrize("s, x, time, token", GOLDEN_BLOW_UPS)
def test_golden_blow_ups(s, x, time, token):
    system, x = ScalarSystem(mu=1.0, s=s), jnp.array(x)
    end = blow_up(system, x)
    np.testing.assert_allclose(end.time, time, atol=6e-9)
    assert end.token == token
    assert classify_scenario(system, x).regime == "fast divergence"
    assert float(end.time) <= np.min(classify_scenario(system, x).times_alone) + 1e-10


def test_golden_tokens_at_the_blow_up():
    before = blow_up(ScalarSystem(1.0, 1.0), jnp.array(GOLDEN_BLOW_UPS[0][1])).x
    np.testing.assert_allclose(before[:3], [0.609241, 0.967701, 0.548565], atol=6e-7)
    after = blow_up(ScalarSystem(1.0, 1.0), jnp.array(GOLDEN_BLOW_UPS[1][1])).x
    np.testing.assert_allclose(after[3] / after[2], -0.7333, atol=6e-5)
    first = blow_up(ScalarSystem(1.0, 1.0), jnp.array(GOLDEN_BLOW_UPS[2][1])).x
    ratios = [-0.5680, -0.2071, -0.3016]
    np.testing.assert_allclose(first[1:] / first[0], ratios, atol=6e-5)


@pytest.mark.parametrize(
    "s, power, factor", [(1.3, 3, 3 * 1.3), (0.0, 2, 2 * np.log(2))]
)
def test_blow_up_has_its_power_and_constant(s, power, factor):
    system, x = ScalarSystem(mu=0.9, s=s), jnp.array([0.5, 0.6, 0.4, 0.7])
    near = blow_up(system, x, escape=1e5).x  # the system is autonomous: go on from here
    left = blow_up(system, near).time
    token = blow_up(system, x).token
    constant = jnp.abs(near[token]) * (0.9 * factor * left) ** (1 / power)
    np.testing.assert_allclose(constant, 1.0, rtol=1e-4)
    farther = blow_up(system, x, escape=1e7).x
    left = blow_up(system, farther, escape=1e9).time
    constant = jnp.abs(farther[token]) * (0.9 * factor * left) ** (1 / power)
    np.testing.assert_allclose(constant, 1.0, rtol=1e-6)


def test_golden_times_alone():
    for mu, s, x, time in [(1, 1, 0.8, 0.51119949), (1, 1, 1.5, 0.09234107),
                           (1, 0, 0.7, 1.472137797)]:  # fmt: skip
        ours = time_alone(ScalarSystem(float(mu), float(s)), jnp.array(x))
        np.testing.assert_allclose(ours, time, atol=6e-9)
        tokens = jnp.array([x, 0.0, 0.0, 0.0])
        end = blow_up(ScalarSystem(float(mu), float(s)), tokens)
        np.testing.assert_allclose(end.time, ours, rtol=1e-9)


def test_lifetimes_are_those_of_the_prefixes():
    system = ScalarSystem(mu=1.0, s=1.0)
    x = jnp.array([-0.5, -0.6, 0.8, -0.7])
    T = np.asarray(lifetimes(system, x))
    assert np.all(np.isinf(T[:2]))
    np.testing.assert_allclose(T[2:], 0.48910679, atol=6e-9)
    # after T the tokens before the first go on, as a system of their own
    x = jnp.array([0.5, 0.6, 0.4, 0.7])
    end = blow_up(system, x)
    rest = lifetimes(system, end.x.at[3].set(0.0))[:3] + end.time
    T = lifetimes(system, x)
    np.testing.assert_allclose(rest, T[:3], rtol=1e-9)
    assert float(T[3]) < float(T[2])


def test_regimes():
    x = jnp.array([0.5, -0.5])
    cases = [(-1.0, 1.0, x, "convergence"), (1.0, 1.0, x, "fast divergence"),
             (1.0, -1.0, jnp.abs(x), "slow divergence"), (0.0, 1.0, x, "equilibrium"),
             (1.0, 0.0, x, "fast divergence"), (1.0, 1.0, 0 * x, "equilibrium"),
             (1.0, 1.0, jnp.array([0.0, -1.0]), "slow divergence")]  # fmt: skip
    for mu, s, x, regime in cases:
        assert classify_scenario(ScalarSystem(mu, s), x).regime == regime


def test_integrators_have_their_order():
    """The discrete stack x + h F(x) and its relatives tend to the continuous flow."""
    system = ScalarSystem(-0.8, 1.5, 0.7).as_token_system(jnp.float64)
    field = jax.tree_util.Partial(vector_field, system)
    x = jnp.array([[0.5], [-1.0], [1.2]])
    exact = integrate(field, x, jnp.array([0.0, 1.0]), rtol=1e-13, atol=1e-14)
    assert bool(exact.is_finished)
    for method, order in {"euler": 1, "midpoint": 2, "rk4": 4}.items():
        errors = [
            np.max(
                np.abs(march(field, x, 1 / n, n, method=method)[-1] - exact.states[-1])
            )
            for n in (128, 256)
        ]
        np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.2)


def test_euler_step_is_one_residual_layer():
    system = ScalarSystem(-0.8, 1.5, 0.7).as_token_system(jnp.float64)
    x = jnp.array([[0.5], [-1.0], [2.0]])
    steps = march(lambda x: vector_field(system, x), x, 1.0, 2, method="euler")
    np.testing.assert_allclose(steps[1], x + vector_field(system, x), rtol=1e-15)
    # c = mu G > 2 turns the convergent regime into growth
    assert abs(steps[1, 2, 0]) > abs(x[2, 0])


def test_integrate_agrees_with_a_closed_form_and_with_scipy():
    from scipy.integrate import solve_ivp

    matrix = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    times = jnp.array([0.0, 0.7, 3.0, 9.0])
    flow = integrate(lambda y: matrix @ y, jnp.array([0.0, 1.0]), times, rtol=1e-11)
    np.testing.assert_allclose(flow.states[:, 0], np.sin(times), atol=1e-9)
    system = ScalarSystem(0.6, -1.1, 0.8)
    x = jnp.array([0.7, 0.4, 1.5])
    ours = flow_in_log_time(system, x, jnp.log(jnp.array([2.0, 40.0])))
    field = jax.jit(
        lambda x: vector_field(system.as_token_system(jnp.float64), x[:, None])[:, 0]
    )
    theirs = solve_ivp(lambda t, x: np.asarray(field(x)), (0, 40), x, method="DOP853",
                       rtol=1e-11, atol=1e-13, t_eval=[2.0, 40.0])  # fmt: skip
    np.testing.assert_allclose(ours, theirs.y.T, rtol=1e-8)


def test_integrate_stops_and_gives_up():
    flow = integrate(
        lambda y: y**2, jnp.ones(1), jnp.array([0.0, 0.5, 2.0]),
        stop=lambda y: y[0] > 1e6,
    )  # fmt: skip
    assert flow.stopped.tolist() == [False, False, True] and bool(flow.is_finished)
    np.testing.assert_allclose(flow.states[1], 2.0, rtol=1e-8)
    np.testing.assert_allclose(flow.times[2] + 1 / flow.states[2, 0], 1.0, rtol=1e-7)
    # without a stop the singularity is met: no NaN, and it says so
    stuck = integrate(lambda y: y**2, jnp.ones(1), jnp.array([0.0, 2.0]))
    assert not bool(stuck.is_finished) and np.all(np.isfinite(stuck.states))
    np.testing.assert_allclose(stuck.times[1], 1.0, rtol=1e-6)
    few = integrate(lambda y: -y, jnp.ones(1), jnp.array([0.0, 9.0]), max_steps=3)
    assert not bool(few.is_finished) and int(few.steps) == 3


def test_scenario_messages():
    fast, x = ScalarSystem(1.0, 1.0), jnp.array([0.5])
    with pytest.raises(ValueError, match=r"blow up at t = 1.67694,.* Take blow_up\("):
        flow_in_log_time(fast, x, jnp.array([1.0]))
    with pytest.raises(ValueError, match="did not come to its end with rtol=1e-30"):
        blow_up(fast, x, rtol=1e-30)
    with pytest.raises(ValueError, match="did not come to its end with rtol=1e-30"):
        flow_in_log_time(ScalarSystem(-1.0, 1.0), x, jnp.array([1.0]), rtol=1e-30)
    with pytest.raises(ValueError, match="never blow up: this is convergence"):
        blow_up(ScalarSystem(-1.0, 1.0), x)
    with pytest.raises(ValueError, match="float32, but .* jmamba.dynamics.enable_x64"):
        blow_up(fast, x.astype(jnp.float32))
    with pytest.raises(ValueError, match="all four numbers must be finite"):
        classify_scenario(ScalarSystem(float("nan"), 1.0), x)
    with pytest.raises(ValueError, match="the decay rate a must be positive"):
        classify_scenario(ScalarSystem(1.0, 1.0, -1.0), x)
    with pytest.raises(ValueError, match=r"Tokens must be finite, but are \[nan\]"):
        classify_scenario(fast, x * jnp.nan)
    with pytest.raises(ValueError, match="Unknown method 'heun'; give one of euler"):
        march(lambda y: y, x, 0.1, 3, method="heun")
    with pytest.raises(ValueError, match=r"overflowed at step \d+ .*step 1 is too la"):
        march(lambda y: y**3, x + 5, 1.0, 12)
