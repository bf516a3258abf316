"""Language models: forward, training, prefill and decoding beside their peers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from peers import mambapy_model, transformers_model
from programs import jax_program

import jmamba
from jmamba.models import architecture_of


def random_language_model(config, **options):
    """Return our model of a configuration with random weights."""
    return architecture_of(config).model_class(config, rngs=nnx.Rngs(0), **options)


def model_rows(config, length, train_length, decode):
    """Yield (row, programs) of a language model of one shape."""
    model = random_language_model(config)
    graphdef, state = nnx.split(model)
    hf, py = transformers_model(config), mambapy_model(config)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, config.vocab_size, (1, length))
    short = tokens[:, :train_length]
    no_cache = partial(hf, use_cache=False) if hf else None
    hf_logits = (lambda t: hf(t, use_cache=False).logits) if hf else None
    forward = {
        "jmamba": jax_program(partial(_logits, graphdef), state, jnp.asarray(tokens)),
        "transformers": _torch_forward(no_cache, tokens),
        "mambapy": _torch_forward(py, tokens),
    }
    yield f"forward, l {length}", forward
    train = {
        "jmamba": jax_program(partial(_gradients, graphdef), state, jnp.asarray(short)),
        "transformers": _torch_train(hf, hf_logits, short),
        "mambapy": _torch_train(py, py, short),
    }
    yield f"forward+backward, l {train_length}", train
    prefill = {
        "jmamba": prefill_program(model, tokens),
        "transformers": _hf_prefill(hf, tokens),
    }
    yield f"prefill, l {length}", prefill
    decoding = {
        "jmamba": decode_program(model, tokens[:, :8], decode),
        "transformers": _hf_decode(hf, tokens[:, :8], decode),
        "mambapy": _py_decode(py, config, decode),
    }
    yield f"decode {decode} tokens", decoding


def _logits(graphdef, state, tokens):
    return nnx.merge(graphdef, state)(tokens).logits


def _gradients(graphdef, state, tokens):
    def loss(state):
        logits = nnx.merge(graphdef, state)(tokens[:, :-1]).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean()

    return jax.value_and_grad(loss)(state)


def prefill_program(model, tokens):
    """Return what reads a prompt: the last token's logits alone, and the cache."""
    graphdef, state = nnx.split(model)

    def prefill(state, tokens):
        model = nnx.merge(graphdef, state)
        passed = model.run_layers(model.embed(tokens))
        return model.unembed(passed.x[:, -1]), passed.cache

    return jax_program(prefill, state, jnp.asarray(tokens))


def decode_program(model, prompt, count, **options):
    """Return what goes on from a prompt that is read already, by so many tokens.

    Args:
      model: the language model.
      prompt: tokens.
      count: of new tokens.
      **options: of `generate`.
    """
    fixed = {"stop_tokens": (), **options}
    start = jmamba.generate(model, prompt, max_new_tokens=1, **fixed)

    def run():
        new = jmamba.generate(model, None, cache=start, max_new_tokens=count, **fixed)
        return jax.block_until_ready(new.tokens)

    return run


def products_program(model, tokens):
    """Return the matrix products of a prefill by Mamba-1, and nothing else.

    Args:
      model: a `MambaLM`.
      tokens: (b, l); their number matters.
    """
    mixer = model.layers.mixer
    maps = tuple(
        layer.kernel[...]
        for layer in (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj)
    )
    head = jnp.asarray(model.embedding[...])

    def products(x, maps, head):
        def layer(x, maps):
            into, select, steps, out = maps
            xz = x @ into
            selected = xz[..., : select.shape[0]] @ select
            delta = selected[..., : steps.shape[0]] @ steps
            return (xz[..., : out.shape[0]] + delta) @ out, None

        x, _ = jax.lax.scan(layer, x, maps)
        return x[:, -1] @ head.T

    x = jnp.ones((*np.shape(tokens), model.config.d_model))
    return jax_program(products, x, maps, head)


def _torch_forward(call, tokens):
    if call is None:
        return None
    import torch

    tokens = torch.tensor(tokens)

    def run():
        with torch.no_grad():
            return call(tokens)

    return run


def _torch_train(module, call, tokens):
    if module is None:
        return None
    import torch

    tokens = torch.tensor(tokens)

    def run():
        module.zero_grad()
        logits = call(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:]).backward()

    return run


def _hf_prefill(hf, tokens):
    if hf is None:
        return None
    return _torch_forward(partial(hf, use_cache=True, logits_to_keep=1), tokens)


def _hf_decode(hf, prompt, count):
    if hf is None:
        return None
    import torch

    with torch.no_grad():
        start = hf(torch.tensor(prompt), use_cache=True)

    def run():  # goes on from one cache: its values do not matter, its size is fixed
        with torch.no_grad():
            token, cache = torch.zeros((1, 1), dtype=torch.long), start.cache_params
            for _ in range(count):
                out = hf(token, cache_params=cache, use_cache=True)
                token, cache = out.logits[:, -1:].argmax(-1), out.cache_params

    return run


def _py_decode(py, config, count):
    if py is None:
        return None
    import torch

    def run():
        with torch.no_grad():
            window = torch.zeros(1, config.d_inner, config.d_conv - 1)
            caches = [(None, window) for _ in range(config.num_layers)]
            token = torch.zeros(1, dtype=torch.long)
            for _ in range(count):
                logits, caches = py.step(token, caches)
                token = logits.argmax(-1)

    return run
