"""Checking a conversion against the transformers library."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jmamba.files.adapters import Adapter
from jmamba.files.errors import CheckpointError
from jmamba.files.gguf_files import is_gguf
from jmamba.files.json_files import read_json
from jmamba.files.orbax_files import is_orbax
from jmamba.files.torch_files import require_torch
from jmamba.files.weight_files import find_weights, read_headers
from jmamba.models.architecture import Architecture
from jmamba.models.loading import Choices, read_model
from jmamba.models.settings import architecture_at
from jmamba.models.skeleton import make_skeleton, slots_of
from jmamba.models.weights import merge_adapter, name_weights

TOLERANCE = 1e-4
"""Largest error of logits relative to the largest logit; float32 leaves about 1e-6."""


class Verification(NamedTuple):
    """How far the logits of source and destination are apart."""

    error: float
    """Largest difference of logits, relative to the largest logit."""
    agreement: float
    """Share of positions at which both predict the same next token."""
    num_tokens: int


def verify_logits(
    source: Path,
    destination: Path,
    *,
    dtype: str,
    adapter: Adapter | None = None,
    num_tokens: int = 24,
) -> Verification:
    """Compare logits that transformers gets from the source with the destination's.

    The source's weights are first rounded to the dtype of the destination's, so that a
    conversion to bfloat16 is held to the same tolerance.

    Args:
      source: folder of the PyTorch checkpoint.
      destination: folder of the converted one.
      dtype: dtype of its weights.
      adapter: what is merged into the source's weights first.
      num_tokens: length of the fixed sequence to compare on.

    Raises:
      CheckpointError: torch or transformers is missing, or the logits differ.
    """
    torch = require_torch("Verifying a conversion")
    architecture = architecture_at(source)
    file = source / "config.json"
    config, layout = architecture.read(read_json(file), str(file))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, num_tokens))
    theirs_model = _load_transformers(torch, source, config, layout, dtype, adapter)
    with torch.no_grad():
        theirs = theirs_model(torch.from_numpy(tokens)).logits.numpy()
    del theirs_model
    ours_model = read_model(architecture_at(destination), destination, Choices())
    ours = np.asarray(ours_model(jnp.asarray(tokens, jnp.int32)).logits)
    found = compare_logits(ours, theirs)
    if not found.error <= TOLERANCE:
        raise CheckpointError(
            f"The converted model's logits differ from those transformers gets from "
            f"{source}: {found.error:.2g} of the largest, allowed are {TOLERANCE:.0e}. "
            "Nothing was written; please report the model and the versions."
        )
    return found


def compare_logits(ours: np.ndarray, theirs: np.ndarray) -> Verification:
    """Measure how far two arrays of logits (b, l, v) are apart."""
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    same = float(np.mean(ours.argmax(-1) == theirs.argmax(-1)))
    return Verification(error, same, ours.shape[0] * ours.shape[1])


def check_verifiable(architecture: Architecture, place: Path) -> None:
    """Raise unless transformers reads a checkpoint.

    Raises:
      CheckpointError: it does not.
    """
    refusal = why_unverifiable(architecture, place)
    if refusal is not None:
        raise CheckpointError(
            f"{place} {refusal}, which transformers cannot read, so there is nothing "
            "to verify against; leave verify out."
        )


def why_unverifiable(architecture: Architecture, place: Path) -> str | None:
    """Return what a checkpoint is that transformers does not read; None if it does."""
    file = place / "config.json"
    assert architecture.refusal is not None
    if is_orbax(place):
        return "is an Orbax checkpoint"
    if is_gguf(place):
        return "is a GGUF file"
    if not file.is_file():
        return architecture.refusal(None)
    config, _ = architecture.read(read_json(file), str(file))
    return architecture.refusal(config)


def _load_transformers(
    torch: Any,
    source: Path,
    config: Any,
    layout: str,
    dtype: str,
    adapter: Adapter | None,
):
    """Return transformers' model with the source's weights rounded to a dtype."""
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            "Verifying a conversion needs transformers, which is not installed: type "
            "pip install transformers, or leave --verify out."
        ) from error
    architecture = architecture_at(source)
    assert architecture.write_config is not None
    raw = architecture.write_config(config, dtype="float32")
    model_class = getattr(transformers, raw["architectures"][0])
    model = model_class(model_class.config_class.from_dict(raw)).eval()
    skeleton = make_skeleton(config, dtype="float32", param_dtype=dtype)
    names = {
        (slot.path, str(slot.part)): key
        for key, slot in slots_of(config, skeleton.parameters).items()
    }
    state, joined, filled = model.state_dict(), {}, set()
    weights = find_weights(source)
    named = name_weights(
        architecture, layout, skeleton.parameters, weights, read_headers(weights)
    )
    held = slots_of(config, skeleton.parameters, layout=layout, keys=named.stored)
    weights = named.weights
    if adapter is not None:
        weights = merge_adapter(weights, adapter, architecture, config, layout, held)
    for file in weights.files:
        with weights.open(file) as tensors:
            for key in set(tensors) & set(held):
                path, index, _, _ = held[key]
                value = torch.from_numpy(np.asarray(tensors[key].read(), np.float32))
                stored = getattr(torch, skeleton.parameters[path].dtype.name)
                # files may divide a parameter as they like, and then have these names
                name = names.get((path, str(index)), key)
                value = value.to(stored).float()
                if name in state:
                    state[name].copy_(value)
                    filled.add(name)
                else:
                    joined[name] = value
    if not joined:
        return model
    # theirs joins what files hold in parts, and has other names for some
    joined |= {name: state[name] for name in filled}
    return model_class.from_pretrained(
        None, config=model.config, state_dict=joined, dtype=torch.float32
    ).eval()
