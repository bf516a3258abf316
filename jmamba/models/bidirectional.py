"""The mixer of Vision Mamba, which reads tokens in both directions."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.models.freezing import NOTHING, Frozen
from jmamba.models.gamma_rule import call_linear
from jmamba.models.mixer import make_in_proj, make_out_proj
from jmamba.models.norm import Precision, RMSNorm
from jmamba.models.selection import Selection, run_ssm
from jmamba.models.vision_config import VimConfig
from jmamba.types import BidirectionalInputs


class BidirectionalMixer(nnx.Module):
    """Two selections, one per direction, between common projections.

        x, z = split(W_in x)
        out = W_out (run(forward(x, z)) + flip(run(backward(flip(x), flip(z))))) / 2

    where `run` is recurrence, skip and gate, and `/ 2` is there if `divide_out` is.

    References:
      Zhu et al., "Vision Mamba", arXiv 2401.09417, section 3.3, algorithm 1.
    """

    def __init__(self, config: VimConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.in_proj = make_in_proj(config, precision=precision, rngs=rngs)
        self.forward = Selection(config, precision=precision, rngs=rngs)
        self.backward = Selection(config, precision=precision, rngs=rngs)
        self.out_proj = make_out_proj(config, precision=precision, rngs=rngs)
        self.config = config

    @property
    def scale(self) -> float:
        """What the sum of both directions is multiplied with."""
        return 0.5 if self.config.divide_out else 1.0

    def ssm_inputs(
        self, x: Float[Array, "b l m"], *, frozen: Frozen = NOTHING
    ) -> BidirectionalInputs:
        """Make the selective parameters of both directions.

        Args:
          x: normalised input.
          frozen: what derivatives take for constants.

        Returns:
          Operands of `selective_scan`; those of `backward` run from the last token to
          the first.
        """
        x = call_linear(self.in_proj, x, frozen.gammas.in_proj)
        x, z = jnp.split(x, 2, axis=-1)
        return BidirectionalInputs(
            self.forward.select(x, z, frozen=frozen),
            self.backward.select(flip(x), flip(z), frozen=frozen),
        )

    def mix(
        self, ssm: BidirectionalInputs, *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Run both recurrences and project the sum of what they put out."""
        forward, _ = run_ssm(ssm.forward, frozen=frozen)
        backward, _ = run_ssm(ssm.backward, frozen=frozen)
        y = forward + flip(backward)
        y = y * jnp.asarray(self.scale, y.dtype)
        return call_linear(self.out_proj, y, frozen.gammas.out_proj)


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
    ) -> VimBlockOutput:
        """Return x + mixer(norm(x)) with everything an analysis needs.

        Args:
          x: the residual stream.
          cache: none, as images are read at once.
          frozen: what derivatives take for constants.
        """
        ssm = self.mixer.ssm_inputs(self.norm(x, frozen=frozen.norm), frozen=frozen)
        out = self.mixer.mix(ssm, frozen=frozen)
        return VimBlockOutput(x + out.astype(x.dtype), ssm, cache)


def flip(x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """Return a sequence in the other order."""
    return jnp.flip(x, axis=1)
