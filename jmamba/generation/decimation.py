"""Decimation of tokens inside a language model: DeciMamba's prefill."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.block import Block
from jmamba.layers.runs import cut_runs, join_layers
from jmamba.layers.stack import run_layers
from jmamba.models.language_model import LanguageModel
from jmamba.requests import choose_layers
from jmamba.types import ArrayLike, LayerCache, Recurrence, Tokens, exportable

PER_TOKEN = ("u", "delta", "B", "C", "z")
"""What of a recurrence each token has of its own."""


@dataclasses.dataclass(frozen=True)
class Decimation:
    """Say where tokens are dropped, and how many stay.

    Attributes:
      layers: the layers that decimate, counted from 0, negative ones from the end.
      base_length: L_base, tokens that the first of them keeps.
      decay: beta, the factor from each of them to the next.
      min_length: tokens that are kept at least.
      last: tokens at the end that stay whatever their step sizes. With 1, the default,
        the logits that the first new token is read off are there.

    Raises:
      ValueError: a number cannot be.

    References:
      Ben-Kish et al., "DeciMamba", arXiv 2406.14528, section 4; its defaults.
    """

    layers: tuple[int, ...] = (12,)
    base_length: int = 2000
    decay: float = 0.5
    min_length: int = 20
    last: int = 1

    def __post_init__(self):
        """Check the numbers."""
        least = {"base_length": 1, "min_length": 1, "last": 0}
        wrong = {k: getattr(self, k) for k, v in least.items() if getattr(self, k) < v}
        if wrong or not 0 < self.decay <= 1:
            raise ValueError(
                f"Decimation: {wrong or {'decay': self.decay}} cannot be; give "
                "base_length and min_length of 1 or more, last of 0 or more and decay "
                "in (0, 1]."
            )


def decimated_lengths(decimation: Decimation, length: int) -> tuple[int, ...]:
    """Return how many tokens the layers of a decimation keep, one after the other.

        P[s] = max(min(l, L_base beta^s), min_length),  s = 0, 1, ...

    rounded down. No layer keeps more than come to it or fewer than the tokens at the
    end that stay.

    Args:
      decimation: the settings.
      length: l, tokens of the text.

    Examples:
      >>> settings = Decimation(layers=(3, 5, 7), base_length=50, min_length=20)
      >>> decimated_lengths(settings, 1000)
      (50, 25, 20)
      >>> decimated_lengths(settings, 30), decimated_lengths(settings, 10)
      ((30, 25, 20), (10, 10, 10))

    References:
      Ben-Kish et al., arXiv 2406.14528, section 4.
    """
    least = max(decimation.min_length, decimation.last)
    wanted = (
        int(decimation.base_length * decimation.decay**s)
        for s in range(len(decimation.layers))
    )
    return tuple(min(length, max(count, least)) for count in wanted)


def largest_steps(
    delta: Float[Array, "b l d"], count: int, *, last: int = 0
) -> Int[Array, "b p"]:
    """Return the places of the tokens with the largest steps, in ascending order.

    A step is as large as ||delta[t]||_2 over channels; of equal ones the first stays.

    Args:
      delta: step sizes.
      count: how many tokens stay in each row.
      last: so many tokens at the end are among them.

    Raises:
      ValueError: count is not between 1 and l, or smaller than last.

    Examples:
      >>> delta = jnp.array([[[1.0], [9.0], [3.0], [2.0]]])
      >>> largest_steps(delta, 2).tolist(), largest_steps(delta, 2, last=1).tolist()
      ([[1, 2]], [[1, 3]])
    """
    length = delta.shape[1]
    if not max(1, last) <= count <= length:
        raise ValueError(
            f"{count} of {length} tokens cannot stay, {last} of them at the end; give "
            f"a count from {max(1, last)} to {length}."
        )
    norm = jnp.linalg.norm(delta, axis=-1)
    norm = jnp.where(jnp.arange(length)[None] >= length - last, jnp.inf, norm)
    _, places = jax.lax.top_k(norm, count)
    return jnp.sort(places, axis=1)


def take_tokens(recurrence: Recurrence, kept: Int[Array, "b p"]) -> Recurrence:
    """Return the recurrence of some tokens, of each row its own."""
    taken = {
        name: _take(x, kept)
        for name, x in recurrence._asdict().items()
        if name in PER_TOKEN and x is not None
    }
    return recurrence._replace(**taken)


def _take(x: Float[Array, "b l ..."], kept: Int[Array, "b p"]):
    return jnp.take_along_axis(x, kept.reshape(*kept.shape, *(1,) * (x.ndim - 2)), 1)


@exportable
class DecimatedOutput(NamedTuple):
    """What a decimated prefill leaves.

    Attributes:
      logits: of the tokens that stayed to the end.
      cache: what the layers remember; an ordinary call goes on from it.
      kept: the places of those tokens in the text, ascending.
    """

    logits: Float[Array, "b p v"]
    cache: LayerCache
    kept: Int[Array, "b p"]


def prefill_decimated(
    model: LanguageModel, tokens: Tokens | ArrayLike, decimation: Decimation
) -> DecimatedOutput:
    """Read texts with a model that drops tokens of small steps on the way.

    A decimating layer makes its selective parameters for all tokens, then keeps the
    tokens of the largest ||delta||_2: its recurrence, its gate, the residual stream and
    all later layers go on with these alone. Decoding drops nothing: give the cache to
    `model(...)` or `generate(...)`.

    Layers that would drop nothing are ordinary ones; if all are, so is the whole call.
    Each text keeps its own tokens, and all texts of a batch equally many.

    Args:
      model: the model, which need not know of decimation.
      tokens: token ids of texts of one length; there may be no padding.
      decimation: where to drop tokens and how many stay.

    Raises:
      ValueError: tokens do not fit the model, a layer does not exist, or is no
        recurrence.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=3)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"a longer text than that")])
      >>> settings = Decimation(layers=(1,), base_length=8, min_length=4)
      >>> out = prefill_decimated(model, tokens, settings)
      >>> out.logits.shape, int(out.kept[0, -1]) == tokens.shape[1] - 1
      ((1, 8, 256), True)
      >>> model(jnp.array([[32]]), cache=out.cache).logits.shape
      (1, 1, 256)

    References:
      Ben-Kish et al., arXiv 2406.14528, section 4.
    """
    model.check_recurrent("prefill_decimated")
    tokens = model.check_inputs(tokens)
    layers = choose_layers(decimation.layers, model.config.num_layers)
    drops, present = [], tokens.shape[1]
    counts = decimated_lengths(dataclasses.replace(decimation, layers=layers), present)
    for layer, count in zip(layers, counts, strict=True):
        if count < present:
            drops.append((layer, count))
            present = count
    graphdef, state = nnx.split(model)
    return _prefill(graphdef, state, tokens, tuple(drops), decimation.last)


@partial(jax.jit, static_argnames=("graphdef", "drops", "last"))
def _prefill(graphdef, state, tokens, drops, last):
    model = nnx.merge(graphdef, state)
    x, start, caches = model.embed(tokens), 0, []
    kept = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)

    def run_to(stop, x):
        part = cut_runs(model.runs(), start, stop)
        if not part:
            return x
        passed = run_layers(part, x)
        caches.append(passed.cache)
        return passed.x

    for layer, count in drops:
        x = run_to(layer, x)
        x, cache, stay = _decimate(model.layer(layer), x, count, last)
        caches.append(jax.tree.map(lambda leaf: leaf[None], cache))
        kept, start = jnp.take_along_axis(kept, stay, axis=1), layer + 1
    x = run_to(model.config.num_layers, x)
    return DecimatedOutput(model.unembed(x), join_layers(caches), kept)


def _decimate(block: Block, x: Float[Array, "b l m"], count: int, last: int):
    """Return the residual stream of a block's kept tokens, its cache, their places."""
    recurrence, conv_state, _ = block.project(x)
    assert isinstance(recurrence, Recurrence)
    stay = largest_steps(recurrence.delta, count, last=last)
    out, last_state = block.mixer.mix(take_tokens(recurrence, stay))
    cache = LayerCache(conv_state, last_state)
    return block.add(_take(x, stay), out), cache, stay


def score_decimating_layers(
    model: LanguageModel,
    tokens: Tokens | ArrayLike,
    score: Callable[[DecimatedOutput], float],
    decimation: Decimation | None = None,
    *,
    layers: Sequence[int] | None = None,
) -> Float[np.ndarray, "s"]:
    """Try each layer as the single one that decimates, and score what comes out.

    Which layer drops tokens makes most of the difference; with the best one go on with
    `dataclasses.replace(decimation, layers=(layer,))`. A program is compiled for each.

    Args:
      model: the model.
      tokens: token ids of texts of one length.
      score: says how good an outcome is.
      decimation: the other settings; None for the defaults.
      layers: the layers to try, tried in ascending order; None for all.

    Returns:
      The scores of the layers.

    Raises:
      ValueError: as in `prefill_decimated`.

    Examples:
      >>> from jmamba import MambaConfig, MambaLM
      >>> config = MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"a longer text than that")])
      >>> def score(out):
      ...     return float(jax.nn.log_softmax(out.logits[0, -1])[32])
      >>> settings = Decimation(base_length=8, min_length=4)
      >>> score_decimating_layers(model, tokens, score, settings).shape
      (2,)

    References:
      Ben-Kish et al., arXiv 2406.14528: their code scans the layers likewise.
    """
    settings = decimation or Decimation()
    chosen = choose_layers(layers, model.config.num_layers)
    tries = (dataclasses.replace(settings, layers=(layer,)) for layer in chosen)
    return np.array(
        [score(prefill_decimated(model, tokens, one)) for one in tries], np.float64
    )
