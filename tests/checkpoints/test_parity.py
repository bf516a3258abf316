"""The model against transformers: logits, hidden states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_samples import (
    jax_logits,
    random_tokens,
    torch,
    torch_logits,
    torch_model,
    write_hf,
)
from flax import nnx
from helpers import relative_error

from jmamba import LanguageModel, MambaConfig, MambaLM
from jmamba.files.keys import nest
from jmamba.models.skeleton import parameters_of, slots_of

pytestmark = pytest.mark.usefixtures("optimised_programs")

LOGITS = 1e-5
GRADIENTS = 1e-4
BFLOAT16 = 8e-3

KNOBS = {
    "biases": ("mamba", {"use_bias": True, "use_conv_bias": False}),
    "small": ("mamba", {"state_size": 5, "conv_kernel": 3, "time_step_rank": 3}),
    "large": (
        "mamba",
        {
            "tie_word_embeddings": False,
            "num_hidden_layers": 3,
            "intermediate_size": 24,
            "layer_norm_epsilon": 1e-3,
        },
    ),
    "falcon": (
        "falcon_mamba",
        {
            "tie_word_embeddings": False,
            "use_bias": True,
            "expand": 16,
            "intermediate_size": 20,
            "mixer_rms_eps": 1e-2,
        },
    ),
}


def theirs(model, tokens):
    """Return logits, outputs of all blocks and of norm_f, and gradients by name."""
    model.zero_grad()
    ids = torch.from_numpy(tokens)
    out = model(ids, output_hidden_states=True, use_cache=False)
    scores = torch.log_softmax(out.logits[:, :-1], -1)
    loss = -scores.gather(-1, ids[:, 1:, None]).mean()
    loss.backward()
    num_layers = model.config.num_hidden_layers
    hidden = [h.detach().numpy() for h in out.hidden_states[-(num_layers + 1) :]]
    gradients = {k: p.grad.numpy() for k, p in model.named_parameters()}
    return out.logits.detach().numpy(), hidden, gradients


@nnx.jit
def ours(model: LanguageModel, tokens):
    """Return the same of our model."""

    def loss(model):
        passed = model.run_layers(model.embed(tokens), read=lambda block, x, out: out.x)
        logits, last = model.unembed(passed.x), model.norm_f(passed.x)
        scores = jax.nn.log_softmax(logits[:, :-1])
        picked = jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)
        return -jnp.mean(picked), (logits, [*passed.found, last])

    gradients, (logits, hidden) = nnx.grad(loss, has_aux=True)(model)
    return logits, hidden, gradients


def through_key_table(model: MambaLM, gradients):
    """Return transformers' gradients in the tree of our parameters."""
    parameters = parameters_of(model)
    layout = "falcon" if model.config.is_falcon else "hf"
    table = slots_of(model.config, parameters, layout=layout)
    found = {path: np.full(a.shape, np.nan) for path, a in parameters.items()}
    assert set(table) == set(gradients)
    for key, (path, index, change, shape) in table.items():
        assert gradients[key].shape == shape
        place = found[path][index]
        place[:] = change.from_torch(gradients[key])
    return nest(found)


@pytest.mark.parametrize("name", KNOBS)
def test_model_matches_transformers(name, tmp_path):
    kind, knobs = KNOBS[name]
    reference = torch_model(kind, **knobs)
    model = MambaLM.from_pretrained(write_hf(tmp_path / "model", reference))
    tokens = random_tokens()
    logits, hidden, gradients = theirs(reference, tokens)
    our_logits, our_hidden, our_gradients = ours(model, jnp.asarray(tokens, jnp.int32))
    assert relative_error(our_logits, logits) < LOGITS
    assert len(our_hidden) == len(hidden) == model.config.num_layers + 1
    for mine, other in zip(our_hidden, hidden, strict=True):
        assert relative_error(mine, other) < LOGITS
    expected = through_key_table(model, gradients)
    found = nnx.to_pure_dict(our_gradients)
    errors = jax.tree.map(relative_error, found, expected)
    assert max(jax.tree.leaves(errors)) < GRADIENTS, errors


def test_bfloat16_model_matches_its_weights_in_float32(tmp_path):
    source = write_hf(tmp_path / "float32", torch_model("falcon_mamba"))
    model = MambaLM.from_pretrained(source, dtype="bfloat16")
    model.save_pretrained(tmp_path / "bfloat16")
    exact = MambaLM.from_pretrained(tmp_path / "bfloat16")
    # measured 3e-3 at most over seeds, transformers in bfloat16 5e-3
    assert relative_error(jax_logits(model), jax_logits(exact)) < BFLOAT16


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
def test_written_model_loads_in_transformers(kind, tmp_path):
    from transformers import AutoModelForCausalLM

    reference = torch_model(kind, intermediate_size=12, use_bias=True)
    model = MambaLM.from_pretrained(write_hf(tmp_path / "theirs", reference))
    model.save_pretrained(tmp_path / "ours")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(back) is type(reference)
    np.testing.assert_array_equal(torch_logits(back), torch_logits(reference))
    for key, value in reference.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


@pytest.mark.exhaustive
def test_shape_of_130m_matches_transformers(tmp_path):
    from transformers import MambaForCausalLM

    # The initial weights are mamba-ssm's. transformers' own (every weight of standard
    # deviation 0.1) make 24 layers so sensitive that float32 and float64 differ by
    # 6e-5 in transformers itself.
    config = MambaConfig.named("mamba-130m")
    MambaLM(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "model")
    model = MambaLM.from_pretrained(tmp_path / "model")
    assert sum(a.size for a in parameters_of(model).values()) == 129_135_360
    reference = MambaForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokens = random_tokens(6, 1, config.vocab_size)
    logits = torch_logits(reference, tokens)
    assert relative_error(jax_logits(model, tokens), logits) < LOGITS
