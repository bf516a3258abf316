"""Explain what a model predicts after a text: the numbers behind the report."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmamba.dynamics import jacobian_norms, layer_span
from jmamba.files.tokenizer import Tokenizer
from jmamba.models.language_model import LanguageModel
from jmamba.progress import Progress, ignore, timed
from jmamba.report.choices import check_logits, choose_large_layers, encode
from jmamba.report.depth import measure_depth
from jmamba.report.environment import environment
from jmamba.report.labels import (
    split_pieces,
    text_after,
    token_label,
    token_labels,
)
from jmamba.report.predictions import Predictions, best_predictions
from jmamba.report.size import size_of
from jmamba.report.text.cost import all_complaints, check_length, choose_probes
from jmamba.report.text.explanation import Explanation
from jmamba.report.text.left_out import leave_out

STAGES = (
    "prediction",
    "leaving out each token",
    "hidden attention",
    "token Jacobian",
)


def explain_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    layers: Sequence[int] | None = None,
    top: int = 8,
    matrices: bool = True,
    jacobian: bool = True,
    probes: int | None = None,
    max_tokens: int = 512,
    name: str = "model",
    progress: Progress = ignore,
) -> Explanation:
    """Compute what a model predicts after a text, and what made it do so.

    What drove the prediction is measured by leaving out each token in turn; gradient x
    input is there for comparison.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      text: the text.
      layers: layers to draw large, counted from 0, negative ones from the end; None
        for about a quarter, half and three quarters of the depth and the last.
      top: how many of the likeliest next tokens to keep.
      matrices: whether to compute hidden attention between all pairs of tokens, and
        not only what the last token attends to.
      jacobian: whether to compute the norms of the Jacobian's blocks.
      probes: random directions per token for those norms, d_model or more for exact
        ones; None for as many as take a moment, 16 at most.
      max_tokens: longest text for which to compute `matrices`.
      name: name of the model in the report.
      progress: told how far each of `STAGES` is.

    Returns:
      Everything that `write_text` draws.

    Raises:
      ValueError: the text is empty, too long for what is asked for, or has tokens the
        model does not know; there is no such layer; `top` or `probes` is less than 1;
        the model's logits are not finite.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = explain_text(model, ByteTokenizer(), "hello")
      >>> found.left_out.shape, found.attention.shape, found.jacobian.shape
      ((5,), (2, 5, 5), (5, 5))

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", arXiv 2403.01590.
      Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space
      Models", arXiv 2410.03292.
    """
    ids = encode(tokenizer, text)
    chosen = choose_large_layers(layers, model.config.num_layers)
    if top < 1:
        raise ValueError(f"top must be at least 1, but is {top}.")
    with all_complaints() as ask:
        if matrices:
            ask(check_length, len(ids), max_tokens, size_of(model))
        if jacobian:
            probes = ask(choose_probes, len(ids), size_of(model), probes)
    tokens = jnp.asarray(ids, jnp.int32)[None]
    timings: dict[str, float] = {}

    with timed(STAGES[0], timings, progress):
        logits, gradient_input = _differentiate_logit(model, tokens)
        check_logits(logits, name)
    pieces = split_pieces(text, tokenizer.offsets(text))
    with timed(STAGES[1], timings, progress):
        left_out = leave_out(model, ids, pieces, logits)
    with timed(STAGES[2], timings, progress):
        depth = measure_depth(
            model,
            tokens,
            rows=None if matrices else [-1],
            progress=partial(progress, STAGES[2]),
        )
    blocks = None
    if jacobian:
        with timed(STAGES[3], timings, progress):
            blocks = _differentiate(model, tokens, probes)
    return Explanation(
        model=name,
        text=text,
        ids=np.asarray(ids, np.int32),
        pieces=tuple(pieces),
        labels=tuple(token_labels(pieces, tokenizer.pieces(ids))),
        layers=chosen,
        predictions=_best(logits, top, tokenizer, ids[-1]),
        left_out=left_out,
        gradient_input=gradient_input,
        last_attention=depth.attention[:, -1],
        attention=depth.attention if matrices else None,
        norms=depth.norms,
        jacobian=blocks,
        settings={
            "layers": list(chosen),
            "top": top,
            "matrices": matrices,
            "jacobian": jacobian,
            "probes": probes,
            "max_tokens": max_tokens,
            "dtype": jnp.dtype(model.dtype).name,
        },
        environment=environment(),
        timings=timings,
    )


def _differentiate_logit(model, tokens):
    """Return the last token's logits and gradient x input of the largest."""
    logits, gradient_input = _gradient_times_input(*nnx.split(model), tokens)
    return np.asarray(logits), np.asarray(gradient_input, np.float32)


@partial(jax.jit, static_argnums=0)
def _gradient_times_input(graphdef, state, tokens):
    model = nnx.merge(graphdef, state)

    def best_logit(x):
        x = model.run_layers(x).x
        logits = model.unembed(x[0, -1])
        return jnp.max(logits), logits

    x = model.embed(tokens)
    gradient, logits = jax.grad(best_logit, has_aux=True)(x)
    return logits, jnp.sum(gradient * x, axis=-1)[0]


def _differentiate(model, tokens, probes):
    """Return the norms of the Jacobian's blocks through all layers, (l, l)."""
    x = model.embed(tokens)[0]
    exact = probes >= x.shape[1]  # as many directions as there are axes
    norms = jacobian_norms(layer_span(model), x, probes=None if exact else probes)
    return np.asarray(norms, np.float32)


def _best(logits, top, tokenizer, last) -> Predictions:
    def label(ids):
        texts = [text_after(last, i, tokenizer.decode) for i in ids]
        return tuple(map(token_label, texts, tokenizer.pieces(ids)))

    return best_predictions(logits, top, label)
