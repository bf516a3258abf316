"""What every model of stacked blocks is, whatever its blocks are and its inputs."""

from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from jmamba.layers.freezing import NOTHING, Frozen
from jmamba.layers.places import PASS_BY, Place, Watch
from jmamba.layers.runs import Run
from jmamba.layers.stack import Passed, Remat, run_layers

OUTSIDE = (
    Place(
        "embedding",
        "blm",
        "the residual stream before the first block",
        ("hook_embed",),
        ("hook_embed", "embed.hook_out"),
    ),
    Place(
        "final_norm",
        "blm",
        "the last residual stream, normalised",
        ("hook_norm",),
        ("ln_final.hook_normalized", "ln_final.hook_out"),
    ),
    Place(
        "logits", "blv", "what is read off it", ("hook_logits",), ("unembed.hook_out",)
    ),
)
"""Places outside of the layers."""


class LayeredModel(nnx.Module):
    """A model that embeds its inputs, runs them through blocks and reads logits off.

    Analyses take any such model. A kind of model defines `embed`, `read`, `unembed`,
    `check_inputs` and the few numbers below.

    Attributes:
      reads: "tokens" or "images".
      config: sizes and choices; all have `num_layers` and `d_model`.
      layers: the blocks, each parameter with a leading axis of layers.
      remat: whether the backward pass recomputes each block, or a policy that says
        what of it is stored; see `layers.stack.walk`.
    """

    reads: ClassVar[str]
    config: Any
    layers: Any
    remat: Remat
    outside: ClassVar[tuple[Place, ...]] = OUTSIDE
    """Where arrays pass outside of the layers."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where arrays pass, in the order of the forward pass."""
        first, *rest = self.outside
        return (first, *self.layers.places, *rest)

    def check_inputs(self, inputs: Any) -> Any:
        """Return inputs as an array of JAX, or raise unless they fit the model.

        Raises:
          TypeError: they are no array.
          ValueError: they do not fit.
        """
        raise NotImplementedError

    def embed(self, inputs: Any, *, frozen: Frozen = NOTHING) -> Float[Array, "b l m"]:
        """Return the residual stream before the first block.

        Args:
          inputs: token ids or images.
          frozen: how derivatives with respect to inputs are made.
        """
        raise NotImplementedError

    def unembed(self, x: Any, *, frozen: Frozen = NOTHING, at: Watch = PASS_BY) -> Any:
        """Return float32 logits of a residual stream after the last block.

        Args:
          x: the residual stream.
          frozen: what derivatives take for constants.
          at: who edits and reads what passes.
        """
        raise NotImplementedError

    def read(
        self,
        x: Float[Array, "b l m"],
        query: int | Int[Array, "b *q"] | None = None,
        *,
        frozen: Frozen = NOTHING,
    ) -> Float[Array, "b *q v"]:
        """Return float32 logits that are read off one token.

        Args:
          x: a residual stream after the last block.
          query: the token, or one per sample; None for the usual one.
          frozen: what derivatives take for constants.
        """
        raise NotImplementedError

    @property
    def num_targets(self) -> int:
        """Logits that there are: classes, or tokens of the vocabulary."""
        raise NotImplementedError

    def count_tokens(self, shape: tuple[int, ...]) -> int:
        """Return the length of the residual stream of inputs of a shape."""
        raise NotImplementedError

    def usual_query(self, length: int) -> int | None:
        """Return the token that logits are read off; None for the mean over all.

        Args:
          length: of the residual stream.
        """
        raise NotImplementedError

    def find_query(self, inputs: Any) -> int | Int[Array, "b"] | None:
        """Return the token of each input that logits are read off, or None.

        Args:
          inputs: checked ones.
        """
        return self.usual_query(self.count_tokens(inputs.shape))

    def runs(self) -> list[Run]:
        """Return the layers as runs of one kind; see `run_layers`."""
        return [Run.of(self.layers, slice(0, self.config.num_layers))]

    def layer(self, index: int) -> Any:
        """Return one block as a module of its own.

        Raises:
          IndexError: there is no such layer; negative indices count from the end.
        """
        count = self.config.num_layers
        if not -count <= index < count:
            raise IndexError(f"layer {index} of a model with {count} layers (0 based).")
        index = index % count
        run = next(run for run in self.runs() if index < run.layers.stop)
        return run.block(index)

    def check_recurrent(self, what: str) -> None:
        """Raise unless all layers are recurrences whose steps only decay.

        Args:
          what: is of recurrences alone.

        Raises:
          ValueError: some are not.
        """
        reasons = {
            "hold softmax attention, whose memory grows with the text": [
                run for run in self.runs() if not run.is_recurrent
            ],
            "erase from their states, or make decays of another form": [
                run for run in self.runs() if run.is_recurrent and not run.is_selective
            ],
        }
        for reason, wrong in reasons.items():
            layers = [
                i for run in wrong for i in range(run.layers.start, run.layers.stop)
            ]
            if layers:
                raise ValueError(
                    f"{what} is of recurrent layers, but layers {layers} of this "
                    f"{type(self).__name__} {reason}. Give a model without them."
                )

    def run_layers(self, x: Float[Array, "b l m"], **options: Any) -> Passed:
        """Run the blocks, reading and editing what passes.

        Args:
          x: the residual stream before the first block.
          **options: of `layers.stack.run_layers`; further ones are the blocks'.
        """
        return run_layers(self.runs(), x, remat=self.remat, **options)
