"""What a language model and a Vision Mamba share: stacked blocks, weights on disk."""

import os
from typing import Any, TypeVar

from jmamba.layers.model import LayeredModel

Kind = TypeVar("Kind", bound="StackedModel")


class StackedModel(LayeredModel):
    """A model of stacked blocks that loads and saves; see `MambaLM` and `Vim`."""

    @classmethod
    def from_pretrained(
        cls: type[Kind],
        path_or_id: str | os.PathLike,
        *,
        dtype: Any = None,
        param_dtype: Any = None,
        revision: str | None = None,
        remat: bool = False,
        **options: Any,
    ) -> Kind:
        """Load a model from a file, a folder or the Hub.

        `checkpoints.load` reads language models and `checkpoints.load_vim` images'.

        Args:
          path_or_id: a folder, or a Hub id such as "state-spaces/mamba-130m-hf"; for a
            `Vim` also a file of its authors (.pth).
          dtype: compute and storage dtype; None for float32, "auto" for the
            checkpoint's.
          param_dtype: storage dtype, if it is to differ.
          revision: branch, tag or commit on the Hub.
          remat: whether the backward pass recomputes each block.
          **options: for a `Vim`, `part`, `filename` and `changes` of `load_vim`.

        Raises:
          CheckpointError: the checkpoint cannot be found, read or understood, or is of
            another architecture.
          ValueError: a dtype is not a floating one.
        """
        # the one import against the arrows: checkpoints builds on models, and only a
        # call of this convenience reaches back
        from jmamba.checkpoints import loader_of

        return loader_of(cls)(
            path_or_id,
            dtype=dtype,
            param_dtype=param_dtype,
            revision=revision,
            remat=remat,
            **options,
        )

    def save_pretrained(
        self,
        directory: str | os.PathLike,
        *,
        tokenizer: str | os.PathLike | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write config.json and model.safetensors; see `jmamba.checkpoints.save`.

        Transformers loads the folder of a language model; a `Vim`, which it does not
        know, has its authors' names.

        Args:
          directory: the folder to make.
          tokenizer: of a language model, folder or Hub id to copy the tokenizer's files
            from; "bytes" if tokens are the bytes of a text.
          overwrite: whether a checkpoint that is there already is replaced.

        Raises:
          CheckpointError: the directory exists, or there are no tokenizer's files.
          ValueError: a tokenizer is given for images.
        """
        from jmamba.checkpoints import save  # for the same reason as above

        save(self, directory, tokenizer=tokenizer, overwrite=overwrite)  # type: ignore[arg-type]
