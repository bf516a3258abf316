"""Relevance of patches as pictures: in their rows, and spread over the pixels."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmamba.layers.model import LayeredModel
from jmamba.ops.meshes import on_any_mesh


@on_any_mesh
def heat_map(
    model: LayeredModel, relevance: Float[Array, "b l"], height: int, width: int
) -> Float[Array, "b height width"]:
    """Return relevance of patches as a picture of the image's size.

    The class token is left out. Each patch's value stands at the patch's centre, for
    patch i of side p at i * stride + (p - 1) / 2; between centres values are
    interpolated bilinearly, beyond them the outermost ones go on.

    Args:
      model: the model that was explained.
      relevance: of every token, as explanations return it.
      height: of the image.
      width: of the image.

    Raises:
      ValueError: images of that size have another number of tokens.

    Examples:
      >>> import jmamba, jax.numpy as jnp
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> heat_map(model, jnp.zeros((1, 17)), 32, 32).shape
      (1, 32, 32)
    """
    grid = patch_grid(model, relevance, height, width)
    patches = {"patch": model.config.patch_size, "stride": model.config.stride}
    down, across = (
        jnp.asarray(patch_weights(count, side=side, **patches), grid.dtype)
        for count, side in zip(grid.shape[1:], (height, width), strict=True)
    )
    return jnp.einsum("yr,brc,xc->byx", down, grid, across, precision="highest")


@on_any_mesh
def patch_grid(
    model: LayeredModel, relevance: Float[Array, "b l"], height: int, width: int
) -> Float[Array, "b rows columns"]:
    """Return relevance of patches in their rows and columns.

    Args:
      model, relevance, height, width: as in `heat_map`.

    Raises:
      ValueError: images of that size have another number of tokens.

    Examples:
      >>> import jmamba, jax.numpy as jnp
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=5, image_size=32, patch_size=8
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> patch_grid(model, jnp.arange(17.0)[None], 32, 32)[0, 2].tolist()
      [9.0, 10.0, 11.0, 12.0]
    """
    rows, columns = model.config.grid_of(height, width)
    place = model.config.class_position(rows * columns)
    length = rows * columns + (place is not None)
    if relevance.shape[1] != length:
        raise ValueError(
            f"relevance is of {relevance.shape[1]} tokens, but images of {height} x "
            f"{width} pixels have {length}; give the size of the image that was "
            "explained."
        )
    kept = [i for i in range(length) if i != place]
    return relevance[:, np.array(kept)].reshape(-1, rows, columns)


def patch_weights(
    count: int, *, patch: int, stride: int, side: int, size: int | None = None
) -> Float[np.ndarray, "size count"]:
    """Return what each pixel along a side takes from each patch, between centres.

    Patch i covers pixels i * stride to i * stride + patch - 1. Its weight is 1 at its
    centre and falls linearly to 0 at the next ones; beyond the outermost centres it
    stays.

    Args:
      count: patches along the side.
      patch: side of a patch.
      stride: pixels between patches.
      side: pixels that were cut into patches.
      size: pixels of a picture that was resized to these; None for the same.

    Examples:
      >>> patch_weights(2, patch=2, stride=2, side=4) @ np.array([0.0, 2.0])
      array([0. , 0.5, 1.5, 2. ])
    """
    size = side if size is None else size
    centres = np.arange(count) * stride + (patch - 1) / 2
    pixels = (np.arange(size) + 0.5) * (side / size) - 0.5
    return np.stack([np.interp(pixels, centres, row) for row in np.eye(count)], axis=-1)
