"""Settings of a training run: what it depends on, kept beside its states."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.differences import (
    differing_keys,
    flatten_settings,
    tell_differences,
)
from jmamba.files.errors import FileError
from jmamba.files.json_files import read_json
from jmamba.training.processes import gather_array

SETTINGS = "settings.json"
"""File beside the states that says what they are states of."""

_FREE = ("save_every", "evaluate_every")
"""Settings that may differ, for the result is the same."""


def read_run_settings(directory: Path) -> dict[str, Any] | None:
    """Return the settings of the run whose states a folder holds, None without them.

    Raises:
      ValueError: they are damaged.
    """
    file = directory / SETTINGS
    if not file.exists():
        return None
    found = read_json(file)
    is_list = isinstance(found.get("extended", []), list)
    if not is_list or not isinstance(found.get("steps"), int):
        raise FileError(
            f"{file} does not hold the settings of a run; restore it, or delete "
            f"{directory} to begin anew."
        )
    return found


def check_run_settings(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    directory: Path,
    *,
    extend: bool = False,
) -> None:
    """Raise unless a run may go on with the settings wanted.

    Args:
      found: settings that it was begun with.
      wanted: settings that it is to go on with.
      directory: where its states are.
      extend: whether "steps" may be more.

    Raises:
      ValueError: they differ; the message lists in what.

    Examples:
      >>> check_run_settings({"steps": 9}, {"steps": 12}, Path("out"), extend=True)
    """
    found, wanted = flatten_settings(found), flatten_settings(wanted)
    different = differing_keys(found, wanted, _FREE)
    is_longer = "steps" in different and found["steps"] < wanted["steps"]
    if different == ["steps"] and is_longer and extend:
        return
    if different:
        lists = tell_differences(found, wanted, different)
        hint = " To add steps to it, give extend=True or --extend." if is_longer else ""
        raise FileError(
            f"{directory} holds a run of other settings: {lists}. Give the settings "
            f"that it was begun with, or name another folder.{hint}"
        )


def fingerprint(tree: Any) -> str:
    """Return a short text that differs between batches of different whole numbers.

    Other numbers count by shape and dtype: they may differ in the last place between
    devices.

    Examples:
      >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3) + 1)
      False
    """
    seen = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        seen.update(f"{np.shape(leaf)} {jnp.result_type(leaf)}".encode())
        if jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            seen.update(np.ascontiguousarray(gather_array(leaf)).tobytes())
    return seen.hexdigest()[:16]
