"""What llama.cpp calls the tensors and sizes of an architecture."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jmamba.files.errors import CheckpointError


class Header(NamedTuple):
    """What a GGUF file says of a model before its weights are read.

    Attributes:
      kind: general.architecture.
      metadata: all entries.
      shapes: name -> shape of the tensors.
    """

    kind: str
    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    def entry(self, name: str, default: Any = None) -> Any:
        """Return an entry of the architecture, such as "ssm.conv_kernel".

        Args:
          name: of the entry, without the architecture's.
          default: what to return if there is none; None to raise.

        Raises:
          CheckpointError: there is none, and no default.
        """
        found = self.metadata.get(f"{self.kind}.{name}", default)
        if found is None:
            raise CheckpointError(f"there is no {self.kind}.{name}.")
        return found

    def per_layer(self, name: str) -> list[Any]:
        """Return an entry of each layer, which may be one for all."""
        found = self.entry(name)
        several = isinstance(found, list)
        return found if several else [found] * int(self.entry("block_count"))


class Pair(NamedTuple):
    """A tensor of transformers' layout, and those that are it in GGUF.

    Attributes:
      key: transformers' name; {} is the number of a layer.
      names: llama.cpp's.
      read: called with the tensors of these names, returns transformers'.
      write: called with transformers' tensor, returns them.
    """

    key: str
    names: tuple[str, ...]
    read: Callable[..., np.ndarray] = lambda x: x
    write: Callable[[np.ndarray], tuple[np.ndarray, ...]] = lambda x: (x,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFDialect:
    """How llama.cpp keeps the models of an architecture.

    Attributes:
      kind: general.architecture of its files.
      pairs: called with a configuration, returns its tensors.
      read: returns the config.json of transformers that a header amounts to.
      write: called with a configuration, returns the entries of the architecture, by
        their names without its own.
      refusal: what a model of a configuration is that llama.cpp computes otherwise or
        does not load; None if it does.
      owns: whether a file of the kind is of the architecture.
    """

    kind: str
    pairs: Callable[[Any], Iterable[Pair]]
    read: Callable[[Header], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    refusal: Callable[[Any], str | None]
    owns: Callable[[Header], bool] = lambda header: True


def same(names: Mapping[str, str]) -> list[Pair]:
    """Return pairs of tensors that are the same in both, by transformers' name."""
    return [Pair(key, (name,)) for key, name in names.items()]


def decay_pair(key: str, axes: int) -> Pair:
    """Return the pair of A_log, of which llama.cpp keeps A = -exp(A_log).

    Args:
      key: transformers' name of A_log.
      axes: 2 for a number of each channel and state; 1 for one of each head, which
        llama.cpp keeps as a column.
    """

    def read(A: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # not finite: said later
            A_log = np.log(-A.astype(np.float64)).astype(np.float32)
        return A_log if axes == 2 else A_log[:, 0]

    def write(A_log: np.ndarray) -> tuple[np.ndarray, ...]:
        A = -np.exp(A_log.astype(np.float64)).astype(np.float32)
        return (A if axes == 2 else A[:, None],)

    return Pair(key, ("blk.{}.ssm_a",), read, write)


def window_pair(key: str) -> Pair:
    """Return the pair of the convolution's weights, (d, 1, k) and (d, k)."""
    return Pair(
        key,
        ("blk.{}.ssm_conv1d.weight",),
        lambda w: w[:, None, :],
        lambda w: (w[:, 0, :],),
    )


def reshaped_pair(key: str, name: str, rows: int) -> Pair:
    """Return the pair of a vector that llama.cpp keeps as a matrix.

    Args:
      key: transformers' name.
      name: llama.cpp's.
      rows: of the matrix.
    """
    return Pair(key, (name,), lambda x: x.reshape(-1), lambda x: (x.reshape(rows, -1),))


def scaled(pair: Pair, factor: float | np.ndarray) -> Pair:
    """Return a pair whose GGUF tensor is transformers', rows multiplied by a factor."""
    factor = np.asarray(factor, np.float32)
    if (factor == 1).all():
        return pair

    def times(x: np.ndarray, by: np.ndarray) -> np.ndarray:
        return x * by.reshape(by.shape + (1,) * (x.ndim - 1) * by.ndim)

    return pair._replace(
        read=lambda *x: times(pair.read(*x), 1 / factor),
        write=lambda x: tuple(
            times(part, factor) for part in pair.write(x.astype(np.float32))
        ),
    )


def around_sizes(config: Any) -> dict[str, Any]:
    """Return the entries that all architectures have."""
    return {
        "context_length": 2**20,  # of a recurrence without end, as llama.cpp writes it
        "embedding_length": config.d_model,
        "block_count": config.num_layers,
        "vocab_size": config.vocab_size,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
    }


def read_around(header: Header) -> dict[str, Any]:
    """Return the entries of config.json that all architectures have."""
    return {
        "vocab_size": header.shapes["token_embd.weight"][0],
        "hidden_size": header.entry("embedding_length"),
        "num_hidden_layers": header.entry("block_count"),
        "tie_word_embeddings": "output.weight" not in header.shapes,
    }


def recurrent_sizes(config: Any, rank: int) -> dict[str, Any]:
    """Return the entries of a recurrence.

    Args:
      config: the model.
      rank: what llama.cpp calls the rank of the step size, of Mamba-2 its heads.
    """
    return {
        "ssm.conv_kernel": config.d_conv,
        "ssm.inner_size": config.d_inner,
        "ssm.state_size": config.d_state,
        "ssm.time_step_rank": rank,
    }


def why_no_recurrence(config: Any) -> str | None:
    """Return what a recurrence is that llama.cpp does not load; None if it does."""
    if config.d_inner != 2 * config.d_model:
        return f"has {config.d_inner} channels, not twice its width {config.d_model}"
    if not config.use_conv_bias:
        return "has a convolution without a bias"
    if config.use_bias:
        return "has biases in its mixers' projections"
    return None


def why_no_heads(config: Any) -> str | None:
    """Return what Mamba-2 is that llama.cpp computes otherwise; None if it does not."""
    if tuple(config.dt_limit) != (0.0, float("inf")):
        return f"keeps its step sizes in {tuple(config.dt_limit)}"
    if not config.is_normed or config.norm_before_gate:
        return "has other norms beside its gates"
    if config.skip_per_channel:
        return "has a skip weight for each channel"
    return None
