"""How the next token is drawn from logits: settings, processors, the draw itself.

Processors and their order are those of transformers: repetition penalty, temperature,
top-k, top-p, min-p. Each maps logits (b, v) to logits; a removed token gets -inf.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Say how `generate` draws tokens; the default is greedy.

    Attributes:
      temperature: 0 takes the most likely token; above 0 draws from
        softmax(logits / temperature).
      top_k: draw among the k most likely tokens; None for all.
      top_p: draw among the fewest tokens that hold this much probability together;
        None for all.
      min_p: draw among tokens at least this fraction as likely as the most likely one;
        None for all.
      repetition_penalty: divides positive and multiplies negative logits of tokens
        that the row holds already, the prompt's included; 1 changes nothing.

    Raises:
      ValueError: a value is out of range, or a choice among tokens is given at
        temperature 0, where it has no effect.

    Examples:
      >>> Sampling(temperature=0.8, top_p=0.95).top_k is None
      True

    References:
      Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv 1904.09751.
      Keskar et al., "CTRL", arXiv 1909.05858, section 4.1.
      Nguyen et al., "Turning Up the Heat: Min-p Sampling", arXiv 2407.01082.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        """Check every value."""
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"Sampling: temperature must be 0 (greedy) or a positive number, but "
                f"is {self.temperature}. Common values lie between 0.5 and 1.2."
            )
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"Sampling: repetition_penalty must be a positive number, but is "
                f"{self.repetition_penalty}. 1.0 changes nothing; 1.1 to 1.3 is common."
            )
        if self.top_k is not None and not (
            isinstance(self.top_k, int) and self.top_k >= 1
        ):
            raise ValueError(
                f"Sampling: top_k must be an integer of at least 1, but is "
                f"{self.top_k!r}. Give None to draw among all tokens."
            )
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(
                    f"Sampling: {name} must be a probability in (0, 1], but is "
                    f"{value}. Give None to draw among all tokens."
                )
        choices = ("top_k", "top_p", "min_p")
        given = [name for name in choices if getattr(self, name) is not None]
        if given and self.temperature == 0:
            example = f"temperature=1.0, {given[0]}={getattr(self, given[0])}"
            raise ValueError(
                f"Sampling: {' and '.join(given)} would have no effect at temperature "
                f"0, which always takes the most likely token. Give a temperature as "
                f"well, for example Sampling({example})."
            )

    def settings(self) -> dict[str, Array]:
        """Return the values that are switched on, by name, as arrays.

        Which names are there shapes the compiled program; their values do not.
        """
        off = {"temperature": 0, "repetition_penalty": 1}
        given = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and value != off.get(name)
        }
        dtype = {"top_k": jnp.int32}
        return {k: jnp.asarray(v, dtype.get(k, jnp.float32)) for k, v in given.items()}


def penalize_repetition(
    logits: Float[Array, "b v"], seen: Bool[Array, "b v"], penalty: Float[Array, ""]
) -> Float[Array, "b v"]:
    """Divide positive and multiply negative logits of seen tokens by the penalty."""
    penalized = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, penalized, logits)


def keep_top_k(
    logits: Float[Array, "b v"], top_k: Int[Array, ""]
) -> Float[Array, "b v"]:
    """Remove all but the k most likely tokens; tokens equal to the last one stay."""
    last = _largest_threshold(logits, lambda kept: jnp.sum(kept, axis=-1) >= top_k)
    return _remove(logits, logits < last)


def keep_top_p(
    logits: Float[Array, "b v"], top_p: Float[Array, ""]
) -> Float[Array, "b v"]:
    """Keep the fewest most likely tokens whose probabilities sum to top_p.

    The most likely one always stays, and so do tokens equal to the last one that stays.
    """
    p = jax.nn.softmax(logits, axis=-1)
    last = _largest_threshold(
        logits, lambda kept: jnp.sum(jnp.where(kept, p, 0), axis=-1) >= top_p
    )
    return _remove(logits, logits < last)


def keep_min_p(
    logits: Float[Array, "b v"], min_p: Float[Array, ""]
) -> Float[Array, "b v"]:
    """Remove tokens less than min_p times as likely as the most likely one."""
    last = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(min_p)
    return _remove(logits, logits < last)


def _remove(logits, removed):
    return jnp.where(removed, -jnp.inf, logits)


def _largest_threshold(logits, is_enough):
    """Return the largest t, shape (b, 1), for which is_enough(logits >= t) holds.

    Found by bisection, to within rounding: a dozen times faster than to sort the
    vocabulary. A few bits more than the mantissa's tell any two logits apart.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = low / 2 + high / 2  # no overflow
        enough = is_enough(logits >= middle)[:, None]
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    high = jnp.max(logits, axis=-1, keepdims=True)
    there = jnp.where(logits > -jnp.inf, logits, high)
    low = jnp.min(there, axis=-1, keepdims=True)
    steps = jnp.finfo(logits.dtype).nmant + 10
    return jax.lax.fori_loop(0, steps, halve, (low, high))[0]


def process_logits(
    logits: Float[Array, "b v"],
    seen: Bool[Array, "b v"] | None,
    settings: dict[str, Array],
) -> Float[Array, "b v"]:
    """Apply every processor that is switched on, in the order of transformers.

    Args:
      logits: the model's.
      seen: which tokens a row holds already; needed for the repetition penalty.
      settings: what `Sampling.settings` returns.
    """
    settings = {
        k: v.astype(logits.dtype) if k != "top_k" else v for k, v in settings.items()
    }
    if seen is not None and "repetition_penalty" in settings:
        logits = penalize_repetition(logits, seen, settings["repetition_penalty"])
    if "temperature" in settings:
        logits = logits / settings["temperature"]
    for name, keep in _CHOICES.items():
        if name in settings:
            logits = keep(logits, settings[name])
    return logits


_CHOICES = {"top_k": keep_top_k, "top_p": keep_top_p, "min_p": keep_min_p}


def hide_padding(
    logits: Float[Array, "b v"], unpadded_vocab_size: int | None
) -> Float[Array, "b v"]:
    """Remove the rows of a vocabulary that are no tokens."""
    if unpadded_vocab_size is None:
        return logits
    rows = jnp.arange(logits.shape[1])[None]
    return _remove(logits, rows >= unpadded_vocab_size)


def draw(
    logits: Float[Array, "b v"],
    seen: Bool[Array, "b v"] | None,
    settings: dict[str, Array],
    key: Array | None,
) -> Int[Array, "b"]:
    """Return one token per row: drawn at random, or the most likely without a key."""
    logits = process_logits(logits, seen, settings)
    if key is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
