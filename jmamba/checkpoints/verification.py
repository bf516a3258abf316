"""Checking a conversion against the transformers library."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jmamba.files.errors import CheckpointError
from jmamba.files.keys import layout_of
from jmamba.files.torch_files import require_torch
from jmamba.files.weight_files import find_weights, open_weights
from jmamba.models.mamba.layout import StoredConfig, read_config, write_config
from jmamba.models.mamba.loading import load_folder
from jmamba.models.mamba.model import MambaLM

TOLERANCE = 1e-4
"""Largest error of logits relative to the largest logit; float32 leaves about 1e-6."""

_SENSITIVE = ("A_log", ".D", "dt_proj.bias")  # float32 whatever the weights are


class Verification(NamedTuple):
    """How far the logits of source and destination are apart."""

    error: float
    """Largest difference of logits, relative to the largest logit."""
    agreement: float
    """Share of positions at which both predict the same next token."""
    num_tokens: int


def verify(
    source: Path, destination: Path, *, dtype: str, num_tokens: int = 24
) -> Verification:
    """Compare logits that transformers gets from the source with the destination's.

    The source's weights are first rounded to the dtype of the destination's, so that a
    conversion to bfloat16 is held to the same tolerance.

    Args:
      source: folder of the PyTorch checkpoint.
      destination: folder of the converted one.
      dtype: dtype of its weights.
      num_tokens: length of the fixed sequence to compare on.

    Raises:
      CheckpointError: torch or transformers is missing, or the logits differ.
    """
    torch = require_torch("Verifying a conversion")
    stored = read_config(source)
    tokens = np.random.default_rng(0).integers(
        0, stored.config.vocab_size, (1, num_tokens)
    )
    theirs_model = _load_transformers(torch, source, stored, dtype)
    with torch.no_grad():
        theirs = theirs_model(torch.from_numpy(tokens)).logits.numpy()
    del theirs_model
    ours = _logits(load_folder(destination), tokens)
    found = compare(ours, theirs)
    if not found.error <= TOLERANCE:
        raise CheckpointError(
            f"The converted model's logits differ from those transformers gets from "
            f"{source}: {found.error:.2g} of the largest, allowed are {TOLERANCE:.0e}. "
            "Nothing was written; please report the model and the versions."
        )
    return found


def compare(ours: np.ndarray, theirs: np.ndarray) -> Verification:
    """Measure how far two arrays of logits (b, l, v) are apart."""
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    same = float(np.mean(ours.argmax(-1) == theirs.argmax(-1)))
    return Verification(error, same, ours.shape[0] * ours.shape[1])


def _logits(model: MambaLM, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(model(jnp.asarray(tokens, jnp.int32)).logits)


def _load_transformers(torch: Any, source: Path, stored: StoredConfig, dtype: str):
    """Return transformers' model with the source's weights rounded to a dtype."""
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            "Verifying a conversion needs transformers, which is not installed: type "
            "pip install transformers, or leave --verify out."
        ) from error
    raw = write_config(stored.config, dtype="float32")
    kind = "FalconMamba" if stored.config.is_falcon else "Mamba"
    config = getattr(transformers, f"{kind}Config").from_dict(raw)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    state = model.state_dict()
    weights = find_weights(source)
    for file in weights.files:
        with open_weights(file) as tensors:
            original = layout_of("hf", tensors) == "original"
            for key, tensor in tensors.items():
                name = key.replace("embedding.", "embeddings.") if original else key
                value = torch.from_numpy(np.asarray(tensor.read(), np.float32))
                if not key.endswith(_SENSITIVE):
                    value = value.to(getattr(torch, dtype)).float()
                state[name].copy_(value)
    return model
