"""Where a model is: its folder or file, and an adapter that is to be merged into it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jmamba.files.adapters import Adapter, explain_adapter, is_adapter, read_adapter
from jmamba.files.errors import CheckpointError
from jmamba.files.hub import locate, locate_bare


class Found(NamedTuple):
    """Where a model is, and the adapter that is to be merged into it, if any."""

    place: Path
    adapter: Adapter | None = None


def find_place(
    path_or_id: str | os.PathLike,
    released: Iterable[str] | None,
    *,
    revision: str | None = None,
    base: str | os.PathLike | None = None,
    filename: str | None = None,
) -> Found:
    """Return the local place of a model, downloading it if need be.

    Args:
      path_or_id: file, folder or Hub id of a model, or of an adapter.
      released: files to look for on the Hub where there is no config.json; None if
        there must be one.
      revision: branch, tag or commit on the Hub.
      base: file, folder or Hub id of the model that an adapter was trained on.
      filename: which file of a folder or Hub repository.

    Raises:
      CheckpointError: it is not there; it is an adapter without a base, or there is a
        base and no adapter.
    """
    if released is None:
        place = locate(path_or_id, revision=revision)
    else:
        place = locate_bare(path_or_id, released, revision=revision, filename=filename)
    if not is_adapter(place):
        if base is not None:
            raise CheckpointError(
                f"{path_or_id} is no LoRA adapter (a folder with adapter_config.json "
                f"and no model), so there is nothing to add to the base {base}; leave "
                "the base out."
            )
        return Found(place)
    if base is None:
        raise explain_adapter(place)
    adapter = read_adapter(place)
    return find_place(base, released)._replace(adapter=adapter)
