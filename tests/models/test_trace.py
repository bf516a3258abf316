import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import assert_close
from vision_definition import draw_images, tiny_vim

import jmamba
from jmamba.layers import run_recurrence

pytestmark = pytest.mark.usefixtures("optimised_programs")

TOKENS = jnp.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


@pytest.fixture(scope="module")
def model():
    config = jmamba.MambaConfig(vocab_size=32, d_model=16, num_layers=4)
    return jmamba.MambaLM(config, rngs=nnx.Rngs(0))


def test_trace_follows_the_model(model):
    t = jmamba.trace(model, TOKENS)
    chex.assert_shape(t.recurrence.delta, (4, 2, 6, 32))
    assert_close(t.logits, model(TOKENS).logits, 1e-6)
    assert_close(t.residual_in[0], model.embed(TOKENS), 0)
    chex.assert_trees_all_equal(t.residual_in[1:], t.residual_out[:-1])
    for i in range(4):
        out = model.layer(i)(t.residual_in[i])
        assert_close(t.layer(i), out.recurrence, 1e-6)
        assert_close(t.residual_out[i], out.x, 1e-6)


def test_states_after_tokens_are_those_of_the_text_up_to_there(model):
    t = jmamba.trace(model, TOKENS, layers=[1, 3], states=[4, 0, -1])
    chex.assert_shape(t.states, (2, 2, 3, 32, 16))
    for slot, end in enumerate([5, 1, 6]):
        cache = model(TOKENS[:, :end]).cache.ssm_state
        assert_close(t.states[:, :, slot], cache[jnp.array([1, 3])], 1e-5)
    assert jmamba.trace(model, TOKENS).states is None
    assert "2 layers, 2 x 6 tokens of width 16" in repr(t) and "states" in repr(t)


def test_a_backward_direction_has_read_the_later_tokens():
    vim = tiny_vim()
    t = jmamba.trace(vim, jnp.asarray(draw_images()), states=[2])
    length = t.residual_in.shape[2]
    for i in range(2):
        one = t.layer(i)
        for side, found, place in zip(
            (one.forward, one.backward), t.states, (2, length - 3), strict=True
        ):
            cut = side._replace(
                **{
                    name: getattr(side, name)[:, : place + 1]
                    for name in ("u", "delta", "B", "C", "z")
                }
            )
            assert_close(found[i, :, 0], run_recurrence(cut).last_state, 1e-5)


@pytest.mark.parametrize("layers", [[0], [3, 1], [-1, 0, 0]])
def test_trace_keeps_the_chosen_layers(model, layers):
    whole, part = (
        jmamba.trace(model, TOKENS),
        jmamba.trace(model, TOKENS, layers=layers),
    )
    chosen = jnp.array(sorted({i % 4 for i in layers}))
    chex.assert_trees_all_equal(part.layers, chosen)
    assert_close(
        part.recurrence, jax.tree.map(lambda x: x[chosen], whole.recurrence), 1e-6
    )
    assert_close(part.residual_out, whole.residual_out[chosen], 1e-6)


def test_trace_memory_grows_with_layers_chosen_not_with_depth():
    def total_bytes(num_layers):
        config = jmamba.MambaConfig(vocab_size=32, d_model=16, num_layers=num_layers)
        graphdef, state = nnx.split(jmamba.MambaLM(config, rngs=nnx.Rngs(0)))

        def run(state):
            return jmamba.trace(nnx.merge(graphdef, state), TOKENS, layers=[1])

        memory = jax.jit(run).lower(state).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    cache_of_14_layers = 14 * 2 * 32 * (16 + 3) * 4
    assert total_bytes(16) - total_bytes(2) <= cache_of_14_layers


def test_trace_messages(model):
    with pytest.raises(ValueError, match=r"layers=\[4\]: the model has layers 0 to 3"):
        jmamba.trace(model, TOKENS, layers=[4])
    with pytest.raises(ValueError, match=r"layers=\[\]: .* at least one"):
        jmamba.trace(model, TOKENS, layers=[])
    with pytest.raises(ValueError, match=r"Layer 2 is not in this trace, .* \[0\]"):
        jmamba.trace(model, TOKENS, layers=[0]).layer(2)
