"""The one walk over the layers of a model: it reads and edits what passes.

Blocks of one kind are stacked along a leading layer axis and run in one scan, so that
compile time does not grow with depth.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.places import Keeping
from jmamba.ops.rematerialisation import scans_like_products

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


def stack_layers(
    make_block: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs
) -> Any:
    """Return a module whose parameters have a leading axis of `count` layers."""
    make = nnx.vmap(make_block, in_axes=(0,), out_axes=0)
    return nnx.split_rngs(splits=count)(make)(rngs)


def take_layers(blocks: Any, part: slice | int) -> Any:
    """Return some of the stacked blocks as a stack, or one of them by its number."""
    graphdef, state = nnx.split(blocks)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[part], state))


class Merge(NamedTuple):
    """Makes a block of its parameters; equal ones compile once."""

    graphdef: nnx.GraphDef

    def __call__(self, state: Any) -> Any:
        """Return the block."""
        return nnx.merge(self.graphdef, state)


class Run(NamedTuple):
    """Consecutive layers of one kind.

    Attributes:
      layers: which of a model's they are.
      parameters: of all of them, stacked along a leading axis.
      open: makes a block of the parameters of one layer.
    """

    layers: slice
    parameters: Any
    open: Callable[[Any], Any]

    @classmethod
    def of(cls, blocks: nnx.Module, layers: slice) -> "Run":
        """Return stacked blocks as a run."""
        graphdef, state = nnx.split(blocks)
        return cls(layers, state, Merge(graphdef))

    def block(self, index: int) -> Any:
        """Return one block, by its number in the model."""
        place = index - self.layers.start
        return self.open(jax.tree.map(lambda x: x[place], self.parameters))


def cut_runs(runs: Sequence[Run], start: int, stop: int) -> list[Run]:
    """Return layers start to stop - 1 as runs."""
    kept = []
    for layers, parameters, open_block in runs:
        first, last = max(start, layers.start), min(stop, layers.stop)
        if first >= last:
            continue
        if (first, last) != (layers.start, layers.stop):
            part = slice(first - layers.start, last - layers.start)
            parameters = jax.tree.map(lambda x, part=part: x[part], parameters)
        kept.append(Run(slice(first, last), parameters, open_block))
    return kept


def walk(
    runs: Sequence[Run],
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    own: Any = None,
    *,
    reverse: bool = False,
    remat: Remat = False,
) -> tuple[Any, Any]:
    """Go from layer to layer, in one scan per run.

    Args:
      runs: the layers, as a model's `runs()`.
      step: called as step(block, carry, own) -> (carry, found) at every layer.
      carry: what is handed from layer to layer.
      own: a pytree with a leading axis of layers, of which each gets its own part.
      reverse: whether to go from the last layer to the first.
      remat: whether the backward pass computes each step again; or a policy that says
        which values it keeps instead, to which a recurrence counts as a product:
        `jax.checkpoint_policies.dots_saveable` keeps both.

    Returns:
      The last carry, and what was found, with a leading axis of layers.

    Examples:
      >>> run = Run(slice(0, 3), jnp.array([2.0, 3.0, 5.0]), open=lambda weight: weight)
      >>> total, found = walk([run], lambda w, x, _: (x * w, x), jnp.array(1.0))
      >>> float(total), found.tolist()
      (30.0, [1.0, 2.0, 6.0])
    """
    whole, found = len(runs) == 1, []
    first = runs[0].layers.start
    for layers, parameters, open_block in reversed(runs) if reverse else runs:
        part = slice(layers.start - first, layers.stop - first)
        mine = own if whole else jax.tree.map(lambda x, part=part: x[part], own)

        def body(carry, layer, open_block=open_block):
            parameters, own = layer
            return step(open_block(parameters), carry, own)

        if remat is not False:
            policy = None if remat is True else scans_like_products(remat)
            body = jax.checkpoint(body, policy=policy)
        carry, seen = jax.lax.scan(body, carry, (parameters, mine), reverse=reverse)
        found.append(seen)
    return carry, join_layers(found[::-1] if reverse else found)


def join_layers(parts: Sequence[Any]) -> Any:
    """Return what consecutive layers made, stacked along the leading axis."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


class Passed(NamedTuple):
    """What came of a walk through the blocks of a model.

    Attributes:
      x: the residual stream after the last block.
      cache: what each block remembers of the tokens.
      carry: of `visit`.
      found: what `read` returned, with a leading axis of layers.
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
      edit: some of `PLACES`, and of the places of the blocks -> edit(value, own) ->
        value of the same shape. An edit of "y", or inside of the recurrence, takes the
        gate out of the fused recurrence; the others leave it there.
      edits: what an edit is given as its own, a pytree with a leading axis of layers.
      show: places whose values are in `out.seen` of the output that is read, as they
        are after their edits.
      cache: what each block remembers of earlier tokens, or None.
      remat: whether the backward pass recomputes each block, or a policy; see `walk`.
      **options: keywords of the blocks.

    Raises:
      ValueError: there is no such place.

    Examples:
      >>> import jmamba
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
    look = read or (lambda block, x, out: None)
    whole = slice(runs[0].layers.start, runs[-1].layers.stop)
    keeping = None if only is None else Keeping(only, whole)

    def pass_block(block, x, own):
        cache, mine = own
        asked: dict[str, Any] = {"show": show} if show else {}
        if edit:
            own_edits = {name: _with_own(change, mine) for name, change in edit.items()}
            asked["edit"] = own_edits
        out = block(x, cache=cache, **options, **asked)
        return out, look(block, x, out)

    def step(block, carry, own):
        x, seen, kept = carry
        out, found = pass_block(block, x, own)
        if keeping is not None:
            kept, found = keeping.put(kept, found), None
        return (out.x, see(seen, x, out), kept), (out.cache, found)

    kept = None
    if keeping is not None:
        parameters, own = jax.tree.map(
            lambda x: x[0], (runs[0].parameters, (cache, edits))
        )
        kept = keeping.empty(
            jax.eval_shape(
                lambda *given: pass_block(runs[0].open(given[0]), *given[1:])[1],
                *(parameters, x, own),
            )
        )
    (x, carry, kept), (cache, found) = walk(
        runs, step, (x, carry, kept), (cache, edits), remat=remat
    )
    return Passed(x, cache, carry, found if keeping is None else keeping.take(kept))


def check_places(runs: Sequence[Run], names: Collection[str]) -> None:
    """Raise unless all names are places of all blocks.

    Raises:
      ValueError: one is not.
    """
    if set(names) <= set(PLACES):
        return
    for run in runs:
        own = [place.name for place in run.open(run.parameters).places]
        unknown = sorted(set(names) - {*PLACES, *own})
        if unknown:
            raise ValueError(
                f"There is no place {', '.join(map(repr, unknown))} to edit or read; "
                f"give some of {', '.join(dict.fromkeys((*own, *PLACES)))}."
            )


def _with_own(change: Callable[..., Any], own: Any) -> Callable[..., Any]:
    return lambda value, *token: change(value, own, *token)
