"""Models of stacked blocks that load and save, whatever their architecture."""

import os
from typing import Any, TypeVar

from jmamba.files.saving import SHARD_BYTES
from jmamba.layers.model import LayeredModel
from jmamba.layers.stack import Remat
from jmamba.models.architecture import architectures_below
from jmamba.models.loading import Choices, ShardingChoice, load_model
from jmamba.models.quantisation import check_weights, quantise
from jmamba.models.saving import push_safetensors, save_safetensors

Loaded = TypeVar("Loaded", bound="StackedModel")


class StackedModel(LayeredModel):
    """A model of stacked blocks that loads and saves; see `MambaLM` and `Vim`.

    Attributes:
      dtype: compute dtype of activations.
    """

    dtype: Any

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        path_or_id: str | os.PathLike,
        *,
        dtype: Any = None,
        param_dtype: Any = None,
        revision: str | None = None,
        base: str | os.PathLike | None = None,
        remat: Remat = False,
        sharding: ShardingChoice | None = None,
        weights: str | None = None,
        **options: Any,
    ) -> Loaded:
        """Load a model from a file, a folder or the Hub.

        A class of several architectures, such as `LanguageModel`, loads each of them.

        Reads all layouts of the class's architecture, in safetensors or PyTorch files,
        sharded or not, and what `save_pretrained` and `save_orbax` wrote: of a
        `MambaLM` the original state-spaces layout and transformers' (-hf,
        Falcon-Mamba); of a `Mamba2LM` the same two; of hybrids transformers', of a
        `Mamba2AttnLM` the original one; of a `Vim` the training checkpoints
        of its authors (.pth, needs torch) and plain state dicts with the same names.
        Where the names of tensors have a prefix (`module.`, `model.`, ...), or are
        those of a model without its head, a line of the log says so.

        Args:
          path_or_id: a folder, or a Hub id such as "state-spaces/mamba-130m-hf"; for a
            `Vim` also a file of its authors, or an id such as
            "hustvl/Vim-tiny-midclstok".
          dtype: compute and storage dtype; None for float32, "auto" for the
            checkpoint's. Parameters that a recurrence is sensitive to are float32 at
            least.
          param_dtype: storage dtype, if it is to differ.
          revision: branch, tag or commit on the Hub.
          base: folder or Hub id of the model to which a LoRA adapter is added, where
            `path_or_id` is one that PEFT wrote.
          remat: whether the backward pass recomputes each block, or a policy of
            `jax.checkpoint_policies` that says what it keeps.
          sharding: a `Sharding`, by which each device reads its own part of the files,
            or called as sharding(path, shape) -> jax.sharding.Sharding; None for the
            default device.
          weights: "int8" for matrices in 8 bits, see `jmamba.surgery.quantise`; None
            for the dtypes.
          **options: for a `Vim`, `part`, "model" or "model_ema" for the moving average
            of the weights; `filename`, which file of a Hub repository; `changes`,
            fields of the configuration that the checkpoint does not tell, such as
            `{"class_token": "first"}`.

        Raises:
          CheckpointError: the checkpoint cannot be found, read or understood, or is of
            another architecture; the message says what to do.
          TypeError: an option is not one of the class.
          ValueError: a dtype is not a floating one, the part is unknown, the mesh does
            not divide the model, or weights in 8 bits are to be spread over one.
        """
        kinds = architectures_below(cls)
        has_bare = any(one.bare is not None for one in kinds)
        known = {"part", "filename", "changes"} if has_bare else set()
        if set(options) - known:
            unknown = ", ".join(sorted(set(options) - known))
            raise TypeError(f"{cls.__name__}.from_pretrained takes no {unknown}.")
        check_weights(weights, sharding)
        choices = Choices(dtype, param_dtype, remat, sharding)
        loaded = load_model(
            kinds, path_or_id, choices, revision=revision, base=base, **options
        )
        return loaded if weights is None else quantise(loaded)

    def save_pretrained(
        self,
        directory: str | os.PathLike,
        *,
        tokenizer: str | os.PathLike | None = None,
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Write config.json, model.safetensors, and SHA256SUMS of all files.

        Transformers loads the folder of a `MambaLM`, a `Mamba2LM` or a hybrid that it
        knows; that of a `Vim` or a `Mamba2AttnLM` has its authors' names.

        Args:
          directory: the folder to make.
          tokenizer: of a language model, folder or Hub id to copy the tokenizer's files
            from, chat templates too; "bytes" if tokens are the bytes of a text; None
            for that of a checkpoint that is replaced.
          overwrite: whether a checkpoint that is there already is replaced; other files
            of its folder stay.
          shard_bytes: size above which weights are split into several files.

        Raises:
          CheckpointError: the directory exists, there are no tokenizer's files, or the
            model's parameters are not those that its configuration says.
          ValueError: a tokenizer is given for images.

        Examples:
          >>> import tempfile, jmamba
          >>> from flax import nnx
          >>> config = jmamba.MambaConfig(vocab_size=256, d_model=8, num_layers=1)
          >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     model.save_pretrained(folder, tokenizer="bytes")
          ...     sorted(os.listdir(folder))
          ['SHA256SUMS', 'config.json', 'model.safetensors']
        """
        save_safetensors(
            self,
            directory,
            tokenizer=tokenizer,
            overwrite=overwrite,
            shard_bytes=shard_bytes,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        tokenizer: str | os.PathLike | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        message: str | None = None,
        create_pr: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hub, in one commit.

        The repository is made if there is none. Files of it that are no model's, such
        as its README.md and, without `tokenizer`, its tokenizer, stay.

        Args:
          repo_id: org/name, or name for one of the user's own.
          tokenizer: of a language model, as in `save_pretrained`.
          private: whether a new repository is private; None for the account's default.
          revision: branch to commit to; None for main.
          token: of the account; None for that of `hf auth login` or HF_TOKEN.
          message: of the commit.
          create_pr: whether to open a pull request instead of committing.
          shard_bytes: size above which weights are split into several files.

        Returns:
          Address of the commit, or of the pull request.

        Raises:
          CheckpointError: the Hub cannot be reached or does not let the user do this,
            or as `save_pretrained`.
        """
        return push_safetensors(
            self,
            repo_id,
            tokenizer=tokenizer,
            private=private,
            revision=revision,
            token=token,
            message=message,
            create_pr=create_pr,
            shard_bytes=shard_bytes,
        )
