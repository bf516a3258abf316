"""What one channel can compute and an attention head cannot: the honest versions.

The paper's theorem 2 says that a channel of the selective recurrence expresses all that
an attention head does, and more. Shown is this, for scalar tokens without positions:

- One channel counts in a row, strings of any length (`counting_channel`). The choice
  printed in lemma 1 does not; it sums all bits.
- No softmax head does (`softmax_head_error`), for its output is the same in whatever
  order the earlier tokens stand. With encodings of position the argument ends.
- Without decay a channel is a head of causal *linear* attention (`linear_attention`).
  Softmax attention is not among its special cases: the channel is strictly stronger
  than causal linear attention, and not comparable with softmax attention.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jmamba.ops.meshes import on_any_mesh
from jmamba.types import Recurrence

_OPEN = 1.2784645427610738
"""Where silu is 1: a gate that changes nothing."""


def run_lengths(bits: Int[np.ndarray, "b l"]) -> Int[np.ndarray, "b l"]:
    """Return how many ones in a row end at each bit: the count-in-row problem.

    Examples:
      >>> run_lengths(np.array([[1, 1, 0, 1, 1, 1]])).tolist()
      [[1, 2, 0, 1, 2, 3]]

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, lemma 1.
    """
    bits = np.asarray(bits)
    places = np.arange(1, bits.shape[1] + 1)[None]
    last_zero = np.maximum.accumulate(np.where(bits == 0, places, 0), axis=1)
    return places - last_zero


def counting_channel(
    bits: Int[np.ndarray, "b l"],
    *,
    step: float = 2.0**-30,
    reset: float = 30.0,
    printed: bool = False,
) -> Recurrence:
    """Make a selective channel that counts in a row, by the mechanisms of Mamba.

        h[t] = x[t] h[t-1] + x[t],  y[t] = h[t]

    needs a decay of x[t]. With A = -1 the step size softplus(w x + b) is `reset` where
    x = 0, which decays by exp(-reset), and `step` where x = 1, which all but keeps the
    state; B = x / step makes up for the small step, C = x. A run of r ones then gives

        sum_{k < r} exp(-step k),  which is r less step r (r - 1) / 2 at most,

    so that rounding gives r as long as step < 1 / r^2; before a run less than
    exp(-reset) times the last one is left.

    The choice printed in lemma 1, S_A = 1 and A = 0, decays by 1 whatever x is; it
    gives the number of ones so far, not the run.

    Args:
      bits: strings of 0 and 1.
      step: step size at ones. The default is right for all runs that float32 can count.
      reset: step size at zeros.
      printed: whether to follow lemma 1 as printed, which is wrong.

    Returns:
      A recurrence of one channel with one state, without skip and gate.

    Examples:
      >>> from jmamba.layers import run_recurrence
      >>> bits = np.array([[1, 1, 0, 1, 1, 1]])
      >>> y, _ = run_recurrence(counting_channel(bits))
      >>> y[0, :, 0].round().astype(int).tolist()
      [1, 2, 0, 1, 2, 3]
      >>> wrong = counting_channel(bits, printed=True)
      >>> run_recurrence(wrong).y[0, :, 0].round().astype(int).tolist()
      [1, 2, 2, 3, 4, 5]

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, lemma 1 and its proof, corrected.
    """
    x = jnp.asarray(bits, jnp.float32)[:, :, None]
    one = _inverse_softplus(step)
    zero = one if printed else _inverse_softplus(reset)
    delta = jax.nn.softplus((one - zero) * x + zero)
    ones = jnp.ones_like(x)
    B, C = x / step, ones if printed else x
    A, one_group = -jnp.ones((1, 1)), (slice(None), slice(None), None)
    return Recurrence(x, delta, A, B[one_group], C[one_group], jnp.zeros(1))


def _inverse_softplus(step: float) -> float:
    return float(step + np.log(-np.expm1(-step)))


def softmax_head(
    x: Float[Array, "b l"],
    query_key: Float[Array, ""] | float,
    value: Float[Array, ""] | float,
) -> Float[Array, "b"]:
    """Return the last output of a softmax head that reads scalars without positions.

        y = sum_j softmax_j(w_QK x_l x_j) w_V x_j

    A sum over j does not see the order of the earlier tokens.

    Args:
      x: the tokens.
      query_key: w_QK = W_Q W_K.
      value: w_V.

    Examples:
      >>> x = jnp.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
      >>> softmax_head(x, 0.0, 3.0).tolist()  # right twice; the last should be 1
      [2.0, 1.0, 2.0]

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, lemma 2.
    """
    attention = jax.nn.softmax(query_key * x[:, -1:] * x, axis=1)
    return value * jnp.sum(attention * x, axis=1)


def softmax_head_error(query_key: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the least squared error of a softmax head on 011, 001 and 101.

    With e = exp(w_QK) the head gives w_V a on 011 and on 101, which differ only in the
    order of earlier tokens, and w_V b on 001:

        a = 2 e / (2 e + 1),  b = e / (e + 2)

    while the runs are 2, 1 and 1. The best w_V is linear least squares; what it leaves,

        6 - (3 a + b)^2 / (2 a^2 + b^2),

    is 1/2 at e = 5/2, w_V = 9/5, where 001 is right and the other two are missed by 1/2
    each, and it is never less: whatever one number s stands for both, (s - 2)^2 +
    (s - 1)^2 >= 1/2. So no head counts in a row, nor does one of any width, as long as
    earlier tokens enter by a sum without positions.

    Args:
      query_key: w_QK, any number of them.

    Examples:
      >>> round(float(softmax_head_error(jnp.log(jnp.array(2.5)))), 6)
      0.5
      >>> round(float(softmax_head_error(jnp.array(0.0))), 6)  # the proof's e = 1
      0.555556

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, lemma 2; the bound is ours.
    """
    # a and b as sigmoids, which no w_QK makes overflow
    a = jax.nn.sigmoid(query_key + float(np.log(2)))
    b = jax.nn.sigmoid(query_key - float(np.log(2)))
    return 6 - (3 * a + b) ** 2 / (2 * a**2 + b**2)


@on_any_mesh
def without_decay(recurrence: Recurrence) -> Recurrence:
    """Return a layer's selective parameters with A = 0, so that no state decays.

    exp(delta A) = 1 then, and the hidden attention is

        alpha[i, j] = (C[i] . B[j]) delta[j],  j <= i

    Examples:
      >>> from jmamba.attention import hidden_attention
      >>> recurrence = without_decay(counting_channel(np.array([[1, 0, 1]])))
      >>> hidden_attention(recurrence)[0, 0].round().astype(int).tolist()
      [[1, 0, 0], [0, 0, 0], [1, 0, 1]]

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, lemma 3.
    """
    return recurrence._replace(A=jnp.zeros_like(recurrence.A))


@on_any_mesh
def linear_attention(recurrence: Recurrence) -> Float[Array, "b l d"]:
    """Return causal linear attention with the queries C, keys B and values delta u.

        y[i] = sum_{j <= i} (C[i] . B[j]) delta[j] u[j]

    This is what a selective layer is without decay, channel by channel, and all that
    lemma 3 shows: its proof leaves out the softmax.

    Args:
      recurrence: of one group and a head per channel; A, D and z are not used.

    Examples:
      >>> from jmamba.layers import run_recurrence
      >>> recurrence = without_decay(counting_channel(np.array([[1, 0, 1]])))
      >>> y, _ = run_recurrence(recurrence)
      >>> bool(jnp.allclose(linear_attention(recurrence), y))
      True

    References:
      Ali, Zimerman & Wolf, arXiv 2403.01590, lemma 3; Katharopoulos et al.,
      "Transformers are RNNs", arXiv 2006.16236, section 3.3.
    """
    dtype = recurrence.delta.dtype
    B, C = (x.astype(dtype)[:, :, 0] for x in (recurrence.B, recurrence.C))
    scores = jnp.einsum("bin,bjn->bij", C, B, precision="highest")
    causal = jnp.tri(scores.shape[-1], dtype=bool)[None]
    values = recurrence.delta * recurrence.u.astype(dtype)
    return jnp.einsum(
        "bij,bjd->bid", jnp.where(causal, scores, 0), values, precision="highest"
    )
