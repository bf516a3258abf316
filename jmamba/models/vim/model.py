"""Vision Mamba: patches, class token, bidirectional blocks and classifier."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from jmamba.layers.bidirectional import BidirectionalMixer
from jmamba.layers.block import Block
from jmamba.layers.freezing import NOTHING, Frozen, call_linear
from jmamba.layers.letters import shared_letters
from jmamba.layers.model import OUTSIDE
from jmamba.layers.norm import Precision, RMSNorm
from jmamba.layers.places import PASS_BY, Watch
from jmamba.layers.runs import Run, stack_layers
from jmamba.layers.stack import Remat
from jmamba.layers.tabulation import tabulated
from jmamba.models.base import StackedModel
from jmamba.models.vim.config import IMAGENET_MEAN, IMAGENET_STD, VimConfig
from jmamba.models.vim.interpolation import bicubic_matrix
from jmamba.ops.sharding import keep_places
from jmamba.refinements.gates import make_gates
from jmamba.refinements.sorting import Sorting, Tau, UnknownOrder, split_runs
from jmamba.requests import as_array, take_token
from jmamba.types import ArrayLike, Images
from jmamba_kernels import accumulation_dtype

small_normal = initializers.truncated_normal(0.02)


class Vim(StackedModel):
    """Vision Mamba, a classifier of images.

    An image becomes patches in rows from the top left, a class token among them, each
    plus the embedding of its place; blocks read them in both directions; the logits are
    read off the class token, or off the mean over patches where there is none.

    Args:
      config: sizes and choices.
      dtype: compute dtype of activations.
      param_dtype: dtype of stored weights; A_log, D and the step-size biases are
        float32 at least.
      remat: whether the backward pass recomputes each block, or a policy.
      rngs: source of the initial weights.

    Examples:
      >>> config = VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model = Vim(config, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((1, 32, 32, 3))).shape
      (1, 5)
      >>> model(jnp.ones((1, 40, 24, 3))).shape  # places are interpolated
      (1, 5)

    References:
      Zhu et al., "Vision Mamba", arXiv 2401.09417.
    """

    reads: ClassVar[str] = "images"
    letters: ClassVar[Mapping[str, str]] = {
        **{"patch_embed.kernel": "___m", "patch_embed.bias": "m", "position": "_m"},
        **{"class_token": "m", "head.kernel": "mv", "head.bias": "v"},
    }
    black: ClassVar[tuple[float, ...]] = tuple(
        -mean / deviation
        for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
    )
    config: VimConfig
    outside = (*OUTSIDE[:-1], OUTSIDE[-1]._replace(axes="bv"))

    def __init__(
        self,
        config: VimConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat: Remat = False,
        rngs: nnx.Rngs,
    ):
        precision = Precision(jnp.dtype(param_dtype), jnp.dtype(dtype))
        self.config, self.remat, self.dtype = config, remat, precision.compute
        options: dict[str, Any] = {
            "dtype": precision.compute,
            "param_dtype": precision.param,
        }
        m, has_class = config.d_model, config.class_position() is not None

        norm = partial(RMSNorm, m, eps=config.norm_eps, precision=precision)
        count = len(config.sorted_layers)

        def block(rngs):
            mixer = BidirectionalMixer(
                config.mixer_sizes,
                scale=0.5 if config.divide_out else 1.0,
                order=UnknownOrder() if count else None,
                make_gates=partial(make_gates, config.gate_signs),
                precision=precision,
                rngs=rngs,
            )
            return Block(norm(), mixer)

        self.patch_embed = nnx.Conv(
            config.image_channels,
            m,
            (config.patch_size, config.patch_size),
            strides=config.stride,
            padding="VALID",
            **options,
            rngs=rngs,
        )
        places = (config.num_patches + has_class, m)
        self.position = nnx.Param(small_normal(rngs.params(), places, precision.param))
        self.class_token = (
            nnx.Param(small_normal(rngs.params(), (m,), precision.param))
            if has_class
            else None
        )
        self.layers = stack_layers(block, config.num_layers, rngs)
        self.sorting = (
            Sorting(config, config.d_inner, count, precision=precision, rngs=rngs)
            if count
            else None
        )
        self.norm_f = norm()
        self.head = nnx.Linear(
            m, config.num_classes, kernel_init=small_normal, **options, rngs=rngs
        )

    @tabulated
    def __call__(
        self, images: Images | ArrayLike, *, tau: Tau = None
    ) -> Float[Array, "b v"]:
        """Return the logits of all classes in float32.

        Args:
          images: normalised colours, channels last; see `models.images.preprocess`.
          tau: temperature of the layers that sort their tokens, in place of the
            configuration's, such as one that `dynamics.anneal_tau` lowers.

        Raises:
          ValueError: images are not (b, height, width, colours) floats that hold at
            least one patch.
        """
        images = self.check_inputs(images)
        graphdef, state = nnx.split(self)
        return _forward(graphdef, state, images, tau)

    def check_inputs(self, inputs: Images | ArrayLike) -> Images:
        """Return images as an array, or raise unless they fit the model.

        Raises:
          TypeError: they are no array.
          ValueError: they are not (b, height, width, colours) floats that hold at least
            one patch.
        """
        images = as_array(inputs, "images")
        shape, dtype = images.shape, images.dtype
        c = self.config
        if len(shape) != 4 or shape[3] != c.image_channels or 0 in shape:
            raise ValueError(
                f"images must have the shape (batch, height, width, {c.image_channels})"
                f", but have {shape}. One image needs a batch axis, image[None]; "
                "colours come last."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"images must be normalised floats, but are {dtype}; preprocess(image) "
                "in jmamba.models.vim.images makes them from a picture."
            )
        if min(shape[1:3]) < c.patch_size:
            raise ValueError(
                f"images of {shape[1]} x {shape[2]} pixels hold no patch of side "
                f"{c.patch_size}; give larger ones."
            )
        return jnp.asarray(images)

    def runs(self) -> list[Run]:
        """Return the layers as runs of one kind: those that sort, those that do not."""
        c = self.config
        return split_runs(self.layers, c.num_layers, self.sorting, c.sorted_layers)

    def embed(
        self, inputs: Images, *, frozen: Frozen = NOTHING
    ) -> Float[Array, "b l m"]:
        """Return the residual stream before the first block.

        Args:
          inputs: normalised colours, channels last.
          frozen: how derivatives with respect to pixels are made.

        Raises:
          ValueError: the class token has no place among so few patches.
        """
        images = inputs.astype(self.dtype)
        x = call_linear(self.patch_embed, images, "patch", frozen)
        batch, rows, columns, m = x.shape
        x = x.reshape(batch, rows * columns, m)
        if self.class_token is not None:
            place = self.config.class_position(rows * columns)
            token = self.class_token[...].astype(x.dtype)[None, None]
            token = jnp.broadcast_to(token, (batch, 1, m))
            x = jnp.concatenate([x[:, :place], token, x[:, place:]], axis=1)
        if self.config.residual_in_fp32:
            x = x.astype(accumulation_dtype(x.dtype))
        return x + self.positions(rows, columns)[None].astype(x.dtype)

    def positions(self, rows: int, columns: int) -> Float[Array, "l m"]:
        """Return the embedding of each place, resampled for another grid of patches."""
        position, config = self.position[...], self.config
        if (rows, columns) == config.grid:
            return position
        dtype = accumulation_dtype(position.dtype)
        old, token = config.class_position(), []
        grid = position
        if old is not None:
            token = [position[old : old + 1].astype(dtype)]
            grid = jnp.concatenate([position[:old], position[old + 1 :]])
        down, across = (
            jnp.asarray(bicubic_matrix(size, wanted), dtype)
            for size, wanted in zip(config.grid, (rows, columns), strict=True)
        )
        grid = grid.astype(dtype).reshape(*config.grid, -1)
        resample = partial(jnp.einsum, precision="highest")
        grid = resample("ry,cx,yxm->rcm", down, across, grid)
        grid = grid.reshape(rows * columns, -1)
        new = config.class_position(rows * columns) or 0
        return jnp.concatenate([grid[:new], *token, grid[new:]])

    def unembed(
        self,
        x: Float[Array, "b l m"],
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b v"]:
        """Return float32 logits of a residual stream after the last block."""
        return self.read(x, frozen=frozen, at=at)

    def read(
        self,
        x: Float[Array, "b l m"],
        query: int | Int[Array, "b"] | None = None,
        *,
        frozen: Frozen = NOTHING,
        at: Watch = PASS_BY,
    ) -> Float[Array, "b v"]:
        """Return float32 logits that the head reads off one token.

        Args:
          x: a residual stream after the last block.
          query: the token, or one per image; None for the class token, or the mean
            over patches if there is none.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        if query is None:
            query = self.usual_query(x.shape[1])
        x = at("final_norm", self.norm_f(x, frozen=frozen.norm))
        x = jnp.mean(x, axis=1) if query is None else take_token(x, query)
        return at("logits", self.head(x).astype(accumulation_dtype(x.dtype)))

    @property
    def num_targets(self) -> int:
        """Classes."""
        return self.config.num_classes

    def count_tokens(self, shape: tuple[int, ...]) -> int:
        """Return patches and class token of images (b, height, width, colours)."""
        rows, columns = self.config.grid_of(*shape[1:3])
        return rows * columns + (self.class_token is not None)

    def usual_query(self, length: int) -> int | None:
        """Return where the class token is in a sequence of that length, or None."""
        if self.class_token is None:
            return None
        return self.config.class_position(length - 1)


def count_parameters(model: nnx.Module) -> int:
    """Return how many numbers the parameters of a model hold.

    Examples:
      >>> config = VimConfig.named("vim-tiny")
      >>> model = nnx.eval_shape(lambda: Vim(config, rngs=nnx.Rngs(0)))
      >>> count_parameters(model)
      7148008
    """
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves)


@partial(jax.jit, static_argnames="graphdef")
def _forward(graphdef, state, images, tau):
    def run(images, state, tau):
        model = nnx.merge(graphdef, state)
        return model.unembed(model.run_layers(model.embed(images), tau=tau).x)

    letters = shared_letters(nnx.merge(graphdef, state))
    return keep_places(run, (images, state, tau), ("b___", letters, ""), "bv")
