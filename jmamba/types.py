"""The axis glossary and the types that models and analyses share: read this first.

Axes, one letter each, the same in every file:

    b  batch                 m  model width (d_model)
    l  length, tokens        r  rank of the step-size projection (dt_rank)
    d  channels (d_inner)    k  window of the convolution (d_conv)
    n  states (d_state)      v  vocabulary, classes
    g  groups of B and C     s  chosen layers
    q  query positions       c  chosen channels

Quantities, with the paper's letters (Gu & Dao, arXiv 2312.00752):

    A, B, C, D   rates, input gates, output gates, skip weights
    delta        step sizes, positive
    u            what enters the recurrence: the convolved, activated input
    h            states;  y  what leaves the recurrence;  z  the gate's argument
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int, UInt

Tokens = Int[Array, "b l"] | UInt[Array, "b l"]
Images = Float[Array, "b height width colours"]


class SSMInputs(NamedTuple):
    """The selective parameters of one layer, as `Mixer.ssm_inputs` makes them.

    With `y, _ = selective_scan(*ssm[:7])` the mixer's output is `out_proj(y)`. A trace
    holds the same with a leading axis of chosen layers.
    """

    u: Float[Array, "*s b l d"]
    delta: Float[Array, "*s b l d"]
    A: Float[Array, "*s d n"]
    B: Float[Array, "*s b l n"]
    C: Float[Array, "*s b l n"]
    D: Float[Array, "*s d"]
    z: Float[Array, "*s b l d"]
    conv_state: Float[Array, "*s b d k-1"]


class Orders(NamedTuple):
    """The matrices P with which the directions of a layer sort their tokens.

    Token k of the new order is sum_j P[k, j] token j, counted as the direction reads.
    """

    forward: Float[Array, "*s b l l"]
    backward: Float[Array, "*s b l l"]


class BidirectionalInputs(NamedTuple):
    """The selective parameters of both directions of a layer of Vision Mamba.

    Those of `backward` run from the last token to the first: flip their length axis to
    compare tokens. If the layer sorts its tokens, parameters stand in the order of its
    `orders`, but for the gate's argument z, which stays with the tokens.
    """

    forward: SSMInputs
    backward: SSMInputs
    orders: Orders | None = None


class LayerCache(NamedTuple):
    """What a layer remembers of the tokens so far; a model's has a leading layer axis.

    `conv_state` holds the last k-1 inputs of the convolution, `ssm_state` the state of
    the recurrence. Its size does not depend on how many tokens there were.
    """

    conv_state: Float[Array, "*s b d k-1"]
    ssm_state: Float[Array, "*s b d n"]
