"""The axis glossary and the types that layers and analyses share: read this first.

Axes, one letter each, the same in every file:

    b  batch                 m  model width (d_model)
    l  length, tokens        r  rank of the step-size projection (dt_rank)
    d  channels (d_inner)    k  window of the convolution (d_conv)
    h  heads                 p  width of a head: d = h p
    n  states (d_state)      g  groups of heads that share B and C
    v  vocabulary, classes   s  chosen layers
    q  query positions       c  chosen channels or heads

Quantities, with the paper's letters (Gu & Dao, arXiv 2312.00752) and their names in
linear attention:

    C, B, u      output gates, input gates, inputs: queries, keys, values
    delta, A     step sizes, positive, and rates: a step decays by exp(delta A)
    D            skip weights
    h            states;  y  what leaves the recurrence;  z  the gate's argument
    alpha        hidden attention: y_i = sum_j alpha_ij u_j + D u_i
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax.export
from jaxtyping import Array, Float, Int, UInt

Tokens = Int[Array, "b l"] | UInt[Array, "b l"]
Images = Float[Array, "b height width colours"]


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy makes an array of: arrays of NumPy and JAX, tensors of torch."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """Return an array of NumPy."""
        ...


ArrayLike = SupportsArray | Sequence[Any]
"""What functions take for an array: one of any library, or nested lists of numbers."""

KeyLike = Array | SupportsArray | int
"""What functions take for a key of random numbers: a key, or a seed."""

Kind = TypeVar("Kind", bound=type)


def exportable(kind: Kind) -> Kind:
    """Let `jax.export` write a NamedTuple into a serialised program, by its name.

    Examples:
      >>> @exportable
      ... class Pair(NamedTuple):
      ...     x: Array
      >>> double = jax.jit(lambda pair: Pair(2 * pair.x))
      >>> program = jax.export.export(double)(Pair(jax.numpy.ones(2)))
      >>> program.call(Pair(jax.numpy.ones(2)))  # as bytes: program.serialize()
      Pair(x=Array([2., 2.], dtype=float32))
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    jax.export.register_namedtuple_serialization(kind, serialized_name=name)
    return kind


@exportable
class Recurrence(NamedTuple):
    """A gated linear recurrence in the form that all layers share, one head at a time.

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]^T
        y[t] = h[t]^T C[t] + D u[t]

    with h (n, p) per head; B and C are those of the head's group, and decays stay in
    the factors delta and A. So y = (alpha + D) u with one matrix alpha per head,

        alpha[i, j] = C[i] . exp(A (delta[j+1] + ... + delta[i])) B[j] delta[j]

    which p channels share. A Mamba-1 layer has a head per channel (p = 1) and one
    group; a Mamba-2 layer has heads of p channels with one rate each; retention has
    constant decays, delta = 1 and A = log gamma.

    A trace holds the same with a leading axis of chosen layers.

    Attributes:
      u: inputs (values).
      delta: step sizes, positive.
      A: rates of decay of every state of a head, or one for all of them.
      B: input gates (keys).
      C: output gates (queries).
      D: skip weights; None for no skip.
      z: the argument of the gate behind the recurrence, None if there is none. How a
        layer's output is finished with it, only the layer knows.

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, section 3.2; Dao & Gu, "Transformers are
      SSMs", arXiv 2405.21060, section 5, for heads and groups.
    """

    u: Float[Array, "*s b l d"]
    delta: Float[Array, "*s b l h"]
    A: Float[Array, "*s h n"]
    B: Float[Array, "*s b l g n"]
    C: Float[Array, "*s b l g n"]
    D: Float[Array, "*s d"] | None = None
    z: Float[Array, "*s b l d"] | None = None


@exportable
class GatedRecurrence(NamedTuple):
    """A gated linear recurrence of which each token makes its own decay and erasure.

        S[t] = G[t] S[t-1] + w[t] keys[t] values[t]^T
        y[t] = S[t]^T queries[t]
        G[t] = (I - e[t] f[t]^T) diag(exp(log_decay[t]))

    with S (n, p) per head. So y = alpha values with one matrix per head,

        alpha[i, j] = w[j] queries[i]^T G[i] ... G[j+1] keys[j]

    Diagonal G is gated linear attention, a rank-one part e f^T is the delta rule, which
    takes away what the state holds under f before it writes. `jmamba.recurrences` makes
    these of the parameters of each kind of layer.

    Attributes:
      queries, keys: of every head.
      values: of every head.
      log_decay: logarithm of what a step keeps, of every state or one for all of them.
      erase_writes: e, along which is taken away; None for `keys`, as where a token
        replaces what the state holds.
      erase_reads: f, under which is read what is taken away; None for no erasure.
      log_weights: log w, of what weighs tokens by exponentials; None for w = 1. Decays
        must then be one per head.
      bonus: weight of a token's own key, of every state. The state is then read before
        the token decays it: alpha[i, j] holds G[i-1] ... G[j+1]. None for neither.
      floor: alpha's rows are over max(|their sum|, floor), per head; None for no
        division.
      z: the argument of the gate behind the recurrence, None where none is known; see
        `Recurrence`.

    References:
      Yang et al., "Gated Linear Attention", arXiv 2312.06635, section 4; "Parallelizing
      Linear Transformers with the Delta Rule", arXiv 2406.06484, section 3.
    """

    queries: Float[Array, "*s b l h n"]
    keys: Float[Array, "*s b l h n"]
    values: Float[Array, "*s b l h p"]
    log_decay: Float[Array, "*s b l h rates"]
    erase_writes: Float[Array, "*s b l h n"] | None = None
    erase_reads: Float[Array, "*s b l h n"] | None = None
    log_weights: Float[Array, "*s b l h"] | None = None
    bonus: Float[Array, "*s h n"] | None = None
    floor: Float[Array, "*s h"] | None = None
    z: Float[Array, "*s b l d"] | None = None

    @property
    def erasure(self) -> tuple[Any, Any] | None:
        """What is taken away along and under: e and f; None for no erasure."""
        if self.erase_reads is None:
            return None
        writes = self.keys if self.erase_writes is None else self.erase_writes
        return writes, self.erase_reads

    @property
    def bare(self) -> "GatedRecurrence":
        """The same without the gate behind it, all of whose parts are of heads."""
        return self._replace(z=None)


OF_HEADS = ("bonus", "floor")
"""Parts of a `GatedRecurrence` that all tokens share; the others are (b, l, h, ...)."""


@exportable
class Orders(NamedTuple):
    """The matrices P with which the directions of a layer sort their tokens.

    Token k of the new order is sum_j P[k, j] token j, counted as the direction reads.
    """

    forward: Float[Array, "*s b l l"]
    backward: Float[Array, "*s b l l"]


@exportable
class BidirectionalRecurrence(NamedTuple):
    """The recurrences of a layer that reads its tokens in both directions.

    `backward` runs from the last token to the first: flip its length axis to compare
    tokens. If the layer sorts its tokens, parameters stand in the order of its
    `orders`, but for the gate's argument z, which stays with the tokens.
    """

    forward: Recurrence
    backward: Recurrence
    orders: Orders | None = None


@exportable
class SoftmaxAttention(NamedTuple):
    """Softmax attention, head by head.

        y[i] = sum_j alpha[i, j] values[j]
        alpha[i, .] = softmax over begins[i] <= j <= places[i] of queries[i] . keys[j]

    Queries are scaled already, and rotated like keys where a layer rotates them. A head
    reads the keys and values of its group.

    Attributes:
      queries: of every head.
      keys, values: of every group of heads.
      places: of the tokens in their text, those of earlier calls counted.
      begins: the first place that a token sees.
      z: the argument of the gate behind attention; None if there is none.

    References:
      Vaswani et al., "Attention is all you need", arXiv 1706.03762, section 3.2;
      Ainslie et al., "GQA", arXiv 2305.13245, for groups.
    """

    queries: Float[Array, "*s b l h n"]
    keys: Float[Array, "*s b l g n"]
    values: Float[Array, "*s b l g p"]
    places: Int[Array, "*s b l"]
    begins: Int[Array, "*s b l"]
    z: Float[Array, "*s b l d"] | None = None


@exportable
class SideBySide(NamedTuple):
    """What a layer of two mixers that are added projects its input to.

    Its matrices are those of the recurrence, and behind them those of the attention.
    """

    recurrent: Any
    attention: SoftmaxAttention


AnyRecurrence = Recurrence | BidirectionalRecurrence
"""What a recurrent layer of a text's or an image's model projects its input to."""

OfHeads = GatedRecurrence | SoftmaxAttention
"""What has one matrix per head, into which nothing around can be folded."""


@exportable
class ByRun(NamedTuple):
    """What layers of several kinds hold: a part for each run of equal ones.

    Each part has a leading axis of layers, as a whole has it where all are alike.

    Examples:
      >>> import jax.numpy as jnp
      >>> both = ByRun((jnp.zeros((2, 5)), jnp.ones((1, 3))))
      >>> both.layer(2).tolist()
      [1.0, 1.0, 1.0]
    """

    parts: tuple[Any, ...]

    def layer(self, index: int) -> Any:
        """Return what one layer holds, counted over all parts from 0."""

        def count(part):
            return jax.tree.leaves(part)[0].shape[0]

        places = [(part, i) for part in self.parts for i in range(count(part))]
        part, place = places[index]
        return jax.tree.map(lambda x: x[place], part)


@exportable
class LayerCache(NamedTuple):
    """What a layer remembers of the tokens so far; a model's has a leading layer axis.

    `conv_state` holds the last k-1 inputs of the convolution, None where there is none;
    `ssm_state` the state of the recurrence. Its size does not depend on how many tokens
    there were.
    """

    conv_state: Float[Array, "*s b c k-1"] | None
    ssm_state: Float[Array, "*s b d n"]


@exportable
class SeenTokens(NamedTuple):
    """Which tokens the next one sees of those that softmax attention remembers.

    `length` tokens of each row are there, of which it sees those from `first` on.
    `conv_state` is that of a convolution in front, None where there is none.
    """

    length: Int[Array, "*s b"]
    first: Int[Array, "*s b"]
    conv_state: Float[Array, "*s b c k-1"] | None = None


@exportable
class KeyValues(NamedTuple):
    """Keys and values of tokens, with room for more of them: t places."""

    keys: Float[Array, "*s b t g n"]
    values: Float[Array, "*s b t g p"]


@exportable
class AttentionCache(NamedTuple):
    """What a layer of softmax attention remembers; it grows with the tokens."""

    reach: SeenTokens
    past: KeyValues


@exportable
class ParallelCache(NamedTuple):
    """What a layer of two mixers remembers."""

    recurrent: LayerCache
    attention: AttentionCache
