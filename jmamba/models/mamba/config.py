"""Sizes and choices of a Mamba language model."""

import dataclasses
import math

from jmamba.refinements.definite import check_definite
from jmamba.refinements.soft_sort import AUTOREGRESSIVE


@dataclasses.dataclass(frozen=True)
class MambaConfig:
    """Describe a Mamba-1 or Falcon-Mamba language model.

    Attributes:
      vocab_size: rows of the embedding table, padding included.
      d_model: width of the residual stream.
      num_layers: number of blocks.
      d_state: states per channel.
      d_conv: window of the causal convolution.
      d_inner: channels of the mixer; 0 for 2 d_model.
      dt_rank: rank of the step-size projection; 0 for ceil(d_model / 16).
      use_bias: whether the input and output projections have biases.
      use_conv_bias: whether the convolution has a bias.
      norm_eps: epsilon of the RMS norms of the residual stream.
      mixer_rms_eps: epsilon of Falcon-Mamba's weightless RMS norms on dt, B and C;
        None for Mamba-1, which has none.
      residual_in_fp32: whether the residual stream is float32 under lower precision.
      tie_embeddings: whether the output projection is the embedding table.
      eos_token_id: id that ends a text; None if there is none.
      dt_min, dt_max, dt_init_floor: range of the step sizes at initialisation.
      definite: signs of the eigenvalues of S_C^T S_B, which decide whether tokens
        converge: "free" for an ordinary model, "pos", "neg" or "mixed" for the
        symmetric form of `dynamics.definite_gates`, "psd_general" or "nsd_general" for
        the general one of `dynamics.semidefinite_gate`.
      definite_threshold: least magnitude of the n eigenvalues' scales, or the general
        forms' epsilon; None for the official 0.7 (none for "mixed") or for 1e-3.
      equal_magnitudes: whether "mixed" has the threshold of "pos" and "neg".
      reorder: "none"; a language model cannot sort its tokens by importance.

    Raises:
      ValueError: a size is not positive, or a choice is unknown or cannot be.

    Examples:
      >>> config = MambaConfig(vocab_size=256, d_model=64, num_layers=2)
      >>> config.d_inner, config.dt_rank
      (128, 4)
      >>> MambaConfig.named("mamba-130m").num_layers
      24

    References:
      Gu & Dao, "Mamba", arXiv 2312.00752, sections 3.4 and 3.6.
      Zuo et al., "Falcon Mamba", arXiv 2410.05355, section 3.
      Vo et al., arXiv 2410.03292, section 5.1, for definite gates.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    d_state: int = 16
    d_conv: int = 4
    d_inner: int = 0
    dt_rank: int = 0
    use_bias: bool = False
    use_conv_bias: bool = True
    norm_eps: float = 1e-5
    mixer_rms_eps: float | None = None
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    eos_token_id: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_init_floor: float = 1e-4
    definite: str = "free"
    definite_threshold: float | None = None
    equal_magnitudes: bool = False
    reorder: dataclasses.InitVar[str] = "none"

    def __post_init__(self, reorder: str):
        """Fill in the derived sizes and check all of them."""
        if reorder != "none":
            raise ValueError(AUTOREGRESSIVE)
        if self.d_inner == 0:
            object.__setattr__(self, "d_inner", 2 * self.d_model)
        if self.dt_rank == 0:
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        sizes = ("vocab_size", "d_model", "num_layers", "d_state", "d_conv", "d_inner",
                 "dt_rank")  # fmt: skip
        wrong = {k: getattr(self, k) for k in sizes if not getattr(self, k) >= 1}
        if wrong:
            raise ValueError(f"MambaConfig: sizes must be at least 1, but got {wrong}.")
        check_definite(self)

    @property
    def is_falcon(self) -> bool:
        """Whether dt, B and C are normalised, as in Falcon-Mamba."""
        return self.mixer_rms_eps is not None

    @classmethod
    def named(cls, name: str) -> "MambaConfig":
        """Return the configuration of a released model by its short name.

        Raises:
          ValueError: the name is unknown; the message lists the known ones.
        """
        if name not in _NAMED:
            raise ValueError(
                f"Unknown configuration {name!r}; known are {', '.join(_NAMED)}."
            )
        return cls(**_NAMED[name])


def _released(d_model: int, num_layers: int) -> dict:
    return {"vocab_size": 50280, "d_model": d_model, "num_layers": num_layers,
            "eos_token_id": 0}  # fmt: skip


_NAMED = {
    "mamba-130m": _released(768, 24),
    "mamba-370m": _released(1024, 48),
    "mamba-790m": _released(1536, 48),
    "mamba-1.4b": _released(2048, 48),
    "mamba-2.8b": _released(2560, 64),
    "falcon-mamba-7b": {
        "vocab_size": 65024,
        "d_model": 4096,
        "num_layers": 64,
        "mixer_rms_eps": 1e-6,
        "tie_embeddings": False,
        "eos_token_id": 11,
    },
}
