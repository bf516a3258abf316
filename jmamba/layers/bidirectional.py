"""The mixer of Vision Mamba, which reads tokens in both directions."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.layers.freezing import NOTHING, Frozen, stop_gradient
from jmamba.layers.gamma_rule import call_linear
from jmamba.layers.mixer import make_in_proj, make_out_proj
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.selection import Selection, Sort, run_ssm
from jmamba.models.vim.config import VimConfig
from jmamba.refinements.sorting import Tau, reorder_tokens
from jmamba.types import BidirectionalInputs, Orders


class BidirectionalMixer(nnx.Module):
    """Two selections, one per direction, between common projections.

        x, z = split(W_in x)
        out = W_out (run(forward(x, z)) + flip(run(backward(flip(x), flip(z))))) / 2

    where `run` is recurrence, skip and gate, and `/ 2` is there if `divide_out` is.

    A mixer that sorts has `sorting`: each direction runs on P u, P of its own. In the
    official mode the k-th token of the new order then meets the gate, and is added to
    the residual stream, of the k-th token in the old one; in the corrected mode P^T
    puts outputs back first. One layer of a model knows whether it sorts, the stack of
    all layers does not.

    References:
      Zhu et al., "Vision Mamba", arXiv 2401.09417, section 3.3, algorithm 1.
      Vo et al., arXiv 2410.03292, section 5.2, for sorting.
    """

    def __init__(self, config: VimConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.in_proj = make_in_proj(config, precision=precision, rngs=rngs)
        self.forward = Selection(config, precision=precision, rngs=rngs)
        self.backward = Selection(config, precision=precision, rngs=rngs)
        self.out_proj = make_out_proj(config, precision=precision, rngs=rngs)
        self.config = config
        self.sorting = None
        self.is_known = config.reorder == "none"

    @property
    def scale(self) -> float:
        """What the sum of both directions is multiplied with."""
        return 0.5 if self.config.divide_out else 1.0

    def ssm_inputs(
        self, x: Float[Array, "b l m"], *, frozen: Frozen = NOTHING, tau: Tau = None
    ) -> BidirectionalInputs:
        """Make the selective parameters of both directions.

        Args:
          x: normalised input.
          frozen: what derivatives take for constants; with the selection the order of
            tokens.
          tau: temperature of sorting, in place of the configuration's.

        Returns:
          Operands of `selective_scan`; those of `backward` run from the last token to
          the first, and those of a mixer that sorts in the order of its P.

        Raises:
          ValueError: this is the stack of layers of which some sort.
        """
        self._check_known()
        x = call_linear(self.in_proj, x, frozen.gammas.in_proj)
        x, z = jnp.split(x, 2, axis=-1)
        sides = (self.forward, x, z), (self.backward, flip(x), flip(z))
        if self.sorting is None:
            made = [side.select(x, z, frozen=frozen) for side, x, z in sides]
            return BidirectionalInputs(made[0], made[1])
        made, orders = [], []
        for side, x, z in sides:
            u, last = side.activate(x, frozen=frozen)
            is_backward = side is self.backward
            P = self.sorting.order(side, u, is_backward=is_backward, tau=tau)
            P = stop_gradient(P) if frozen.selection else P
            u = reorder_tokens(P, u)
            made.append(side.parametrise(u, z, last, frozen=frozen))
            orders.append(P)
        return BidirectionalInputs(made[0], made[1], Orders(orders[0], orders[1]))

    def mix(
        self, ssm: BidirectionalInputs, *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Run both recurrences and project the sum of what they put out.

        Raises:
          ValueError: this is the stack of layers of which some sort.
        """
        self._check_known()
        back: list[Sort | None] = [None, None]
        if ssm.orders is not None and self.config.reorder == "corrected":
            # P^T: rows and columns change places, b k l -> b l k
            back = [partial(reorder_tokens, jnp.swapaxes(P, 1, 2)) for P in ssm.orders]
        forward, _ = run_ssm(ssm.forward, frozen=frozen, restore=back[0])
        backward, _ = run_ssm(ssm.backward, frozen=frozen, restore=back[1])
        y = forward + flip(backward)
        y = y * jnp.asarray(self.scale, y.dtype)
        return call_linear(self.out_proj, y, frozen.gammas.out_proj)

    def _check_known(self) -> None:
        if not self.is_known:
            raise ValueError(
                "This is the stack of all layers, of which some sort their tokens: "
                "take one of them, model.layer(i), or run the runs of model.runs()."
            )


class VimBlockOutput(NamedTuple):
    """The residual stream after a block and the parameters of both directions."""

    x: Float[Array, "b l m"]
    ssm: BidirectionalInputs
    cache: None = None


class VimBlock(nnx.Module):
    """One residual block of Vision Mamba: x + mixer(norm(x)).

    Vim's own code carries (hidden, residual) and adds before the norm, so that both
    fuse; the residual stream is the same.
    """

    def __init__(self, config: VimConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps, precision=precision)
        self.mixer = BidirectionalMixer(config, precision=precision, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b l m"],
        *,
        cache: None = None,
        frozen: Frozen = NOTHING,
        tau: Tau = None,
    ) -> VimBlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Args:
          x: the residual stream.
          cache: none, as images are read at once.
          frozen: what derivatives take for constants.
          tau: temperature of sorting, in place of the configuration's.
        """
        n = self.norm(x, frozen=frozen.norm)
        ssm = self.mixer.ssm_inputs(n, frozen=frozen, tau=tau)
        out = self.mixer.mix(ssm, frozen=frozen)
        return VimBlockOutput(x + out.astype(x.dtype), ssm, cache)


def flip(x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """Return a sequence in the other order."""
    return jnp.flip(x, axis=1)
