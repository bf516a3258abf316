"""The tuned lens: what a residual stream is translated to before it is read."""

import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.files.errors import FileError
from jmamba.files.exchange import room_for, write_file
from jmamba.files.untrusted import as_path, check_regular
from jmamba.files.weight_files import open_safetensors
from jmamba.layers.model import LayeredModel

MADE_BY = "jmamba tuned lens"
"""What files of lenses say that they are."""


class TunedLens(nnx.Module):
    """An affine translator of the residual stream behind each layer but the last.

        translate(x, layer) = x + x W[layer] + b[layer]

    A new one changes nothing: it is the logit lens. `train_lens` fits it, and
    `logit_lens` and `read_lens` take it as `tuned=`.

    Args:
      num_layers: of the model, at least 2.
      d_model: of the model.

    Attributes:
      kernel: W, zeros at first.
      bias: b, zeros at first.

    Raises:
      ValueError: there is no layer but the last.

    Examples:
      >>> lens = TunedLens(num_layers=3, d_model=4)
      >>> lens.kernel.shape, bool(jnp.all(lens.translate(jnp.ones(4), 1) == 1))
      ((2, 4, 4), True)

    References:
      Belrose et al., "Eliciting latent predictions from transformers with the tuned
      lens", arXiv 2303.08112, section 3, equation 8.
    """

    def __init__(self, num_layers: int, d_model: int):
        if num_layers < 2:
            raise ValueError(
                f"A model of {num_layers} layer has none but the last, which is read "
                "as it is; a tuned lens needs a model of 2 layers or more."
            )
        self.kernel = nnx.Param(jnp.zeros((num_layers - 1, d_model, d_model)))
        self.bias = nnx.Param(jnp.zeros((num_layers - 1, d_model)))

    def translate(
        self, x: Float[Array, "*b m"], layer: int | Int[Array, ""]
    ) -> Float[Array, "*b m"]:
        """Return what stands for a residual stream behind the last layer.

        Args:
          x: the residual stream that leaves a layer.
          layer: which; of the last one x is returned as it is.
        """
        count = self.bias.shape[0]
        place = jnp.minimum(layer, count - 1)
        kernel, bias = self.kernel[...][place], self.bias[...][place]
        moved = jnp.einsum("...m,mk->...k", x.astype(kernel.dtype), kernel)
        moved = moved + jnp.broadcast_to(bias, moved.shape)
        return jnp.where(layer < count, x + moved.astype(x.dtype), x)

    def check(self, model: LayeredModel) -> None:
        """Raise unless the lens is of a model of these sizes.

        Raises:
          ValueError: it is of another one.
        """
        layers, width = self.bias.shape
        config = model.config
        if (layers + 1, width) != (config.num_layers, config.d_model):
            raise ValueError(
                f"The tuned lens is of {layers + 1} layers of width {width}, the model "
                f"has {config.num_layers} of width {config.d_model}; give the lens "
                "that was trained on this model."
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write the lens as a safetensors file.

        Raises:
          CheckpointError: it cannot be written.
        """
        from safetensors.numpy import save

        arrays = {name: np.asarray(x) for name, x in nnx.to_pure_dict(
            nnx.state(self)).items()}  # fmt: skip
        path = as_path(path)
        with room_for(path, "nothing is written"):
            write_file(path, save(arrays, metadata={"made_by": MADE_BY}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TunedLens":
        """Read a lens that `save` wrote.

        Raises:
          FileError: there is no such file, or it holds something else.
        """
        path = as_path(path, error_class=FileError)
        check_regular(path, error_class=FileError)
        with open_safetensors(path) as tensors:
            found: dict[str, Any] = {
                name: tensor.read() for name, tensor in tensors.items()
            }
        shapes = {name: x.shape for name, x in found.items()}
        kernel, bias = shapes.get("kernel", ()), shapes.get("bias", ())
        if len(shapes) != 2 or len(bias) != 2 or kernel != (*bias, bias[-1]):
            raise FileError(
                f"{path} holds no tuned lens but {', '.join(sorted(shapes)[:5])}; give "
                "a file that `jmamba tune` or TunedLens.save wrote."
            )
        lens = cls(bias[0] + 1, bias[1])
        lens.kernel[...] = jnp.asarray(found["kernel"], jnp.float32)
        lens.bias[...] = jnp.asarray(found["bias"], jnp.float32)
        return lens
