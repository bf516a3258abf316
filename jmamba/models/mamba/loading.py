"""Loading a model from any layout, a local folder or the Hub."""

import os
from pathlib import Path

from jmamba.files.dtypes import choose_dtypes, main_dtype
from jmamba.files.filling import Progress, check_tied_head, fill
from jmamba.files.hub import locate
from jmamba.files.keys import HEAD_KEY, TABLES, layout_of, slots
from jmamba.files.orbax_files import is_orbax, read_orbax
from jmamba.files.parameters import make_skeleton
from jmamba.files.tensors import FLOATS
from jmamba.files.validation import check_keys, describe, explain_gates
from jmamba.files.weight_files import find_weights, read_headers
from jmamba.models.mamba.layout import StoredConfig, read_config
from jmamba.models.mamba.model import MambaLM


def load(
    path_or_id: str | os.PathLike,
    *,
    dtype=None,
    param_dtype=None,
    revision: str | None = None,
    remat: bool = False,
) -> MambaLM:
    """Load a Mamba or Falcon-Mamba model.

    Reads the original state-spaces layout, that of transformers (-hf, Falcon-Mamba),
    safetensors or PyTorch files, sharded or not, what `save` and `save_orbax` wrote.

    Args:
      path_or_id: a folder, or a Hub id such as "state-spaces/mamba-130m-hf".
      dtype: compute and storage dtype; None for float32, "auto" for the checkpoint's.
        A_log, D and the step-size bias are float32 at least.
      param_dtype: storage dtype, if it is to differ.
      revision: branch, tag or commit on the Hub.
      remat: whether the backward pass recomputes each block.

    Raises:
      CheckpointError: the checkpoint cannot be found, read or understood; the message
        says what to do.
      ValueError: a dtype is not a floating one.
    """
    folder = locate(path_or_id, revision=revision)
    return load_folder(folder, dtype=dtype, param_dtype=param_dtype, remat=remat)


def load_folder(
    folder: Path,
    *,
    dtype=None,
    param_dtype=None,
    remat: bool = False,
    progress: Progress | None = None,
) -> MambaLM:
    """Load a model from a local folder, telling `progress` the bytes read."""
    stored = read_config(folder)
    if is_orbax(folder):
        options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat}
        return read_orbax(folder, stored.config, **options)
    return _load_torch(stored, folder, dtype, param_dtype, remat, progress)


def _load_torch(
    stored: StoredConfig, folder: Path, dtype, param_dtype, remat, progress
) -> MambaLM:
    weights = find_weights(folder)
    found = read_headers(weights)
    main = main_dtype(FLOATS[tensor.dtype].name for tensor in found.values())
    compute, param = choose_dtypes(dtype, param_dtype, main)
    skeleton = make_skeleton(
        stored.config, dtype=compute, param_dtype=param, remat=remat
    )
    layout = layout_of(stored.layout, found)
    table = slots(layout, skeleton.shapes)
    needed = {key: slot.shape for key, slot in table.items()}
    embedding = TABLES[layout][0].key
    if stored.config.tie_embeddings and HEAD_KEY in found:
        needed[HEAD_KEY] = needed[embedding]  # stored a second time
    check_keys(
        needed,
        {k: t.shape for k, t in found.items()},
        str(folder),
        explain=lambda found: (
            explain_gates(found, stored.config.definite) or describe(found)
        ),
    )
    if stored.config.tie_embeddings and HEAD_KEY in found:
        check_tied_head(weights, embedding)
    return skeleton.build(fill(skeleton, table, weights, progress))
