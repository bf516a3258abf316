"""Runs of a model that keep what passes, and change it."""

from collections.abc import Sequence

from jmamba.interventions.captured import Captured
from jmamba.interventions.names import locate_place
from jmamba.interventions.request import Edits, Inputs, check_bytes, open_intervention
from jmamba.interventions.walking import keep_values
from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh
from jmamba.requests import RESULT_BYTES, choose_layers, choose_positions

HEAVY = ("bldn", "blhn")
"""Axes of what is not kept unless it is asked for by name: states, and their like."""


@on_any_mesh
def capture(
    model: LayeredModel,
    inputs: Inputs,
    names: str | Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Captured:
    """Run a model and keep what passes at named places.

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images.
      names: of the places, see `locate_place`; None for all but states, decays and
        delta B, which are d_state times as large.
      layers: which layers to keep; None for all.
      positions: which tokens to keep; None for all.
      memory_limit: bytes that may be kept.

    Raises:
      ValueError: inputs do not fit the model, a name is unknown, a layer or token does
        not exist, or too much would be kept.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> kept = capture(model, jnp.array([list(b"hello")]), ["delta", "hook_h"])
      >>> kept["delta"].shape, kept["blocks.1.hook_h.4"].shape
      ((2, 1, 5, 32), (1, 32, 16))
    """
    return run(
        model,
        inputs,
        names=ordinary_names(model) if names is None else names,
        layers=layers,
        positions=positions,
        memory_limit=memory_limit,
    )


@on_any_mesh
def run(
    model: LayeredModel,
    inputs: Inputs,
    edits: Edits = (),
    *,
    names: str | Sequence[str] = (),
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    memory_limit: int = RESULT_BYTES,
) -> Captured:
    """Run a model with edits of what passes.

    Edits of one place are done in their order. Layers, tokens and values of edits are
    traced: other ones need no other program, and derivatives with respect to values are
    those of the edited run.

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images.
      edits: one or several, of `replace`, `add`, `scale`, `zero`, `average`,
        `resample`, `cut_attention`, or made of these, such as `patch`.
      names: of places whose values are kept, as they are after the edits.
      layers, positions, memory_limit: of what is kept, as in `capture`.

    Returns:
      The logits of the edited run, `run(...).logits`, and what was kept of it.

    Raises:
      ValueError: as in `capture`, or an edit cannot be done: see `check_edits`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> from jmamba.interventions import zero
      >>> silenced = run(model, tokens, zero("output", layers=[0, 1])).logits
      >>> bool(jnp.allclose(silenced, model.unembed(model.embed(tokens))))
      True
    """
    request = open_intervention(model, inputs, edits)
    names = (names,) if isinstance(names, str) else tuple(names)
    names = tuple(dict.fromkeys(locate_place(model, name).place.name for name in names))
    for name in names:
        if not request.places[name].axes:
            raise ValueError(
                f"{name!r} is never made as a whole; jmamba.attention.hidden_attention"
                "(trace(model, inputs).layer(i)) makes it of one layer."
            )
    chosen = choose_layers(layers, model.config.num_layers)
    tokens = None
    if positions is not None:
        length = model.count_tokens(request.inputs.shape)
        tokens = tuple(choose_positions(positions, length, "positions").tolist())
    check_bytes(request, names, len(chosen), tokens, memory_limit)
    logits, values = keep_values(*request[:4], names, chosen, tokens)
    return Captured(logits, values, chosen, tokens, model.places)


def ordinary_names(model: LayeredModel) -> tuple[str, ...]:
    """Return the names of all places but states and what is as large."""
    return tuple(p.name for p in model.places if p.axes and p.axes not in HEAVY)
