"""The one walk over the layers of a model: it reads and edits what passes.

Blocks of one kind are stacked along a leading layer axis and run in one scan, so that
compile time does not grow with depth.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING
from jmamba.layers.in_place import pick_layer
from jmamba.layers.places import Keeping
from jmamba.layers.runs import Run, cut_by_runs, join_layers
from jmamba.ops.rematerialisation import scans_like_products
from jmamba.ops.sharding import is_spread

PLACES = (
    "residual_in",
    "recurrence",
    "state",
    "y",
    "gated",
    "output",
    "residual_out",
)
"""Where any block can be edited, in the order of its forward pass.

Beside these are the places of the block itself, `block.places`: what its mixer makes,
each kind of its own.

residual_in   the residual stream entering the block
recurrence    what the mixer projects its input to
state         the recurrence's state before the first token; None for an empty one
y             what the recurrence puts out, D u included; a pair of two directions
gated         what the output projection reads
output        what the mixer puts out
residual_out  the residual stream leaving the block
"""

Remat = bool | Callable[..., Any]
"""Whether the backward pass computes a layer again, or a policy that says what is kept.

A policy is one of `jax.checkpoint_policies`. It may name the places of `PLACES`, but
for "y", and "scan" for what a recurrence puts out.
"""

Edits = Mapping[str, Callable[..., Any]]
"""Place -> edit(value, own), which returns what passes on in the value's stead.

At "h" states pass token by token, and an edit is edit(value, own, token). At "alpha"
no matrix is made: edit(recurrence, own) returns what is added to y.
"""


def walk(
    runs: Sequence[Run],
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    own: Any = None,
    *,
    reverse: bool = False,
    remat: Remat = False,
    in_place: bool = False,
) -> tuple[Any, Any]:
    """Go from layer to layer, in one scan per run.

    Args:
      runs: the layers, as a model's `runs()`.
      step: called as step(block, carry, own) -> (carry, found) at every layer.
      carry: what is handed from layer to layer.
      own: a pytree with a leading axis of layers, of which each gets its own part; it
        may hold what a walk found.
      reverse: whether to go from the last layer to the first.
      remat: whether the backward pass computes each step again; or a policy that says
        which values it keeps instead, to which a recurrence counts as a product:
        `jax.checkpoint_policies.dots_saveable` keeps both.
      in_place: whether large matrices are read where those of all layers lie, which is
        for a single token; see `pick_layer`.

    Returns:
      The last carry, and what was found, with a leading axis of layers; where kinds of
      layers find other trees or shapes, a `ByRun` of them.

    Examples:
      >>> import jax.numpy as jnp
      >>> run = Run(slice(0, 3), jnp.array([2.0, 3.0, 5.0]), open=lambda weight: weight)
      >>> total, found = walk([run], lambda w, x, _: (x * w, x), jnp.array(1.0))
      >>> float(total), found.tolist()
      (30.0, [1.0, 2.0, 6.0])
    """
    owns, found = cut_by_runs(own, [run.layers for run in runs]), []
    pairs = list(zip(runs, owns, strict=True))
    for (layers, parameters, open_block), mine in reversed(pairs) if reverse else pairs:

        def body(carry, layer, open_block=open_block, stacked=parameters):
            given, own = layer
            parameters = pick_layer(stacked, given) if in_place else given
            return step(open_block(parameters), carry, own)

        given = jnp.arange(layers.stop - layers.start) if in_place else parameters

        if remat is not False:
            policy = None if remat is True else scans_like_products(remat)
            body = jax.checkpoint(body, policy=policy)
        carry, seen = jax.lax.scan(body, carry, (given, mine), reverse=reverse)
        found.append(seen)
    return carry, join_layers(found[::-1] if reverse else found)


class Passed(NamedTuple):
    """What came of a walk through the blocks of a model.

    Attributes:
      x: the residual stream after the last block.
      cache: what each block remembers of the tokens.
      carry: of `visit`.
      found: what `read` returned, with a leading axis of layers, or a `ByRun`.
    """

    x: Float[Array, "b l m"]
    cache: Any
    carry: Any
    found: Any


def run_layers(
    runs: Sequence[Run],
    x: Float[Array, "b l m"],
    *,
    read: Callable[[Any, Any, Any], Any] | None = None,
    visit: tuple[Callable, Any] | None = None,
    only: Sequence[int] | None = None,
    edit: Edits = MappingProxyType({}),
    edits: Any = None,
    show: Collection[str] = (),
    first: Int[Array, ""] | None = None,
    cache: Any = None,
    remat: Remat = False,
    **options: Any,
) -> Passed:
    """Run the blocks, reading and editing what passes.

    Args:
      runs: the layers, as a model's `runs()`.
      x: the residual stream before the first block.
      read: called as read(block, x_in, output of the block) behind each block; what it
        returns is stacked over layers.
      visit: a pair of visit(carry, x_in, output of the block) -> carry and the first
        carry, for what is not kept of every layer.
      only: layers, in ascending order, whose readings are kept; None for all. Memory
        grows with these.
      edit: some of `PLACES`, and of the places of some block -> edit(value, own) ->
        value of the same shape; blocks without the place pass it by. An edit of "y", or
        inside of the recurrence, takes the gate out of the fused recurrence; the others
        leave it there.
      edits: what an edit is given as its own, a pytree with a leading axis of layers.
      show: places whose values are in `out.seen` of the output that is read, as they
        are after their edits.
      first: the layer that `x` enters, which may be traced: those before it are passed
        by, cost nothing and are read as zeros; there are no cache and no `visit` then.
        None for layer 0.
      cache: what each block remembers of earlier tokens, or None.
      remat: whether the backward pass recomputes each block, or a policy; see `walk`.
      **options: keywords of the blocks.

    Raises:
      ValueError: there is no such place.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> x = model.embed(jnp.array([list(b"hello")]))
      >>> def silence(output, layer):
      ...     return jnp.where(layer == 1, 0, output)
      >>> walked = run_layers(
      ...     model.runs(), x, edit={"output": silence}, edits=jnp.arange(2)
      ... )
      >>> bool(jnp.allclose(walked.x, model.layer(0)(x).x, atol=1e-6))
      True
    """
    check_places(runs, {*edit, *show})
    see, carry = visit or (lambda carry, x, out: carry, None)
    owns = cut_by_runs((cache, edits), [run.layers for run in runs])
    caches, readings = [], []
    is_ordinary = options.get("frozen", NOTHING).linear is None
    is_single = x.shape[0] * x.shape[1] == 1
    in_place = is_single and is_ordinary and not is_spread((x, runs[0].parameters))
    for run, own in zip(runs, owns, strict=True):
        chosen = None if only is None else [i for i in only if i in run]
        if chosen and len(chosen) == run.layers.stop - run.layers.start:
            chosen = None  # all: the scan stacks them where they are made
        looked = read if chosen != [] else None
        look: Any = _Look(looked, edit, tuple(show), options)
        if first is not None:
            numbers = np.arange(run.layers.start, run.layers.stop)
            look, own = partial(_look_from, first, look), (numbers, own)
        (x, carry), (made, found) = _pass_run(
            *(run, look, see, (x, carry), own, chosen), remat=remat, in_place=in_place
        )
        caches.append(made)
        if chosen != []:
            readings.append(found)
    return Passed(x, join_layers(caches), carry, join_layers(readings))


class _Look(NamedTuple):
    """What is asked of every block of a run; see `run_layers`."""

    read: Callable[[Any, Any, Any], Any] | None
    edit: Edits
    show: Sequence[str]
    options: Mapping[str, Any]

    def __call__(self, block: Any, x: Any, own: Any) -> tuple[Any, Any]:
        """Return what a block puts out, and what is read of it."""
        cache, mine = own
        names, asked = {*PLACES, *_names(block)}, {}
        if shown := names.intersection(self.show):
            asked["show"] = shown
        if edits := {k: v for k, v in self.edit.items() if k in names}:
            asked["edit"] = {k: _with_own(v, mine) for k, v in edits.items()}
        out = block(x, cache=cache, **self.options, **asked)
        return out, None if self.read is None else self.read(block, x, out)


class _Left(NamedTuple):
    """What a block leaves that may have been passed by."""

    x: Any
    cache: None = None


def _look_from(first: Any, look: _Look, block: Any, x: Any, own: Any):
    """Return what `look` does, or the residual stream itself before the first layer."""
    number, own = own

    def go(x):
        out, found = look(block, x, own)
        return out.x, found

    nothing = jax.eval_shape(go, x)[1]

    def pass_by(x):
        return x, jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), nothing)

    x, found = jax.lax.cond(number >= first, go, pass_by, x)
    return _Left(x), found


def _pass_run(run: Run, look: Callable, see: Callable, carry, own, chosen, **how):
    """Run the blocks of one run; return the carry, their caches, and what is read."""
    x, seen = carry
    kept = keeping = None
    if chosen:
        keeping = Keeping(chosen, run.layers)
        parameters, mine = jax.tree.map(lambda x: x[0], (run.parameters, own))
        kept = keeping.empty(
            jax.eval_shape(
                lambda given, x, own: look(run.open(given), x, own)[1],
                *(parameters, x, mine),
            )
        )

    def step(block, carry, own):
        x, seen, kept = carry
        out, found = look(block, x, own)
        if keeping is not None:
            kept, found = keeping.put(kept, found), None
        return (out.x, see(seen, x, out), kept), (out.cache, found)

    (x, seen, kept), found = walk([run], step, (x, seen, kept), own, **how)
    if keeping is not None:
        found = found[0], keeping.take(kept)
    return (x, seen), found


def check_places(runs: Sequence[Run], names: Collection[str]) -> None:
    """Raise unless all names are places of some block.

    Raises:
      ValueError: one is not.
    """
    if set(names) <= set(PLACES):
        return
    own = [name for run in runs for name in _names(run.open(run.parameters))]
    unknown = sorted(set(names) - {*PLACES, *own})
    if unknown:
        raise ValueError(
            f"There is no place {', '.join(map(repr, unknown))} to edit or read; "
            f"give some of {', '.join(dict.fromkeys((*own, *PLACES)))}."
        )


def _names(block: Any) -> list[str]:
    return [place.name for place in getattr(block, "places", ())]


def _with_own(change: Callable[..., Any], own: Any) -> Callable[..., Any]:
    return lambda value, *token: change(value, own, *token)
