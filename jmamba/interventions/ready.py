"""Ready-made edits: patching, ablating, freezing, steering."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Float, Int

from jmamba.interventions.captured import Captured
from jmamba.interventions.edits import Edit, add, replace, zero
from jmamba.interventions.names import find_spelling
from jmamba.interventions.points import Selection

SELECTIVE = ("delta", "B", "C")
"""What a selection makes of its input."""


def patch(name: str, source: Captured, **where: Selection) -> Edit:
    """Put in what passed in another run.

    Args:
      name: of the place.
      source: of `capture(model, other_inputs, name)`, all layers and tokens.
      **where: `layers`, `positions`, `channels`, `heads`, `states`; see `Point`.

    Raises:
      ValueError: layers or tokens were left out when it was captured.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.interventions import capture, run
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> hello, world = jnp.array([list(b"hello")]), jnp.array([list(b"world")])
      >>> whole = patch("embedding", capture(model, world, "embedding"))
      >>> out = run(model, hello, whole).logits
      >>> bool(jnp.allclose(out, model(world).logits, atol=1e-5))
      True

    References:
      Meng et al., "Locating and editing factual associations in GPT", arXiv
      2202.05262, section 2.1.
    """
    value = source[name]
    if source.positions is not None:
        raise ValueError(
            f"The source holds tokens {list(source.positions)} only, and a patch takes "
            "each token's from the same place: capture without positions=."
        )
    place = find_spelling(source.places, name).place
    if value.ndim > len(place.axes) and where.get("layers") is None:
        where = {**where, "layers": source.layers}
    return replace(name, value, **where)


def patch_state(
    source: Captured,
    token: int,
    *,
    name: str = "h",
    to: int | None = None,
    **where: Any,
) -> Edit:
    """Go on from the state that another run had after a token.

    What the recurrence of the chosen layers has read by then is the other prompt; what
    it reads later, and what the convolution reads, is this one's.

    Args:
      source: of `capture(model, other_inputs, "h")`; of some positions, too.
      token: after which the state is taken.
      name: "h", or of a direction "forward.h" or "backward.h".
      to: after which token it is put in; None for the same.
      **where: `layers`, `channels`, `heads`, `states`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.interventions import capture
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> source = capture(model, jnp.array([list(b"hello")]), "h", positions=[3])
      >>> patch_state(source, 3).value.shape  # s b l d n, of one token
      (2, 1, 1, 32, 16)
    """
    tokens = source.positions or tuple(range(source[name].shape[2]))
    if token not in tokens:
        raise ValueError(
            f"token={token}: the source holds states after {list(tokens)}; capture it "
            f"with positions=[{token}]."
        )
    index = tokens.index(token)
    value = source[name][:, :, index : index + 1]
    to = token if to is None else to
    return replace(name, value, **{"layers": source.layers, "positions": to, **where})


def freeze_selection(
    source: Captured,
    *,
    names: Sequence[str] = SELECTIVE,
    **where: Selection,
) -> tuple[Edit, ...]:
    """Select as another run did: delta, B and C are its, values are this run's.

    Args:
      source: of `capture(model, other_inputs, ["delta", "B", "C"])`.
      names: of what is frozen; of a direction "forward.delta", ....
      **where: `layers` and `positions`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.interventions import capture
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> source = capture(model, jnp.array([list(b"hello")]), SELECTIVE)
      >>> [edit.point.name for edit in freeze_selection(source)]
      ['delta', 'B', 'C']
    """
    return tuple(patch(name, source, **where) for name in names)


def ablate(part: str, **where: Selection) -> Edit:
    """Take a part of layers out.

    Args:
      part: "layer" for all that it adds; "channel" or "head" for what the output
        projection reads of those that are chosen; "recurrence" for what is read through
        the states, so that D u stays; "convolution" for what it reads of earlier
        tokens; "gate" for silu(z), which is 1 then.
      **where: `layers`, `positions`, `channels`, `heads`.

    Raises:
      ValueError: the part is unknown.

    Examples:
      >>> ablate("head", layers=3, heads=[1]).point.name
      'gated'
    """
    if part == "gate":
        return replace("gate", 1.0, **where)
    if part not in ABLATED:
        known = ", ".join(sorted((*ABLATED, "gate")))
        raise ValueError(f"part={part!r} of a layer is unknown; give one of {known}.")
    return zero(ABLATED[part], **where)


ABLATED = {
    "layer": "output",
    "channel": "gated",
    "head": "gated",
    "recurrence": "attended",
    "convolution": "conv_past",
}
"""What is zero where a part is taken out."""


def steer(
    vector: Float[Array, "m"], layer: int | Int[Array, ""], **where: Selection
) -> Edit:
    """Add a vector to the residual stream that leaves a layer.

    Args:
      vector: what is added to every chosen token.
      layer: behind which it is.
      **where: `positions`.

    Examples:
      >>> import jax.numpy as jnp
      >>> steer(jnp.ones(16), layer=2).point.layers
      2

    References:
      Turner et al., "Steering language models with activation engineering", arXiv
      2308.10248.
    """
    return add("residual_out", vector, layers=layer, **where)
